"""DPS: the likelihood at the mean instead of the mean of the likelihood, and what that costs on a Gaussian."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from minidiff import arguments
from minidiff.denoiser import Combined, DenoiserLike
from minidiff.inverse.exact import Operator, gaussian_log_likelihood, residuals
from minidiff.inverse.tweedie import check_prior, tweedie
from minidiff.noise import Generators, standard_normal
from minidiff.samplers.posterior import ancestral_steps
from minidiff.samplers.state import Grid, State, begin, refuse_coupled


def at_prediction(
    D: DenoiserLike, x: Tensor, t: Tensor, log_likelihood: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """x̂_0, ℓ(x̂_0) (B,) and (σ²/α) ∇_x ℓ(D(x, t)) for a log-likelihood ℓ of clean x; one call, one pass through D.

    Raises what `tweedie.tweedie` raises, and ValueError for log-likelihoods that are not finite or not (B,).
    """
    x0, product = tweedie(D, x, t)
    with torch.enable_grad():
        clean = x0.clone().requires_grad_()
        value = log_likelihood(clean)
        if value.shape != x0.shape[:1]:
            raise ValueError(f"log_likelihood must return one value a row, got {tuple(value.shape)} for {len(x0)} rows")
        arguments.finite("the log-likelihood", value)
        (gradient,) = torch.autograd.grad(value.sum(), clean)
    return x0, value.detach(), product(gradient)


class DPS(Combined):
    """D(x, t) + (σ²/α) ∇_x log N(y; A(D(x, t)), s² I): diffusion posterior sampling (Chung et al. 2023).

    It replaces p(y | x_t) = E[p(y | x_0) | x_t] by p(y | E[x_0 | x_t]). By Jensen's inequality that is another number;
    on Gaussian data with a linear A of one row a, the guidance is 1 + R Var[a·x_0 | x_t] times the exact one, with
    R = 1/s². So it is right where x_t determines x_0, and too strong by (prior variance)/s² at the start. A is any
    differentiable operator. One call of D and one backward pass through it.

    y: (B, *measured), s > 0. Raises ValueError for s ≤ 0, a coupled denoiser and measurements that do not fit, and at
    the call what `tweedie.tweedie` raises.
    """

    def __init__(self, D: DenoiserLike, A: Operator, y: Tensor, s: float) -> None:
        check_prior(D, "DPS")
        super().__init__(D)
        self.D = D
        self.log_likelihood = gaussian_log_likelihood(A, y, s)

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """x̂_0 plus the guidance; the shape of x."""
        x0, _, shift = at_prediction(self.D, x, t, self.log_likelihood)
        return x0 + shift


def dps_sampler(
    D: DenoiserLike,
    x: Tensor,
    times: Tensor,
    A: Operator,
    y: Tensor,
    *,
    step: float = 1.0,
    generator: Generators = None,
) -> Iterator[State]:
    """DPS as it is run (Chung et al. 2023, algorithm 1): each ancestral step ends x ← x − step · ∇_{x_s} |y − A(x̂_0)|.

    This is the paper's x − ζ_i ∇|y − A(x̂_0)|² with ζ_i = ζ′/|y − A(x̂_0)| and step = 2ζ′: the strength knows neither the
    noise s of the measurement nor the time, so that there is no posterior of which this is the sampler; `DPS` is the
    formula that it came from. One call of D and one backward pass a step.

    x: (B, *D) at times[0]; y: (B, *measured). Raises what `begin` raises, and ValueError for a coupled denoiser, a
    negative step and measurements that do not fit.
    """
    refuse_coupled(D, "dps_sampler")
    grid = begin(D, x, times)
    arguments.finite("y", y)
    arguments.real("step", step, 0.0)
    residuals(A, y, x)
    return _dps_steps(D, x, grid, A, y, step, generator)


def _dps_steps(
    D: DenoiserLike, x: Tensor, grid: Grid, A: Operator, y: Tensor, step: float, generator: Generators
) -> Iterator[State]:
    yield State(grid.times[0], x, None)
    for s, t, (a, b, c) in zip(grid.times, grid.times[1:], ancestral_steps(grid), strict=False):
        with torch.enable_grad():
            at = x.detach().requires_grad_()
            x0 = D(at, s)
            distance = residuals(A, y, x0).flatten(1).square().sum(1)
            # A distance of 0 is a minimum: its gradient there is 0, not NaN.
            (gradient,) = torch.autograd.grad(torch.where(distance > 0, distance, 1.0).sqrt().sum(), at)
        x0 = x0.detach()
        x = a * x + b * x0 - step * gradient
        if c:
            x = x + c * standard_normal(x.shape, generator, x.dtype, x.device)
        yield State(t, x, x0)


def dps_gaussian(ratio: float) -> tuple[float, float]:
    """What `DPS` samples from N(0, v) data measured as y = a x_0 + s n, along the exact flow: (gain, variance).

    With ratio ρ = a² v/s² the law is N(gain · y/a, variance · v): variance = e^{−ρ} and gain = 2 z F(z), z = √(ρ/2),
    F Dawson's integral e^{−z²} ∫_0^z e^{q²} dq. The posterior has variance 1/(1 + ρ) and gain ρ/(1 + ρ). So DPS is
    overconfident for every ρ > 0, and agrees to first order as ρ → 0. The numbers are the same for every process: in
    u = r² the flow is dx/du = ½ [x/(v+u) + R v² x/(v+u)² − R v y/(a (v+u))] for x in units of α and R = a²/s². Raises
    ValueError for ρ < 0.
    """
    arguments.real("ratio", ratio, 0.0)
    if ratio > 1000:  # 2z F(z) = 1 + 1/ρ + 1·3/ρ² + 1·3·5/ρ³ + …, beyond what 200 nodes resolve
        return 1 + (1 + (3 + (15 + 105 / ratio) / ratio) / ratio) / ratio, math.exp(-ratio)
    nodes, weights = np.polynomial.legendre.leggauss(200)
    q = (nodes + 1) / 2
    gain = ratio * float((weights / 2) @ np.exp(ratio / 2 * (q**2 - 1)))
    return gain, math.exp(-ratio)
