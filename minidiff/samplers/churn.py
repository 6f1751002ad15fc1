"""Noise that is put back: EDM's sampler with churn, and Restart."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from minidiff import arguments
from minidiff.denoiser import DenoiserLike
from minidiff.noise import Generators, standard_normal
from minidiff.samplers.runge_kutta import heun
from minidiff.samplers.state import Grid, State, begin, combine, refuse_coupled, scalars
from minidiff.times import check_times

MOST_CHURN = math.sqrt(2) - 1  # no more noise in one step than there is already (Karras et al. 2022, algorithm 2)


def edm(
    D: DenoiserLike,
    x: Tensor,
    times: Tensor,
    *,
    churn: float = 0.0,
    churn_range: tuple[float, float] = (0.0, math.inf),
    noise: float = 1.0,
    generator: Generators = None,
) -> Iterator[State]:
    """EDM's sampler (Karras et al. 2022, algorithm 2): Heun's method in r = σ/α on y = x/α, dy/dr = (y − D)/r.

    With churn > 0 each of the n steps first raises r to r̂ = (1 + γ) r, γ = min(churn/n, √2 − 1), by fresh noise
    √(r̂² − r²) · noise, where r lies in churn_range; r̂ is at most r at t = 1. Order 2 without churn. Two calls of D a
    step, one in a step that begins at α = 0 or ends at σ = 0, which is DDIM's.

    x: (B, *D) at times[0]; times: float64 (n + 1,). State.x0 is the prediction at the start of the step. Raises what
    `begin` raises, and ValueError for churn < 0, noise ≤ 0, and churn > 0 with a coupled denoiser.
    """
    arguments.real("churn", churn, 0.0)
    arguments.real("noise", noise, 1e-12)
    if churn > 0:
        refuse_coupled(D, "edm with churn > 0")
    grid = begin(D, x, times)
    gamma = min(churn / len(grid.steps), MOST_CHURN)
    return _edm(D, x, grid, _raised(D, grid, gamma, churn_range), noise, generator)


def _raised(D: DenoiserLike, grid: Grid, gamma: float, churn_range: tuple[float, float]) -> Grid:
    """The times t̂ at which the steps begin: those with r̂ = (1 + γ) r."""
    if gamma == 0:
        return grid
    most = -float(D.process.lam(torch.ones((), dtype=torch.float64)))
    times = []
    for t, lam in zip(grid.times, grid.lam, strict=True):
        log_r = -lam
        inside = math.isfinite(lam) and churn_range[0] <= math.exp(log_r) <= churn_range[1]
        raised = min(log_r + math.log1p(gamma), most) if inside else log_r
        times.append(D.process.time(torch.tensor(-raised, dtype=torch.float64)) if raised > log_r else t)
    return Grid.of(D.process, torch.stack(times))


def _edm(D: DenoiserLike, x: Tensor, grid: Grid, raised: Grid, noise: float, generator: Generators) -> Iterator[State]:
    yield State(grid.times[0], x, None)
    for i in grid.steps:
        s, alpha_s, sigma_s = raised.times[i], raised.alpha[i], raised.sigma[i]
        t, alpha_t, sigma_t = grid.times[i + 1], grid.alpha[i + 1], grid.sigma[i + 1]
        if raised.lam[i] < grid.lam[i]:
            ratio = alpha_s / grid.alpha[i]
            extra = math.sqrt(sigma_s**2 - (ratio * grid.sigma[i]) ** 2)
            x = x * ratio
            x.add_(standard_normal(x.shape, generator, x.dtype, x.device), alpha=noise * extra)
        # y_t = y + (r_t − r_s) (y − D)/r_s, and for Heun half of this and half of the slope at t.
        a, half = scalars([sigma_t / sigma_s, (alpha_t / alpha_s + sigma_t / sigma_s) / 2 if alpha_s else 0.0], x)
        x0 = D(x, s)
        ahead = combine(a, x, (alpha_t - sigma_t / sigma_s * alpha_s,), (x0,))
        if sigma_t > 0 and alpha_s > 0:
            r_s, r_t = sigma_s / alpha_s, sigma_t / alpha_t
            slope = (r_t - r_s) / 2
            x = combine(
                half, x, (-alpha_t * slope / r_s, slope / r_t, -alpha_t * slope / r_t), (x0, ahead, D(ahead, t))
            )
        else:
            x = ahead
        yield State(t, x, x0)


def restart(
    D: DenoiserLike,
    x: Tensor,
    times: Tensor,
    *,
    interval: Tensor,
    repeats: int = 1,
    method: Callable[[DenoiserLike, Tensor, Tensor], Iterator[State]] = heun,
    generator: Generators = None,
) -> Iterator[State]:
    """Restart (Xu et al. 2023): at the end of an interval go back up by noise, and solve it again.

    `method` runs along `times`. On arriving at b = interval[-1], `repeats` times:
    x ← (α_a/α_b) x + α_a √(r_a² − r_b²) z takes x up to a = interval[0] by the forward process, and `method` brings it
    back along `interval`. Errors made before are forgotten in part, since the noise mixes what it meets; the errors of
    `method` inside the interval are made anew. The states visit the interval again and again: times go up and down.

    times and interval: float64, strictly decreasing; interval[-1] is one of `times`. Raises what `begin` raises, and
    ValueError for an interval that ends elsewhere, repeats < 1, or a coupled denoiser.
    """
    refuse_coupled(D, "restart")
    begin(D, x, times)
    check_times(interval)
    arguments.positive_integer("repeats", repeats)
    bottom = (times == interval[-1]).nonzero()
    if not len(bottom):
        raise ValueError(f"interval must end at one of times, got {float(interval[-1])} for times {times.tolist()}")
    return _restart(D, x, times, int(bottom[0]), Grid.of(D.process, interval), repeats, method, generator)


def _restart(
    D: DenoiserLike,
    x: Tensor,
    times: Tensor,
    bottom: int,
    interval: Grid,
    repeats: int,
    method: Callable[[DenoiserLike, Tensor, Tensor], Iterator[State]],
    generator: Generators,
) -> Iterator[State]:
    inside = torch.stack(interval.times)
    ratio = interval.alpha[0] / interval.alpha[-1]
    extra = math.sqrt(interval.sigma[0] ** 2 - (ratio * interval.sigma[-1]) ** 2)
    state = State(times[0], x, None)
    yield state
    if bottom:
        yield from _after_first(states := [], method(D, state.x, times[: bottom + 1]))
        state = states[-1]
    for _ in range(repeats):
        up = state.x * ratio
        up.add_(standard_normal(up.shape, generator, up.dtype, up.device), alpha=extra)
        yield State(interval.times[0], up, None)
        yield from _after_first(states := [], method(D, up, inside))
        state = states[-1]
    if bottom + 1 < len(times):
        yield from _after_first([], method(D, state.x, times[bottom:]))


def _after_first(kept: list[State], states: Iterator[State]) -> Iterator[State]:
    """All states but the first, the last one kept."""
    next(states)
    for state in states:
        kept[:] = [state]
        yield state
