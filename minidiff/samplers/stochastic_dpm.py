"""DPM-Solver++ with noise: the linear part and the noise of the reverse SDE exact, D expanded in λ as without noise."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

import torch
from torch import Tensor

from minidiff import arguments
from minidiff.denoiser import DenoiserLike
from minidiff.noise import Generators, standard_normal
from minidiff.samplers.multistep import plan, run
from minidiff.samplers.state import Grid, State, begin, combine, refuse_coupled, scalars


def decays(grid: Grid, tau: float) -> tuple[list[float], list[float]]:
    """What a step leaves of x_s, (σ_t/σ_s) e^{−τ²h}, and the noise that it adds, σ_t √(1 − e^{−2τ²h}); one each a step.

    h = λ_t − λ_s, infinite where a step begins at α = 0 or ends at σ = 0.
    """
    scale, noise = [], []
    for i in grid.steps:
        decay = tau**2 * (grid.lam[i + 1] - grid.lam[i]) if tau else 0.0
        scale.append(grid.sigma[i + 1] / grid.sigma[i] * math.exp(-decay))
        noise.append(grid.sigma[i + 1] * math.sqrt(-math.expm1(-2 * decay)))
    return scale, noise


def dpmpp_2m_sde(
    D: DenoiserLike, x: Tensor, times: Tensor, *, tau: float = 1.0, generator: Generators = None
) -> Iterator[State]:
    """SDE-DPM-Solver++(2M): D through its last two values, and the noise of the step exactly (Lu et al. 2022b, app. B).

    x_t = (σ_t/σ_s) e^{−τ²h} x_s + α_t (1 − e^{−(1+τ²)h}) (D_0 + (D_0 − D_1)/2r) + σ_t √(1 − e^{−2τ²h}) z, with
    h = λ_t − λ_s and r = h_before/h. The paper has τ = 1; τ = 0 is `dpmpp_2m`. `sa_solver` of order 2 without corrector
    has the exact weight of the slope in place of ½ (1 − e^{−(1+τ²)h}). One call of D a step, weak order 2; the first
    step, and one to σ = 0, use one value.

    x: (B, *D) at times[0]; times: float64 (n + 1,). Raises what `begin` raises, and ValueError for τ < 0 and for τ > 0
    with a coupled denoiser.
    """
    arguments.real("tau", tau, 0.0)
    if tau > 0:
        refuse_coupled(D, "dpmpp_2m_sde with tau > 0")

    def rule(grid: Grid, i: int) -> tuple[float, ...]:
        h = grid.lam[i + 1] - grid.lam[i]
        whole = grid.alpha[i + 1] * -math.expm1(-(1 + tau**2) * h)
        if i == 0 or math.isinf(grid.lam[i - 1]) or math.isinf(grid.lam[i + 1]):
            return (whole,)
        slope = h / (grid.lam[i] - grid.lam[i - 1]) / 2
        return (whole * (1 + slope), -whole * slope)

    grid = begin(D, x, times)
    scale, noise = decays(grid, tau)
    return run(D, x, grid, dataclasses.replace(plan(grid, rule), scale=scale, noise=noise), generator)


def dpmpp_sde(
    D: DenoiserLike, x: Tensor, times: Tensor, *, tau: float = 1.0, generator: Generators = None
) -> Iterator[State]:
    """DPM-Solver++ SDE, single step: half a step to λ_m = λ_s + h/2, then the whole step with D from there.

    u = (σ_m/σ_s) e^{−τ²h/2} x_s + α_m (1 − e^{−(1+τ²)h/2}) D_s + σ_m n_m,
    x_t = (σ_t/σ_s) e^{−τ²h} x_s + α_t (1 − e^{−(1+τ²)h}) D(u) + σ_t n_t, with n_m = √(1 − e^{−τ²h}) z and
    n_t = e^{−τ²h/2} n_m + √(1 − e^{−τ²h}) z′: the two noises belong to one Brownian path, and weak order 2 needs that;
    with independent ones it is 1. Two calls of D a step, one where h is infinite. τ = 0 is `dpmpp_2s`.

    The sampler of that name in k-diffusion, at its eta = 1. x: (B, *D) at times[0]; times: float64 (n + 1,). State.x0
    is the prediction at the start of the step. Raises what `begin` raises, and ValueError for τ < 0 and for τ > 0 with
    a coupled denoiser.
    """
    arguments.real("tau", tau, 0.0)
    if tau > 0:
        refuse_coupled(D, "dpmpp_sde with tau > 0")
    grid = begin(D, x, times)
    return _midpoint(D, x, grid, [_split(D, grid, i) for i in grid.steps], tau, generator)


def _split(D: DenoiserLike, grid: Grid, i: int) -> Grid:
    """The nodes of step i: its ends, and between them the middle in λ where both λ are finite."""
    s, t = grid.part(i, i + 2).times
    lam = (grid.lam[i] + grid.lam[i + 1]) / 2
    if not math.isfinite(lam):
        return grid.part(i, i + 2)
    return Grid.of(D.process, torch.stack([s, D.process.time(torch.tensor(lam, dtype=torch.float64)), t]))


def _midpoint(
    D: DenoiserLike, x: Tensor, grid: Grid, steps: list[Grid], tau: float, generator: Generators
) -> Iterator[State]:
    yield State(grid.times[0], x, None)
    rate = 1 + tau**2
    for step in steps:
        (s, *middle, t), alpha = step.times, step.alpha
        scale, noise = decays(step, tau)
        (left,) = scalars([math.prod(scale)], x)
        weight = alpha[-1] * -math.expm1(-rate * (step.lam[-1] - step.lam[0]))
        start = x0 = D(x, s)
        path = None
        if middle:
            (half,) = scalars(scale[:1], x)
            u = combine(half, x, (alpha[1] * -math.expm1(-rate * (step.lam[1] - step.lam[0])),), (x0,))
            if tau:
                path = standard_normal(x.shape, generator, x.dtype, x.device)
                u.add_(path, alpha=noise[0])
            x0 = D(u, middle[0])
        x = combine(left, x, (weight,), (x0,))
        if path is not None:  # what is left at t of the noise of the first half
            x.add_(path, alpha=noise[0] * scale[1])
        if noise[-1]:
            x.add_(standard_normal(x.shape, generator, x.dtype, x.device), alpha=noise[-1])
        yield State(t, x, start)
