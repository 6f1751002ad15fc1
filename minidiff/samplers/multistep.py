"""One integral, many samplers: exponential integrators with exact weights.

In λ the probability-flow ODE has the exact solution
x_t = (σ_t/σ_s) x_s + α_t ∫_{λ_s}^{λ_t} e^{λ−λ_t} D(x_λ, λ) dλ.
Replacing D by the polynomial through its values at k nodes leaves integrals that are known in advance: the weights.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from minidiff import arguments
from minidiff.denoiser import DenoiserLike
from minidiff.samplers.state import Grid, State, add, begin, combine, scalars

Variable = Literal["lam", "cos"]


@functools.cache
def _gauss_legendre() -> tuple[Tensor, Tensor]:
    """Nodes and weights on [0, 1], exact for polynomials of degree 31."""
    from numpy.polynomial.legendre import leggauss

    nodes, weights = (torch.from_numpy(array) for array in leggauss(16))
    return (nodes + 1) / 2, weights / 2


def _coordinate(lam: Tensor, variable: Variable, sigma_data: float) -> Tensor:
    """The variable in which D is a polynomial: λ itself, or cos θ = 1/√(1 + (r/σ_data)²) with r = e^{−λ}."""
    return lam if variable == "lam" else (1 + (-lam).exp() ** 2 / sigma_data**2).rsqrt()


def integral_weights(
    lam_s: float, lam_t: float, nodes: list[float], variable: Variable = "lam", sigma_data: float = 1.0
) -> tuple[float, ...]:
    """w_j = ∫_{λ_s}^{λ_t} e^{λ−λ_t} ℓ_j(λ) dλ with ℓ_j the Lagrange basis on the nodes; one weight a node.

    nodes are values of λ; the basis is polynomial in λ or in cos θ. Gauss–Legendre quadrature on panels of length at
    most 1 in λ, so that no difference of large terms cancels in short steps. λ_s may be −∞; λ_t = +∞ (σ = 0) gives the
    value ℓ_j there.
    """
    at_nodes = _coordinate(torch.tensor(nodes, dtype=torch.float64), variable, sigma_data).tolist()
    if len(nodes) == 1:
        return (-math.expm1(lam_s - lam_t),)
    if lam_t == math.inf:
        points, measure = torch.tensor([math.inf], dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    else:
        length = min(lam_t - lam_s, 40.0)  # e^{−40} is below rounding
        panels = math.ceil(length)
        unit, weights = _gauss_legendre()
        z = ((torch.arange(panels, dtype=torch.float64)[:, None] + unit) / panels).flatten() * length
        points, measure = lam_t - length + z, (z - length).exp() * weights.repeat(panels) * (length / panels)
    u = _coordinate(points, variable, sigma_data)
    basis = []
    for j, u_j in enumerate(at_nodes):
        factors = [(u - u_m) / (u_j - u_m) for m, u_m in enumerate(at_nodes) if m != j]
        basis.append(float((functools.reduce(torch.mul, factors) * measure).sum()))
    return tuple(basis)


@dataclass(frozen=True)
class _Plan:
    """Everything a run needs: floats only. Step i goes from node i to node i + 1; weights are newest node first."""

    scale: list[float]
    predictor: list[tuple[float, ...]]
    corrector: list[tuple[float, ...]]  # the change of the weights by the new value of D, itself first; () is none
    start: int  # the first node inside the polynomials
    collocation: list[tuple[float, tuple[float, ...], tuple[float, ...]]]  # per start-up node: scale, hold, weights


def _plan(grid: Grid, order: int, variable: Variable, sigma_data: float, corrector: bool, collocate: bool) -> _Plan:
    lam, steps = grid.lam, len(grid.steps)
    start = 1 if variable == "lam" and math.isinf(lam[0]) else 0

    def weights(s: int, t: int, nodes: list[int]) -> tuple[float, ...]:
        values = integral_weights(lam[s], lam[t], [lam[n] for n in nodes], variable, sigma_data)
        return tuple(grid.alpha[t] * w for w in values)

    def scale(s: int, t: int) -> float:
        return grid.sigma[t] / grid.sigma[s]

    predictor, corrected = [], []
    for i in grid.steps:
        nodes = list(range(i, max(start, i - order + 1) - 1, -1)) or [i]
        if variable == "lam" and lam[i + 1] == math.inf:
            nodes = [i]  # a polynomial in λ cannot be integrated to λ = ∞: the last step is of first order
        predictor.append(weights(i, i + 1, nodes))
        if corrector and start <= i < steps - 1:
            both = zip(weights(i, i + 1, [i + 1, *nodes]), (0.0, *predictor[i]), strict=True)
            corrected.append(tuple(new - old for new, old in both))
        else:
            corrected.append(())
    evaluated = steps if grid.sigma[-1] == 0 else steps + 1  # D is never asked at σ = 0
    known = min(order, evaluated - start)
    collocated = list(range(start, start + known)) if collocate and known >= 3 else []
    collocation = [
        (scale(start, n), weights(start, n, [start]), weights(start, n, collocated[::-1])) for n in collocated[1:]
    ]
    return _Plan([scale(i, i + 1) for i in grid.steps], predictor, corrected, start, collocation)


def exponential(
    D: DenoiserLike,
    x: Tensor,
    times: Tensor,
    *,
    order: int = 2,
    variable: Variable = "lam",
    corrector: bool = False,
) -> Iterator[State]:
    """Multistep exponential integrator: D is the polynomial through its last `order` values, integrated exactly.

    x_t = (σ_t/σ_s) x_s + α_t Σ_j w_j D_j, w_j = ∫_{λ_s}^{λ_t} e^{λ−λ_t} ℓ_j dλ. In λ, order 1 is DDIM and orders 2, 3
    the 2M and 3M families (Lu et al. 2022) with exact weights. The corrector repeats each step but the last with the
    new value of D as one more node before going on, one order more at no further call (Zhao et al. 2023).
    variable="cos" takes D as a polynomial in cos θ, θ = arctan(r/σ_data), in which it is smooth up to σ = 0 and α = 0.

    One call of D a step. Orders 3 and 4 start by collocation: D is held on the first k nodes, integrated, and
    re-evaluated once, so that the start has the order of the rest; this costs k − 1 extra calls. Where λ is infinite, a
    polynomial in λ leaves the node out, and a step to σ = 0 is x = α x̂_0.

    x: (B, *D) at times[0]; times: float64 (n + 1,). Raises what `begin` raises, and ValueError unless 1 ≤ order ≤ 4 and
    variable is "lam" or "cos".
    """
    arguments.positive_integer("order", order)
    if order > 4:
        raise ValueError(f"order must be at most 4, got {order}")
    if variable not in ("lam", "cos"):
        raise ValueError(f"variable must be 'lam' or 'cos', got {variable!r}")
    grid = begin(D, x, times)
    return solve(D, x, grid, order, variable, corrector, collocate=True)


def solve(
    D: DenoiserLike, x: Tensor, grid: Grid, order: int, variable: Variable, corrector: bool, collocate: bool
) -> Iterator[State]:
    """`exponential` on a grid and with arguments known to be good; without collocation the order ramps up."""
    return _run(D, x, grid.times, _plan(grid, order, variable, D.sigma_data, corrector, collocate), order)


def _run(D: DenoiserLike, x: Tensor, times: tuple[Tensor, ...], plan: _Plan, order: int) -> Iterator[State]:
    yield State(times[0], x, None)
    scale = scalars(plan.scale, x)
    history: tuple[Tensor, ...] = ()
    correction: tuple[float, ...] = ()
    i, end = 0, len(times) - 1
    while i < end:
        if i == plan.start and plan.collocation:
            later = times[i + 1 : i + 1 + len(plan.collocation)]
            path, values = _collocate(D, x, times[i], later, plan)
            for t, x, x0 in zip(later, path, values, strict=False):
                yield State(t, x, x0)
            i += len(later)
            if i == end:
                return
            *values, x0 = values
            history = tuple(values[::-1])
        else:
            x0 = D(x, times[i])
        if correction:
            x = add(x, correction, (x0, *history))
            yield State(times[i], x, history[0])
        history = (x0, *history)[:order]
        x, correction = combine(scale[i], x, plan.predictor[i], history), plan.corrector[i]
        i += 1
        if not correction:
            yield State(times[i], x, x0)


def _collocate(
    D: DenoiserLike, x: Tensor, s: Tensor, later: tuple[Tensor, ...], plan: _Plan
) -> tuple[list[Tensor], list[Tensor]]:
    """x at the later nodes and D at all of them: D held, integrated, re-evaluated once, integrated again."""
    scales = scalars([scale for scale, _, _ in plan.collocation], x)
    values = [D(x, s)]
    values += [
        D(combine(scale, x, hold, (values[0],)), t)
        for t, scale, (_, hold, _) in zip(later, scales, plan.collocation, strict=True)
    ]

    def integrated() -> list[Tensor]:
        newest_first = tuple(reversed(values))
        return [
            combine(scale, x, weights, newest_first)
            for scale, (_, _, weights) in zip(scales, plan.collocation, strict=True)
        ]

    values = [values[0], *(D(y, t) for y, t in zip(integrated(), later, strict=True))]
    return integrated(), values
