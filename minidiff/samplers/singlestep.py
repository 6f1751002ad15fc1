"""Single-step exponential Runge–Kutta methods: all values of a step lie inside it, so nothing is remembered."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from minidiff import arguments
from minidiff.denoiser import DenoiserLike
from minidiff.samplers.multistep import Quantity, quantity_of, transfer
from minidiff.samplers.phi import phi
from minidiff.samplers.state import Grid, State, begin, combine, scalars


class _Stages(NamedTuple):
    """One step: its inner nodes and its end as a grid, what is left of x_s at each, and the weights of the values."""

    grid: Grid
    scale: list[float]
    weights: list[tuple[float, ...]]


def _expansion(order: int, quantity: Quantity, h: float) -> list[tuple[float, tuple[float, ...]]]:
    """(c, w): x at λ_s + c h is the transfer of x_s plus Σ_j w_j q_j, in units of α for x̂_0 and of σ for ε̂.

    e(c) = 1 − e^{−ch} for x̂_0 and 1 − e^{ch} for ε̂ integrates a constant, s(c) a slope of 1/(ch).
    """
    sign = -1 if quantity == "x0" else 1

    def e(c: float) -> float:
        return -math.expm1(sign * c * h)

    def s(c: float) -> float:
        return -sign * c * h * phi(2, sign * c * h)

    if order == 1:
        return [(1, (e(1),))]
    if order == 2:
        return [(1 / 2, (e(1 / 2),)), (1, (0.0, e(1)))]
    two_thirds, end = 2 * s(2 / 3), 3 / 2 * s(1)
    return [(1 / 3, (e(1 / 3),)), (2 / 3, (e(2 / 3) - two_thirds, two_thirds)), (1, (e(1) - end, 0.0, end))]


def dpm_solver(
    D: DenoiserLike, x: Tensor, times: Tensor, *, order: int = 2, quantity: Quantity = "eps"
) -> Iterator[State]:
    """DPM-Solver-1, -2 and -3, or DPM-Solver++(1S), (2S) and (3S): a Taylor expansion in λ inside each step.

    With quantity="eps" (Lu et al. 2022, eq. 3.7, algorithms 1 and 2): x_t = (α_t/α_s) x_s − σ_t (e^h − 1) ε̂_s − …; with
    quantity="x0" (Lu et al. 2022b, algorithm 1): x_t = (σ_t/σ_s) x_s + α_t (1 − e^{−h}) D_s + …. The inner stages lie
    at λ_s + h/2 for order 2, at λ_s + h/3 and λ_s + 2h/3 for order 3. `order` calls of D a step; order 1 is DDIM, and
    so is a step from α = 0 or to σ = 0, with one call.

    x: (B, *D) at times[0]; times: float64 (n + 1,). State.x0 is the prediction at the start of the step. Raises what
    `begin` raises, and ValueError unless 1 ≤ order ≤ 3, and for ε̂ where α = 0.
    """
    arguments.positive_integer("order", order)
    if order > 3:
        raise ValueError(f"order must be at most 3, got {order}")
    if quantity not in ("x0", "eps"):
        raise ValueError(f"quantity must be 'x0' or 'eps', got {quantity!r}")
    grid = begin(D, x, times)
    return _run(D, x, grid, [_stages(D, grid, i, order, quantity) for i in grid.steps], quantity)


def dpmpp_2s(D: DenoiserLike, x: Tensor, times: Tensor) -> Iterator[State]:
    """DPM-Solver++(2S) (Lu et al. 2022b, algorithm 1), with one stage in the middle of the step; two calls a step.

    u = (σ_m/σ_s) x_s + α_m (1 − e^{−h/2}) D_s, then x_t = (σ_t/σ_s) x_s + α_t (1 − e^{−h}) D(u). It is
    `dpm_solver` with order=2 and quantity="x0", and raises what that raises.
    """
    return dpm_solver(D, x, times, order=2, quantity="x0")


def _stages(D: DenoiserLike, grid: Grid, i: int, order: int, quantity: Quantity) -> _Stages:
    h = grid.lam[i + 1] - grid.lam[i]
    if order == 1 or math.isinf(h):
        step = grid.part(i, i + 2)
        scale = transfer(step, 0, 1, quantity)
        size = step.alpha if quantity == "x0" else step.sigma
        return _Stages(step, [scale], [(size[1] - scale * size[0],)])
    expansion = _expansion(order, quantity, h)
    inner = torch.tensor([grid.lam[i] + c * h for c, _ in expansion[:-1]], dtype=torch.float64)
    times = torch.stack([grid.times[i], *D.process.time(inner).unbind(), grid.times[i + 1]])
    step = Grid.of(D.process, times)
    size = step.alpha if quantity == "x0" else step.sigma
    return _Stages(
        step,
        [transfer(step, 0, n, quantity) for n in range(1, len(times))],
        [tuple(size[n] * w for w in weights) for n, (_, weights) in enumerate(expansion, start=1)],
    )


def _run(D: DenoiserLike, x: Tensor, grid: Grid, steps: list[_Stages], quantity: Quantity) -> Iterator[State]:
    yield State(grid.times[0], x, None)
    scales = [scalars(step.scale, x) for step in steps]
    for step, scale in zip(steps, scales, strict=True):
        value = quantity_of(step.grid, x, quantity)
        start, u, predictions, values = x, x, [], []
        for n, (left, weights) in enumerate(zip(scale, step.weights, strict=True)):
            predictions.append(D(u, step.grid.times[n]))
            values.append(value(n, u, predictions[-1]))
            u = combine(left, start, weights, tuple(values))
        x = u
        yield State(step.grid.times[-1], x, predictions[0])
