"""Samplers whose step is a Gaussian q(x_t | x_s, x̂_0): DDPM's ancestral sampling and the DDIM family."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal

from torch import Tensor

from minidiff import arguments
from minidiff.denoiser import DenoiserLike
from minidiff.noise import Generators, standard_normal
from minidiff.samplers.state import Grid, State, begin, combine, refuse_coupled, scalars


def _gap(grid: Grid, i: int) -> float:
    """1 − e^{−2h} with h = λ_t − λ_s for the step s = times[i] → t = times[i + 1]; 1 where either λ is infinite."""
    return -math.expm1(-2 * (grid.lam[i + 1] - grid.lam[i]))


def gaussian_steps(
    D: DenoiserLike, x: Tensor, grid: Grid, steps: list[tuple[float, float, float]], generator: Generators
) -> Iterator[State]:
    """x_t = a x_s + b x̂_0 + c z for the (a, b, c) of each step; no noise is drawn where c = 0."""
    yield State(grid.times[0], x, None)
    scale = scalars([a for a, _, _ in steps], x)
    for s, t, a, (_, b, c) in zip(grid.times, grid.times[1:], scale, steps, strict=False):
        x0 = D(x, s)
        x = combine(a, x, (b,), (x0,))
        if c:
            x.add_(standard_normal(x.shape, generator, x.dtype, x.device), alpha=c)
        yield State(t, x, x0)


def ancestral_steps(
    grid: Grid, variance: Literal["posterior", "forward"] = "posterior"
) -> list[tuple[float, float, float]]:
    """(a, b, c) of each step N(a x_s + b x̂_0, c² I) of `ancestral`; c = 0 where a step ends at σ_t = 0."""
    steps = []
    for i in grid.steps:
        alpha_s, alpha_t = grid.alpha[i], grid.alpha[i + 1]
        sigma_s, sigma_t = grid.sigma[i], grid.sigma[i + 1]
        gap = _gap(grid, i)
        a = alpha_s * sigma_t**2 / (alpha_t * sigma_s**2)
        noise = (sigma_s if variance == "forward" else sigma_t) * math.sqrt(gap)
        steps.append((a, alpha_t * gap, noise if sigma_t > 0 else 0.0))
    return steps


def ancestral(
    D: DenoiserLike,
    x: Tensor,
    times: Tensor,
    *,
    variance: Literal["posterior", "forward"] = "posterior",
    generator: Generators = None,
) -> Iterator[State]:
    """DDPM's sampler: x_t ~ N(μ̃(x_s, x̂_0), v) with the posterior mean of q(x_t | x_s, x_0) (Ho et al. 2020, eq. 6–7).

    With h = λ_t − λ_s: μ̃ = (α_s σ_t²)/(α_t σ_s²) x_s + α_t (1 − e^{−2h}) x̂_0; v = σ_t² (1 − e^{−2h}) is β̃
    ("posterior"), v = σ_s² (1 − e^{−2h}) is β ("forward"). No noise is added in a step that ends at σ_t = 0.

    x: (B, *D) at times[0]; times: float64 (n + 1,), one call of D a step. Raises what `begin` raises, and ValueError
    for a coupled denoiser or an unknown variance.
    """
    if variance not in ("posterior", "forward"):
        raise ValueError(f"variance must be 'posterior' or 'forward', got {variance!r}")
    refuse_coupled(D, "ancestral")
    grid = begin(D, x, times)
    return gaussian_steps(D, x, grid, ancestral_steps(grid, variance), generator)


def ddim(
    D: DenoiserLike,
    x: Tensor,
    times: Tensor,
    *,
    eta: float = 0.0,
    generator: Generators = None,
) -> Iterator[State]:
    """DDIM: x_t = α_t x̂_0 + √(σ_t² − η² β̃) ε̂ + η √β̃ z with ε̂ = (x_s − α_s x̂_0)/σ_s (Song et al. 2021, eq. 12).

    β̃ = σ_t² (1 − e^{−2h}) with h = λ_t − λ_s. η = 0 is deterministic, the first-order exponential integrator of the
    probability-flow ODE; η = 1 is `ancestral`.

    x: (B, *D) at times[0]; times: float64 (n + 1,), one call of D a step. Raises what `begin` raises, and ValueError
    for η outside [0, 1] or η > 0 with a coupled denoiser.
    """
    arguments.real("eta", eta, 0.0, 1.0)
    if eta > 0:
        refuse_coupled(D, "ddim with eta > 0")
    grid = begin(D, x, times)
    steps = []
    for i in grid.steps:
        alpha_s, alpha_t = grid.alpha[i], grid.alpha[i + 1]
        sigma_s, sigma_t = grid.sigma[i], grid.sigma[i + 1]
        gap = _gap(grid, i)
        a = sigma_t * math.sqrt(1 - eta**2 * gap) / sigma_s
        steps.append((a, alpha_t - a * alpha_s, eta * sigma_t * math.sqrt(gap)))
    return gaussian_steps(D, x, grid, steps, generator)
