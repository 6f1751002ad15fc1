"""Exponential integrators with exact weights: one integral, and four choices.

In λ the probability-flow ODE has the exact solutions
x_t = (σ_t/σ_s) x_s + α_t ∫_{λ_s}^{λ_t} e^{λ−λ_t} D dλ = (α_t/α_s) x_s − α_t ∫_{λ_s}^{λ_t} e^{−λ} ε̂ dλ.
Replacing D or ε̂ by the polynomial through its values at k nodes, in a variable of one's choice, leaves integrals that
are known in advance: the weights.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator
from typing import Literal, get_args

import torch
from torch import Tensor

from minidiff import arguments
from minidiff.denoiser import DenoiserLike
from minidiff.process import Process
from minidiff.samplers.multistep import Plan, Quantity, plan, run, transfer
from minidiff.samplers.state import Grid, State, begin

Variable = Literal["lam", "cos", "r", "t"]
Coordinate = Callable[[Tensor], Tensor]
FAR = 40.0  # in λ: e^{−40} is below rounding


@functools.cache
def _gauss_legendre() -> tuple[Tensor, Tensor]:
    """Nodes and weights on [0, 1], exact for polynomials of degree 31."""
    from numpy.polynomial.legendre import leggauss

    nodes, weights = (torch.from_numpy(array) for array in leggauss(16))
    return (nodes + 1) / 2, weights / 2


def coordinate(variable: Variable, process: Process, scale: float) -> Coordinate:
    """λ ↦ the variable in which the polynomial is one: λ, cos θ = 1/√(1 + (r/scale)²), r = e^{−λ}, or t."""
    functions: dict[str, Coordinate] = {
        "lam": lambda lam: lam,
        "cos": lambda lam: (1 + (-lam).exp() ** 2 / scale**2).rsqrt(),
        "r": lambda lam: (-lam).exp(),
        "t": process.time,
    }
    return functions[variable]


def integral_weights(
    lam_s: float,
    lam_t: float,
    nodes: list[float],
    of_lam: Coordinate = lambda lam: lam,
    quantity: Quantity = "x0",
    rate: float = 1.0,
) -> tuple[float, ...]:
    """w_j = ∫_{λ_s}^{λ_t} k(λ) ℓ_j dλ with k = κ e^{κ(λ−λ_t)}, κ = rate, for D and −e^{−λ} for ε̂; one weight a node.

    nodes are values of λ and ℓ_j is the Lagrange basis on them, polynomial in of_lam(λ). Gauss–Legendre quadrature on
    panels of length at most 1 in λ, so that no difference of large terms cancels in short steps. For D, λ_s may be −∞,
    and λ_t = +∞ (σ = 0) gives the value ℓ_j there. Raises ValueError where two nodes have the same of_lam, as those
    with r < 1e-8 σ_data have in cos θ.
    """
    if len(nodes) == 1:
        return (-math.expm1(rate * (lam_s - lam_t)) if quantity == "x0" else math.exp(-lam_t) - math.exp(-lam_s),)
    at_nodes = of_lam(torch.tensor(nodes, dtype=torch.float64)).tolist()
    if len(set(at_nodes)) < len(at_nodes):
        raise ValueError(f"nodes must differ in the variable, got λ = {nodes} at {at_nodes}: use fewer steps, or λ")
    if quantity == "x0" and lam_t == math.inf:
        points, measure = torch.tensor([math.inf], dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    else:
        length = min(lam_t - lam_s, FAR)
        panels = math.ceil(length)
        unit, weights = _gauss_legendre()
        z = ((torch.arange(panels, dtype=torch.float64)[:, None] + unit) / panels).flatten() * length
        points = lam_t - length + z if quantity == "x0" else lam_s + z
        kernel = rate * (rate * (z - length)).exp() if quantity == "x0" else -(-points).exp()
        measure = kernel * weights.repeat(panels) * (length / panels)
    u = of_lam(points)
    basis = []
    for j, u_j in enumerate(at_nodes):
        factors = [(u - u_m) / (u_j - u_m) for m, u_m in enumerate(at_nodes) if m != j]
        basis.append(float((functools.reduce(torch.mul, factors) * measure).sum()))
    return tuple(basis)


def exponential(
    D: DenoiserLike,
    x: Tensor,
    times: Tensor,
    *,
    order: int = 2,
    variable: Variable = "lam",
    quantity: Quantity = "x0",
    corrector: bool = False,
    collocate: bool = True,
) -> Iterator[State]:
    """Multistep exponential integrator: D or ε̂ is the polynomial through its last `order` values, integrated exactly.

    x_t = (σ_t/σ_s) x_s + α_t Σ_j w_j D_j, w_j = ∫_{λ_s}^{λ_t} e^{λ−λ_t} ℓ_j dλ. In λ, order 1 is DDIM and orders 2, 3
    the 2M and 3M families (Lu et al. 2022) with exact weights. The corrector repeats each step but the last with the
    new value as one more node before going on, one order more at no further call (Zhao et al. 2023).
    variable="cos" takes D as a polynomial in cos θ, θ = arctan(r/σ_data), in which it is smooth up to σ = 0 and α = 0.
    quantity="eps" uses ε̂: x_t = (α_t/α_s) x_s + α_t Σ_j w_j ε̂_j, w_j = −∫ e^{−λ} ℓ_j dλ, the integral of DEIS (Zhang &
    Chen 2023), whose variables are "t", "r" and "lam".

    One call of D a step. Orders 3 and 4 start by collocation: the quantity is held on the first k nodes, integrated,
    and re-evaluated once, so that the start has the order of the rest; this costs k − 1 extra calls. With
    collocate=False the order ramps up with the values known instead, and the whole run has order 2. Where λ is
    infinite, a polynomial in λ leaves the node out, and a step to σ = 0 is of first order.

    x: (B, *D) at times[0]; times: float64 (n + 1,). Raises what `begin` raises, and ValueError unless 1 ≤ order ≤ 4 and
    variable and quantity are known, for ε̂ where α = 0, and for cos θ unless sigma_data > 0.
    """
    arguments.positive_integer("order", order)
    if order > 4:
        raise ValueError(f"order must be at most 4, got {order}")
    if variable not in get_args(Variable):
        raise ValueError(f"variable must be among {get_args(Variable)}, got {variable!r}")
    if quantity not in get_args(Quantity):
        raise ValueError(f"quantity must be among {get_args(Quantity)}, got {quantity!r}")
    grid = begin(D, x, times)
    if variable == "cos":
        arguments.real("the sigma_data of D", D.sigma_data, 1e-12)
    return solve(D, x, grid, order, variable, corrector, collocate, quantity)


def solve(
    D: DenoiserLike,
    x: Tensor,
    grid: Grid,
    order: int,
    variable: Variable,
    corrector: bool,
    collocate: bool,
    quantity: Quantity = "x0",
    scale: float | None = None,
) -> Iterator[State]:
    """`exponential` on a grid and with arguments known to be good; without collocation the order ramps up.

    scale: that of cos θ, σ_data if None.
    """
    of_lam = coordinate(variable, D.process, scale or D.sigma_data)
    start = 1 if math.isinf(grid.lam[0]) and variable in ("lam", "r") else 0
    made = exact_plan(grid, order, variable, of_lam, quantity, corrector, start)
    return run(D, x, grid, collocated(made, grid, order, of_lam, start) if collocate else made)


def exact_plan(
    grid: Grid,
    order: int,
    variable: Variable,
    of_lam: Coordinate,
    quantity: Quantity,
    corrector: bool,
    start: int = 0,
    rate: float = 1.0,
) -> Plan:
    """Exact weights on the last `order` nodes from node `start` on, and on the new one too with a corrector."""

    def weights(s: int, t: int, nodes: list[int]) -> tuple[float, ...]:
        exact = integral_weights(grid.lam[s], grid.lam[t], [grid.lam[n] for n in nodes], of_lam, quantity, rate)
        return tuple(grid.alpha[t] * w for w in exact)

    def nodes(i: int) -> list[int]:
        if variable == "lam" and grid.lam[i + 1] == math.inf:
            return [i]  # a polynomial in λ cannot be integrated to λ = ∞: the last step is of first order
        return list(range(i, max(start, i - order + 1) - 1, -1)) or [i]

    return plan(
        grid,
        lambda grid, i: weights(i, i + 1, nodes(i)),
        (lambda grid, i: weights(i, i + 1, [i + 1, *nodes(i)]) if i >= start else ()) if corrector else None,
        quantity,
    )


def collocated(plan: Plan, grid: Grid, order: int, of_lam: Coordinate = lambda lam: lam, start: int = 0) -> Plan:
    """The plan with a start by collocation on the first `order` nodes after `start`; as it is below order 3."""
    evaluated = len(grid.steps) + (grid.sigma[-1] > 0)  # D is never asked at σ = 0
    nodes = list(range(start, start + min(order, evaluated - start)))
    if len(nodes) < 3:
        return plan

    def weights(n: int, known: list[int]) -> tuple[float, ...]:
        lams = [grid.lam[m] for m in known]
        exact = integral_weights(grid.lam[start], grid.lam[n], lams, of_lam, plan.quantity)
        return tuple(grid.alpha[n] * w for w in exact)

    collocation = [
        (transfer(grid, start, n, plan.quantity), weights(n, [start]), weights(n, nodes[::-1])) for n in nodes[1:]
    ]
    return dataclasses.replace(plan, start=start, collocation=collocation)
