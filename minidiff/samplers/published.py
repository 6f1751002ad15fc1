"""Multistep samplers with the weights that their papers print, in the loop of `multistep`.

Each rule is the published formula, evaluated on unit vectors: q_j is the j-th row of the identity, newest first, so
that the formula returns its weights.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from minidiff import arguments
from minidiff.denoiser import DenoiserLike
from minidiff.samplers.exponential import collocated, exponential
from minidiff.samplers.multistep import plan, run
from minidiff.samplers.phi import phi
from minidiff.samplers.state import Grid, State, begin

ADAMS_BASHFORTH = ((1.0,), (3 / 2, -1 / 2), (23 / 12, -16 / 12, 5 / 12), (55 / 24, -59 / 24, 37 / 24, -9 / 24))


def _order(grid: Grid, i: int, order: int) -> int:
    """How many values step i can use: no more than there are, and one where λ is infinite at an end of its nodes."""
    known = min(order, i + 1)
    while known > 1 and (math.isinf(grid.lam[i + 1]) or math.isinf(grid.lam[i - known + 1])):
        known -= 1
    return known


def _weights(formula: Tensor) -> tuple[float, ...]:
    return tuple(formula.tolist())


def _unit_vectors(n: int) -> tuple[Tensor, ...]:
    return torch.eye(n, dtype=torch.float64).unbind()


def dpmpp_2m(D: DenoiserLike, x: Tensor, times: Tensor) -> Iterator[State]:
    """DPM-Solver++(2M) (Lu et al. 2022b, algorithm 2): x_t = (σ_t/σ_s) x_s + α_t (1 − e^{−h}) (D_0 + (D_0 − D_1)/2r).

    h = λ_t − λ_s and r = h_before/h. Order 2 by one call of D a step; the first step, and one to σ = 0, are DDIM's.

    x: (B, *D) at times[0]; times: float64 (n + 1,). Raises what `begin` raises.
    """

    def rule(grid: Grid, i: int) -> tuple[float, ...]:
        h = grid.lam[i + 1] - grid.lam[i]
        known = _order(grid, i, 2)
        D_0, *older = _unit_vectors(known)
        slope = torch.zeros_like(D_0)
        if older:
            r = (grid.lam[i] - grid.lam[i - 1]) / h
            slope = (D_0 - older[0]) / r
        return _weights(grid.alpha[i + 1] * -math.expm1(-h) * (D_0 + slope / 2))

    grid = begin(D, x, times)
    return run(D, x, grid, plan(grid, rule))


def dpmpp_3m(
    D: DenoiserLike,
    x: Tensor,
    times: Tensor,
    *,
    second_difference: Literal["corrected", "released"] = "corrected",
    collocate: bool = True,
) -> Iterator[State]:
    """DPM-Solver++(3M): two divided differences of D in λ, integrated with φ_1, φ_2, φ_3.

    x_t = (σ_t/σ_s) x_s + α_t h (φ_1 D_0 + φ_2 D′ + φ_3 D″) with φ_k = φ_k(−h) of `phi`. With r_0, r_1 the two earlier
    steps over h: D′ = h times the slope at the newest node, and D″ = h² times the second derivative, which is twice the
    divided difference ((D_0 − D_1)/r_0 − (D_1 − D_2)/r_1)/(r_0 + r_1). The code released with the paper, and others
    after it, leave out the 2 ("released"), and have order 2 instead of 3.

    One call of D a step, and two more for a start by collocation (`exponential`); without it, as released, the order
    grows from 1 with the values known. A step to σ = 0 is DDIM's.

    x: (B, *D) at times[0]; times: float64 (n + 1,). Raises what `begin` raises, and ValueError for an unknown name.
    """
    if second_difference not in ("corrected", "released"):
        raise ValueError(f"second_difference must be 'corrected' or 'released', got {second_difference!r}")
    factor = 2.0 if second_difference == "corrected" else 1.0

    def rule(grid: Grid, i: int) -> tuple[float, ...]:
        lam, known = grid.lam, _order(grid, i, 3)
        h = lam[i + 1] - lam[i]
        D_0, *older = _unit_vectors(known)
        first, second = torch.zeros_like(D_0), torch.zeros_like(D_0)
        if known >= 2:
            r_0 = (lam[i] - lam[i - 1]) / h
            first = (D_0 - older[0]) / r_0
        if known == 3:
            r_1 = (lam[i - 1] - lam[i - 2]) / h
            difference = (first - (older[0] - older[1]) / r_1) / (r_0 + r_1)
            first, second = first + r_0 * difference, factor * difference
        total = -math.expm1(-h) * D_0  # h φ_1(−h), finite where h is not
        if known == 2:
            total = total - math.expm1(-h) / 2 * first  # the released code falls back on 2M, with ½ φ_1 for φ_2
        elif known == 3:
            total = total + h * (phi(2, -h) * first + phi(3, -h) * second)
        return _weights(grid.alpha[i + 1] * total)

    grid = begin(D, x, times)
    made = plan(grid, rule)
    if collocate and math.isfinite(grid.lam[0]):
        made = collocated(made, grid, 3)
    return run(D, x, grid, made)


def pndm(D: DenoiserLike, x: Tensor, times: Tensor, *, order: int = 4) -> Iterator[State]:
    """PLMS, which is PNDM without its Runge–Kutta start (Liu et al. 2022).

    Adams–Bashforth's classical weights on ε̂, put into DDIM's transfer:
    x_t = (α_t/α_s) x_s + (σ_t − α_t σ_s/α_s) ε̄, ε̄ = Σ_j b_j ε̂_j with the b of equal steps whatever the grid, so that
    the order of convergence is 2 for every `order` ≥ 2. The order grows from 1 with the values known.

    One call of D a step. x: (B, *D) at times[0]; times: float64 (n + 1,). Raises what `begin` raises, and ValueError
    unless 1 ≤ order ≤ 4 and α > 0 at times[0].
    """
    order = _between_1_and("order", order, 4)

    def rule(grid: Grid, i: int) -> tuple[float, ...]:
        a = grid.alpha[i + 1] / grid.alpha[i]
        ddim = grid.sigma[i + 1] - a * grid.sigma[i]
        return tuple(ddim * b for b in ADAMS_BASHFORTH[min(i + 1, order) - 1])

    grid = begin(D, x, times)
    return run(D, x, grid, plan(grid, rule, quantity="eps"))


def unipc(
    D: DenoiserLike,
    x: Tensor,
    times: Tensor,
    *,
    order: int = 2,
    corrector: bool = True,
    variant: Literal["bh1", "bh2"] = "bh2",
) -> Iterator[State]:
    """UniP-p, and UniPC-p with its corrector UniC-p (Zhao et al. 2023, section 3), predicting x_0.

    x_t = (σ_t/σ_s) x_s + α_t ((1 − e^{−h}) D_s + B Σ_m a_m (D_m − D_s)/r_m), r_m = (λ_m − λ_s)/h, where the a solve
    Σ_m r_m^{k−1} a_m = k! h φ_{k+1}(−h)/B for k = 1, 2, …; so B cancels. As released,
    UniP-2 and UniC-1 take a = ½ instead, and there B = h ("bh1") and B = 1 − e^{−h} ("bh2") differ. The corrector adds
    the new value, r = 1, and has order p + 1 at no further call; the last step is not corrected. The order grows from
    1 with the values known.

    One call of D a step. x: (B, *D) at times[0]; times: float64 (n + 1,). Raises what `begin` raises, and ValueError
    unless 1 ≤ order ≤ 4 and the variant is known.
    """
    order = _between_1_and("order", order, 4)
    if variant not in ("bh1", "bh2"):
        raise ValueError(f"variant must be 'bh1' or 'bh2', got {variant!r}")

    def rule(grid: Grid, i: int) -> tuple[float, ...]:
        known = _order(grid, i, order)
        return _unified(grid, i, list(range(i - 1, i - known, -1)), variant)

    def correction(grid: Grid, i: int) -> tuple[float, ...]:
        known = _order(grid, i, order)
        if math.isinf(grid.lam[i]):
            return ()
        *older, newest = _unified(grid, i, [*range(i - 1, i - known, -1), i + 1], variant)
        return (newest, *older)

    grid = begin(D, x, times)
    return run(D, x, grid, plan(grid, rule, correction if corrector else None))


def _unified(grid: Grid, i: int, others: list[int], variant: str) -> tuple[float, ...]:
    """The weights of D at node i and at the other nodes, in this order."""
    lam = grid.lam
    h = lam[i + 1] - lam[i]
    phi = -math.expm1(-h)
    D_s, *values = _unit_vectors(1 + len(others))
    total = phi * D_s
    if others:
        r = torch.tensor([(lam[m] - lam[i]) / h for m in others], dtype=torch.float64)
        B = h if variant == "bh1" else phi
        slopes = torch.stack([(value - D_s) / r_m for value, r_m in zip(values, r, strict=True)])
        total = total + B * _coefficients(r, h, B) @ slopes
    return _weights(grid.alpha[i + 1] * total)


def _coefficients(r: Tensor, h: float, B: float) -> Tensor:
    """a with Σ_m r_m^{k−1} a_m = k! h φ_{k+1}(−h)/B, k = 1, 2, …; ½ where there is one."""
    if len(r) == 1:
        return torch.full((1,), 0.5, dtype=torch.float64)
    moments = [math.factorial(k) * h * phi(k + 1, -h) / B for k in range(1, len(r) + 1)]
    powers = torch.stack([r**k for k in range(len(r))])
    return torch.linalg.solve(powers, torch.tensor(moments, dtype=torch.float64))


def deis(
    D: DenoiserLike,
    x: Tensor,
    times: Tensor,
    *,
    order: int = 2,
    variable: Literal["t", "r", "lam"] = "t",
    collocate: bool = True,
) -> Iterator[State]:
    """DEIS (Zhang & Chen 2023): ε̂ as a polynomial in t (tAB), r (ρAB) or λ, integrated exactly; `order` values.

    x_t = (α_t/α_s) x_s + α_t Σ_j ε̂_j ∫_{r_s}^{r_t} ℓ_j dr. It is `exponential` with quantity="eps".
    """
    return exponential(D, x, times, order=order, variable=variable, quantity="eps", collocate=collocate)


def _between_1_and(name: str, value: int, most: int) -> int:
    arguments.positive_integer(name, value)
    if value > most:
        raise ValueError(f"{name} must be at most {most}, got {value}")
    return value
