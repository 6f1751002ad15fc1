"""Classical Runge–Kutta methods in t on the probability-flow ODE dx/dt = α′ x̂_0 + σ′ ε̂ (Song et al. 2021, eq. 13)."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor

from minidiff.denoiser import DenoiserLike
from minidiff.samplers.state import Grid, State, begin, combine, scalars


def _slopes(D: DenoiserLike, grid: Grid) -> list[tuple[float, float]]:
    """(p, q) at each time with dx/dt = p x + q x̂_0: p = σ′/σ, q = α′ − α σ′/σ; NaN at σ = 0, where none is needed."""
    alpha_rate, sigma_rate = D.process.rates(torch.stack(grid.times))
    p = sigma_rate / torch.tensor(grid.sigma, dtype=torch.float64)
    q = alpha_rate - torch.tensor(grid.alpha, dtype=torch.float64) * p
    return list(zip(p.tolist(), q.tolist(), strict=True))


def euler(D: DenoiserLike, x: Tensor, times: Tensor) -> Iterator[State]:
    """Euler: x_t = x_s + (t − s) (dx/dt)_s, order 1; one call of D a step.

    x: (B, *D) at times[0]; times: float64 (n + 1,). Raises what `begin` raises.
    """
    grid = begin(D, x, times)
    return _euler(D, x, grid, _slopes(D, grid))


def _euler(D: DenoiserLike, x: Tensor, grid: Grid, slopes: list[tuple[float, float]]) -> Iterator[State]:
    yield State(grid.times[0], x, None)
    steps = [float(t - s) for s, t in pairwise(grid.times)]
    scale = scalars([1 + step * p for step, (p, _) in zip(steps, slopes, strict=False)], x)
    for i in grid.steps:
        s, t = grid.times[i], grid.times[i + 1]
        x0 = D(x, s)
        x = combine(scale[i], x, (steps[i] * slopes[i][1],), (x0,))
        yield State(t, x, x0)


def heun(D: DenoiserLike, x: Tensor, times: Tensor) -> Iterator[State]:
    """Heun: an Euler step to t, then the mean of the slopes at s and t; order 2 (Karras et al. 2022, algorithm 1).

    Two calls of D a step, one in a step that ends at σ_t = 0, which is Euler's; so n steps to σ = 0 cost 2 n − 1.
    State.x0 is the prediction at the start of the step.

    x: (B, *D) at times[0]; times: float64 (n + 1,). Raises what `begin` raises.
    """
    grid = begin(D, x, times)
    return _heun(D, x, grid, _slopes(D, grid))


def _heun(D: DenoiserLike, x: Tensor, grid: Grid, slopes: list[tuple[float, float]]) -> Iterator[State]:
    yield State(grid.times[0], x, None)
    steps = [float(t - s) for s, t in pairwise(grid.times)]
    scale = scalars([1 + step * p for step, (p, _) in zip(steps, slopes, strict=False)], x)
    half_scale = scalars([1 + step / 2 * p for step, (p, _) in zip(steps, slopes, strict=False)], x)
    for i in grid.steps:
        s, t, half = grid.times[i], grid.times[i + 1], steps[i] / 2
        (_, q_s), (p_t, q_t) = slopes[i], slopes[i + 1]
        x0 = D(x, s)
        ahead = combine(scale[i], x, (steps[i] * q_s,), (x0,))
        if grid.sigma[i + 1] > 0:
            x = combine(half_scale[i], x, (half * q_s, half * p_t, half * q_t), (x0, ahead, D(ahead, t)))
        else:
            x = ahead
        yield State(t, x, x0)
