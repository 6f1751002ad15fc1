"""The reverse SDE and its family, one drift for every amount of noise: Euler–Maruyama, and SA-Solver."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

import torch
from torch import Tensor

from minidiff import arguments
from minidiff.denoiser import DenoiserLike
from minidiff.noise import Generators
from minidiff.samplers.exponential import exact_plan
from minidiff.samplers.multistep import run
from minidiff.samplers.posterior import gaussian_steps
from minidiff.samplers.state import Grid, State, begin, refuse_coupled


def euler_maruyama(
    D: DenoiserLike, x: Tensor, times: Tensor, *, tau: float = 1.0, generator: Generators = None
) -> Iterator[State]:
    """Euler–Maruyama on the family dx = [f x − (1 + τ²)/2 g² ∇log p_t(x)] dt + τ g dW̄, run backwards in time.

    τ = 1 is the reverse SDE (Anderson 1982; Song et al. 2021, eq. 6), τ = 0 the probability-flow ODE, and every τ ≥ 0
    has the same marginals in continuous time (not in finitely many steps). In x̂_0 the drift reads
    (σ′/σ − τ² λ′) x + (1 + τ²) α λ′ x̂_0, and g² = −2 σ² λ′: a step from s to t < s is
    x_t = x_s − (s − t) drift(x_s, s) + τ g_s √(s − t) z. Weak order 1; one call of D a step. As in `ancestral`, no
    noise is added in a step that ends at σ_t = 0.

    x: (B, *D) at times[0]; times: float64 (n + 1,). Raises what `begin` raises, and ValueError for τ < 0, for τ > 0
    with a coupled denoiser, and for τ > 0 from a time with α = 0, where g² is infinite.
    """
    arguments.real("tau", tau, 0.0)
    if tau > 0:
        refuse_coupled(D, "euler_maruyama with tau > 0")
    grid = begin(D, x, times)
    if tau > 0 and grid.alpha[0] == 0:
        raise ValueError(f"the noise τ g is infinite where α = 0: start below t = {float(times[0])}, or set tau=0")
    return gaussian_steps(D, x, grid, _coefficients(D, grid, tau), generator)


def sa_solver(
    D: DenoiserLike,
    x: Tensor,
    times: Tensor,
    *,
    tau: float = 1.0,
    order: int = 2,
    corrector: bool = True,
    generator: Generators = None,
) -> Iterator[State]:
    """SA-Solver (Xue et al. 2023): the family of τ, solved exactly for D a polynomial in λ.

    With h = λ_t − λ_s: x_t = (σ_t/σ_s) e^{−τ²h} x_s + α_t Σ_j w_j D_j + σ_t √(1 − e^{−2τ²h}) z, where
    w_j = ∫_{λ_s}^{λ_t} (1+τ²) e^{(1+τ²)(λ−λ_t)} ℓ_j dλ. τ = 0 is `exponential` with a ramped start; one value without a
    corrector is `ddim` with η² = (1 − e^{−2τ²h})/(1 − e^{−2h}), and at τ = 1 `ancestral`. The corrector repeats each
    step but the last with the new value of D and the same z. One call of D a step.

    x: (B, *D) at times[0]; times: float64 (n + 1,). Raises what `begin` raises, and ValueError unless 1 ≤ order ≤ 4,
    for τ < 0, and for τ > 0 with a coupled denoiser.
    """
    arguments.real("tau", tau, 0.0)
    arguments.positive_integer("order", order)
    if order > 4:
        raise ValueError(f"order must be at most 4, got {order}")
    if tau > 0:
        refuse_coupled(D, "sa_solver with tau > 0")
    grid = begin(D, x, times)
    start = 1 if math.isinf(grid.lam[0]) else 0
    made = exact_plan(grid, order, "lam", lambda lam: lam, "x0", corrector, start, rate=1 + tau**2)
    scale, noise = [], []
    for i in grid.steps:
        decay = 2 * tau**2 * (grid.lam[i + 1] - grid.lam[i]) if tau else 0.0
        scale.append(grid.sigma[i + 1] / grid.sigma[i] * math.exp(-decay / 2))
        noise.append(grid.sigma[i + 1] * math.sqrt(-math.expm1(-decay)))
    return run(D, x, grid, dataclasses.replace(made, scale=scale, noise=noise), generator)


def _coefficients(D: DenoiserLike, grid: Grid, tau: float) -> list[tuple[float, float, float]]:
    """(a, b, c) of each step x_t = a x_s + b x̂_0 + c z."""
    starts = torch.stack(grid.times[:-1])
    alpha_rate, sigma_rate = (rate.tolist() for rate in D.process.rates(starts))
    steps = []
    for i in grid.steps:
        h = float(grid.times[i] - grid.times[i + 1])
        relative = sigma_rate[i] / grid.sigma[i]  # σ′/σ
        pull = alpha_rate[i] - grid.alpha[i] * relative  # α λ′, finite at α = 0
        # λ′ < 0; at α = 0 it is −∞, and then τ = 0.
        lam_rate = pull / grid.alpha[i] if tau else 0.0
        noise = tau * grid.sigma[i] * math.sqrt(-2 * lam_rate * h) if grid.sigma[i + 1] > 0 else 0.0
        steps.append((1 - h * (relative - tau**2 * lam_rate), -h * (1 + tau**2) * pull, noise))
    return steps
