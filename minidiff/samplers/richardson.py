"""Richardson extrapolation: from runs with coarser and finer steps, guess the run with infinitely many.

A method of order p ends at x(h) = x + C h^p + C′ h^{p+1} + …, h the length of its steps. Two runs, with h and with 2 h,
tell C, and the right mixture of the two is free of it (Richardson 1911).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import pairwise

from torch import Tensor

from minidiff import arguments
from minidiff.denoiser import Combined, DenoiserLike
from minidiff.samplers.state import Grid, State, begin

Method = Callable[[DenoiserLike, Tensor, Tensor], Iterator[State]]


class _SharedStart(Combined):
    """D that answers from memory when it is asked its first question again: all runs start at the same (x, t)."""

    def __init__(self, D: DenoiserLike) -> None:
        super().__init__(D)
        self.D = D
        self.first: tuple[Tensor, float, Tensor] | None = None

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        if self.first is None:
            self.first = x, float(t), self.D(x, t)
        elif x is not self.first[0] or float(t) != self.first[1]:
            return self.D(x, t)
        return self.first[2]


def romberg_weights(order: int, levels: int) -> tuple[float, ...]:
    """w with Σ_l w_l = 1 and Σ_l w_l 2^{l q} = 0 for q = order, …, order + levels − 2; finest grid first.

    They are the coefficients of Π_q (2^q − S)/(2^q − 1), S the shift to the grid of double steps. For levels = 2 they
    are 2^p/(2^p − 1) and −1/(2^p − 1). Raises ValueError unless both are positive integers.
    """
    arguments.positive_integer("order", order)
    arguments.positive_integer("levels", levels)
    weights = [1.0]
    for q in range(order, order + levels - 1):
        factor = 2.0**q
        weights = [
            (factor * here - coarser) / (factor - 1)
            for here, coarser in zip([*weights, 0.0], [0.0, *weights], strict=True)
        ]
    return tuple(weights)


def richardson(
    method: Method, D: DenoiserLike, x: Tensor, times: Tensor, *, order: int = 1, levels: int = 2
) -> Iterator[State]:
    """Runs of a deterministic `method` on `times`, on every second time, every fourth, …, combined; `levels` grids.

    x* = (2^p x_h − x_{2h})/(2^p − 1) for p = `order` of the method and two levels: order p + 1. More levels are
    Romberg's scheme, order p + levels − 1 where 2^{levels−1} divides the number of steps. It needs times that are a
    smooth function of i/n. The states are at the times that all grids share, the ends among them; State.x0 is that of
    the finest run. The last time belongs to every grid, so any number of steps will do; grids that coincide, as with
    one step, are one.

    The runs share their first call. A method with one call a step makes n + ⌈n/2⌉ − 1 calls for n ≥ 2 steps and two
    levels, 1 for n = 1. They are independent otherwise: in parallel, the depth is that of the finest run.
    x: (B, *D) at times[0]; times: float64 (n + 1,). Raises what `begin`, `romberg_weights` and the method raise.
    """
    arguments.positive_integer("levels", levels)
    begin(D, x, times)
    steps = len(times) - 1
    nodes = [[0]]  # the start alone, which the finest grid replaces
    for level in range(levels):
        grid = [*range(0, steps, 2**level), steps]
        if grid != nodes[-1]:
            nodes.append(grid)
    nodes = nodes[1:]
    weights = romberg_weights(order, len(nodes))
    shared = _SharedStart(D)
    return _lockstep([method(shared, x, times[grid]) for grid in nodes], nodes, weights)


def _lockstep(runs: list[Iterator[State]], nodes: list[list[int]], weights: tuple[float, ...]) -> Iterator[State]:
    start, *_ = [next(run) for run in runs]
    yield start
    for before, shared in pairwise(nodes[-1]):
        steps = [sum(before < node <= shared for node in grid) for grid in nodes]
        ends = [_advance(run, count) for run, count in zip(runs, steps, strict=True)]
        yield State(ends[0].t, _mixed(weights, [state.x for state in ends]), ends[0].x0)


def _advance(run: Iterator[State], steps: int) -> State:
    for _ in range(steps):
        state = next(run)
    return state


def _mixed(weights: tuple[float, ...], values: list[Tensor]) -> Tensor:
    total = values[0] * weights[0]
    for weight, value in zip(weights[1:], values[1:], strict=True):
        total = total.add(value, alpha=weight)
    return total


def local_richardson(method: Method, D: DenoiserLike, x: Tensor, times: Tensor, *, order: int = 1) -> Iterator[State]:
    """Extrapolate every two steps of a single-step `method`, and go on from the result (RX-DPM, Choi et al. 2025).

    From one start take the two steps, h_1 and h_2, and the one step h_1 + h_2 that replaces them:
    x* = (x_two − ρ x_one)/(1 − ρ), ρ = (h_1^{p+1} + h_2^{p+1})/(h_1 + h_2)^{p+1}, order p + 1 on any grid. The h are
    differences of the angle arctan(r/σ_data), finite at both ends of every process. The long step shares its first
    call with the short ones: a method with one call a step makes n calls for n steps. An odd step at the end is the
    method's own. States are at every second time and the last.

    The method must be deterministic and keep nothing from step to step: ddim, euler, heun, dpm_solver.
    x: (B, *D) at times[0]; times: float64 (n + 1,). Raises what `begin` raises, and ValueError for order < 1 and for
    sigma_data ≤ 0.
    """
    arguments.positive_integer("order", order)
    grid = begin(D, x, times)
    arguments.real("the sigma_data of D", D.sigma_data, 1e-12)
    angle = [math.atan2(s, a * D.sigma_data) for a, s in zip(grid.alpha, grid.sigma, strict=True)]
    return _local(method, D, x, times, grid, angle, order)


def _local(
    method: Method, D: DenoiserLike, x: Tensor, times: Tensor, grid: Grid, angle: list[float], order: int
) -> Iterator[State]:
    yield State(grid.times[0], x, None)
    for i in range(0, len(times) - 1, 2):
        shared = _SharedStart(D)
        *_, state = method(shared, x, times[i : i + 3])
        if i + 2 < len(times):
            *_, coarse = method(shared, x, times[[i, i + 2]])
            first, second = angle[i] - angle[i + 1], angle[i + 1] - angle[i + 2]
            rho = (first ** (order + 1) + second ** (order + 1)) / (first + second) ** (order + 1)
            state = state._replace(x=_mixed((1 / (1 - rho), -rho / (1 - rho)), [state.x, coarse.x]))
        x = state.x
        yield state
