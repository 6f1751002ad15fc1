"""Langevin dynamics: uphill along the score, with noise, at one noise level or down a ladder of them."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from minidiff import arguments
from minidiff.denoiser import DenoiserLike
from minidiff.noise import Generators, standard_normal
from minidiff.samplers.state import State, begin, combine, refuse_coupled, scalars


def langevin(
    D: DenoiserLike, x: Tensor, t: Tensor | float, *, step: float, steps: int, generator: Generators = None
) -> Iterator[State]:
    """Unadjusted Langevin at one time t: x ← x + (ε/2) s(x, t) + √ε z with ε = step and z ~ N(0, I), `steps` times.

    The score is s = (α x̂_0 − x)/σ². Convention: ½ with the score and √ε with the noise, which for ε → 0 is
    dx = ½ ∇ log q_t dt + dW and leaves q_t as it is; on N(0, 1) the variance it settles at is 1/(1 − ε/4), and it
    diverges from ε = 4 on. (Roberts & Tweedie 1996. Others write x + ε s + √(2ε) z, with an ε half as large.)

    x: (B, *D); one call of D a step, steps + 1 states, all at t. Raises TypeError or ValueError for a D that is no
    denoiser or coupled, an x that is not a finite (B, *D), a t outside [0, 1] or with σ_t = 0, step ≤ 0, steps < 1.
    """
    t = torch.as_tensor(t, dtype=torch.float64)
    if t.ndim:
        raise ValueError(f"t must be one time, got shape {tuple(t.shape)}")
    arguments.unit_interval("t", t)
    return _langevin(D, x, t.cpu()[None], step, steps, generator, "langevin")


def annealed_langevin(
    D: DenoiserLike, x: Tensor, times: Tensor, *, step: float, steps: int, generator: Generators = None
) -> Iterator[State]:
    """Annealed Langevin: at each of the times in turn, `steps` updates of `langevin` with ε_i = step · σ_i²/σ_L².

    σ_L belongs to the last of the L times, so `step` is the ε of that level, and ε_i/σ_i² is the same at all
    (Song & Ermon 2019, algorithm 1, with its convention x + (ε_i/2) s + √ε_i z; it has α = 1). From one time to the
    next x keeps its place x/α in the coordinates of the data: it is multiplied by α_{i+1}/α_i.

    x: (B, *D) at times[0]; times: float64 (L,), strictly decreasing. L · steps calls of D and as many states after the
    first, each at the time of its update. The end is a draw at times[-1], with its noise: D(x, times[-1]) takes it
    off. Raises what `begin` raises, and ValueError for a coupled D, σ = 0 at the last time, α = 0 at the first,
    step ≤ 0, steps < 1.
    """
    begin(D, x, times)
    return _langevin(D, x, times, step, steps, generator, "annealed_langevin")


def _langevin(
    D: DenoiserLike, x: Tensor, times: Tensor, step: float, steps: int, generator: Generators, name: str
) -> Iterator[State]:
    refuse_coupled(D, name)
    arguments.finite("x", x)
    if x.ndim < 2:
        raise ValueError(f"x must have a batch axis, (B, *D), got shape {tuple(x.shape)}")
    arguments.real("step", step, 1e-300)
    arguments.positive_integer("steps", steps)
    alpha, sigma = D.process.alpha(times).tolist(), D.process.sigma(times).tolist()
    if sigma[-1] == 0:
        raise ValueError(f"the score needs σ > 0, got σ = 0 at t = {float(times[-1])}")
    if len(times) > 1 and alpha[0] == 0:
        raise ValueError(f"x/α needs α > 0, got α = 0 at t = {float(times[0])}: start at an earlier time")
    gamma = step / sigma[-1] ** 2  # ε_i/σ_i², the same at every level
    return walk(D, x, times.unbind(), alpha, sigma, gamma, steps, generator)


def walk(
    D: DenoiserLike,
    x: Tensor,
    times: tuple[Tensor, ...],
    alpha: list[float],
    sigma: list[float],
    gamma: float,
    steps: int,
    generator: Generators,
) -> Iterator[State]:
    """The updates of both samplers: x ← (1 − γ/2) x + (γ/2) α x̂_0 + σ √γ z, which is x + (ε/2) s + √ε z with ε = γ σ².

    alpha and sigma are those of the times; nothing is checked here. Yields the start and every update.
    """
    yield State(times[0], x, None)
    (keep,) = scalars([1 - gamma / 2], x)
    for i, t in enumerate(times):
        if i and alpha[i] != alpha[i - 1]:
            x = x * (alpha[i] / alpha[i - 1])
        for _ in range(steps):
            x0 = D(x, t)
            x = combine(keep, x, (gamma / 2 * alpha[i],), (x0,))
            x.add_(standard_normal(x.shape, generator, x.dtype, x.device), alpha=sigma[i] * math.sqrt(gamma))
            yield State(t, x, x0)
