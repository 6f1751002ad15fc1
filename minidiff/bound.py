"""The variational bound of a discrete chain, term by term (Ho et al. 2020, eq. 5; Kingma et al. 2021, section 4).

A grid of T steps t_T = 1 > … > t_0 = 0 makes a chain x_T → … → x_0 with p(x_{n−1} | x_n) = N(μ(x_n, x̂_0), s_n² I),
where μ is the mean of the posterior q(x_{n−1} | x_n, x_0) with x̂_0 = D(x_n, t_n) in the place of x_0. Then
−log p(x_0) ≤ L_T + L_{T−1} + … + L_1 + L_0, in nats: the prior, the transitions and the decoder, a Gaussian integrated
over the bin of each grey level. For DDPM the grid is `times.uniform(T)` on `Tabulated(betas)`.

Writing s and t for the times of x_n and x_{n−1} and ρ = SNR_s/SNR_t: β_n = σ_s² (1 − ρ) is the variance of
q(x_n | x_{n−1}), β̃_n = σ_t² (1 − ρ) that of the posterior, and x̂_0 enters μ with the factor α_t (1 − ρ).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from minidiff import arguments
from minidiff.denoiser import DenoiserLike
from minidiff.noise import Generators, standard_normal
from minidiff.process import Process
from minidiff.times import check_times


class _Chain(NamedTuple):
    """Per step n = 1…T, each (T,) float64: the time of x_n, the factor of x̂_0 in μ, log β̃_n and log s_n²."""

    time: Tensor
    factor: Tensor
    log_posterior: Tensor
    log_variance: Tensor


def _chain(process: Process, times: Tensor, variance: float | Tensor) -> _Chain:
    check_times(times)
    if float(times[0]) != 1 or float(times[-1]) != 0 or float(process.sigma(times[-1])) != 0:
        raise ValueError(
            "the bound needs times from 1 to 0 and a process with σ(0) = 0, so that x_0 is the data; got times from "
            f"{float(times[0])} to {float(times[-1])} and σ(0) = {float(process.sigma(times[-1]))}"
        )
    grid = times.flip(0)
    lam, sigma = process.lam(grid), process.sigma(grid)
    rest = -torch.expm1(2 * (lam[1:] - lam[:-1]))  # 1 − ρ; 1 where SNR_t is infinite or SNR_s is 0
    log_beta = 2 * sigma[1:].log() + rest.log()
    log_posterior = 2 * sigma[:-1].log() + rest.log()
    # The posterior of the first step is a point: its neighbour's variance stands in (Nichol & Dhariwal 2021).
    log_small = torch.cat([log_posterior[1:2] if len(rest) > 1 else log_beta[:1], log_posterior[1:]])
    v = torch.as_tensor(variance, dtype=torch.float64)
    if v.shape not in {(), rest.shape}:
        raise ValueError(f"variance must be a number or have shape ({len(rest)},), got {tuple(v.shape)}")
    return _Chain(grid[1:], process.alpha(grid[:-1]) * rest, log_posterior, v * log_beta + (1 - v) * log_small)


def check_levels(x0: Tensor, levels: int) -> None:
    """Raise ValueError unless x0 is finite and lies on the grey levels −1 + 2k/(levels − 1)."""
    arguments.finite("x0", x0)
    arguments.positive_integer("levels", levels, 2)
    position = (x0.double() + 1) * (levels - 1) / 2
    on_grid = ((position - position.round()).abs() < 1e-3) & (x0.abs() <= 1 + 1e-3)
    if not bool(on_grid.all()):
        stray = float(x0[~on_grid][0])
        raise ValueError(f"x0 must lie on the {levels} grey levels −1 + 2k/{levels - 1}, got the value {stray}")


def discretised_log_prob(
    x0: Tensor,
    mean: Tensor,
    std: Tensor | float,
    levels: int,
) -> Tensor:
    """log of the mass of N(mean, std²) in the bin of x0, elementwise (Ho et al. 2020, eq. 13); the shape of x0.

    The `levels` grey levels are −1 + 2k/(levels − 1), bins reach half-way to the neighbours, and the bins of −1 and 1
    are open to ∓∞, so that the masses of all levels sum to 1. Computed in float64 from log Φ of the nearer tail.
    """
    check_levels(x0, levels)
    x0, half = x0.double(), 1 / (levels - 1)
    below = torch.where(x0 < -1 + half, -math.inf, (x0 - half - mean) / std)
    above = torch.where(x0 > 1 - half, math.inf, (x0 + half - mean) / std)
    # Φ(above) − Φ(below) = Φ(−below) − Φ(−above) does not cancel in the right tail.
    right = below > 0
    low = torch.special.log_ndtr(torch.where(right, -above, below))
    high = torch.special.log_ndtr(torch.where(right, -below, above))
    return high + torch.log(-torch.expm1(low - high))


def prior_kl(process: Process, x0: Tensor, t: float = 1.0) -> Tensor:
    """L_T = KL(q(x_t | x_0) ‖ N(0, (α² + σ²) I)), at t = 1 against the law of `Process.prior`; (B,) nats, float64."""
    last = torch.tensor(t, dtype=torch.float64)
    alpha2, sigma2 = float(process.alpha(last)) ** 2, float(process.sigma(last)) ** 2
    scale2 = alpha2 + sigma2
    ratio = (sigma2 + alpha2 * x0.double().square()) / scale2
    return (ratio - 1 - math.log(sigma2 / scale2)).flatten(1).sum(1) / 2


def _term(D: DenoiserLike, chain: _Chain, x0: Tensor, n: Tensor, eps: Tensor, levels: int, y: Tensor | None) -> Tensor:
    steps = n.to(chain.time.device) - 1
    time, factor, log_posterior, log_variance = (values[steps].to(x0.device) for values in chain)
    x = D.process.noise(x0, time, eps)
    x0_hat = (D(x, time) if y is None else D(x, time, y)).double()
    error = (x0 - x0_hat).square().flatten(1).sum(1)
    log_ratio = log_posterior - log_variance
    spread = x0[0].numel() * (log_ratio.exp() - 1 - log_ratio)
    nats = (spread + factor.square() / log_variance.exp() * error) / 2
    first = (n == 1).nonzero()[:, 0].to(x0.device)
    std = arguments.along((log_variance[first] / 2).exp(), x0_hat)
    decoder = -discretised_log_prob(x0[first], x0_hat[first], std, levels).flatten(1).sum(1)
    return nats.index_put((first,), decoder)


def vlb_term(
    D: DenoiserLike,
    x0: Tensor,
    n: Tensor,
    eps: Tensor,
    times: Tensor,
    *,
    levels: int,
    variance: float | Tensor = 0.0,
    y: Tensor | None = None,
) -> Tensor:
    """L_{n−1} at the step n of each sample, one draw of the expectation over x_n; (B,) nats, float64.

    For n ≥ 2 it is KL(q(x_{n−1} | x_n, x_0) ‖ p(x_{n−1} | x_n)), with s_n² = β̃_n equal to
    ½ (SNR_t − SNR_s) |x_0 − x̂_0|²; for n = 1 it is −log p(x_0 | x_1). With n uniform on 1…T, T times the mean of it
    plus the mean of `prior_kl` estimates the bound.

    x0 and eps (B, *D), n (B,) int64, times (T + 1,) from 1 to 0. `variance` is v in
    log s_n² = v log β_n + (1 − v) log β̃_n (Nichol & Dhariwal 2021, eq. 15): 0 is β̃_n, 1 is β_n, a tensor (T,)
    has its own v for each step; β̃_1 = 0 is replaced by β̃_2.
    Raises ValueError for x0 off the grey levels, n outside 1…T, and grids or processes that do not end at the data.
    """
    chain = _chain(D.process, times, variance)
    check_levels(x0, levels)
    if n.dtype != torch.int64 or n.shape != x0.shape[:1]:
        raise ValueError(f"n must be int64 of shape ({len(x0)},), got {n.dtype} of shape {tuple(n.shape)}")
    if not bool(((n >= 1) & (n <= len(chain.time))).all()):
        raise ValueError(f"n must lie in 1…{len(chain.time)}, got values from {int(n.min())} to {int(n.max())}")
    return _term(D, chain, x0, n, eps, levels, y)


@torch.no_grad()
def vlb(
    D: DenoiserLike,
    x0: Tensor,
    times: Tensor,
    *,
    levels: int,
    variance: float | Tensor = 0.0,
    y: Tensor | None = None,
    generator: Generators = None,
) -> Tensor:
    """All terms L_0, L_1, …, L_T of each sample, with fresh noise for each: T calls of D; (B, T + 1) nats, float64.

    The row sum is the bound on −log p(x_0). Arguments as in `vlb_term`.
    """
    chain = _chain(D.process, times, variance)
    check_levels(x0, levels)
    terms = []
    for step in range(1, len(chain.time) + 1):
        eps = standard_normal(x0.shape, generator, x0.dtype, x0.device)
        n = torch.full((len(x0),), step)
        terms.append(_term(D, chain, x0, n, eps, levels, y))
    return torch.stack([*terms, prior_kl(D.process, x0)], 1)


def bits_per_dim(nats: Tensor, dimensions: int) -> Tensor:
    """nats / (dimensions · ln 2): the code length per coordinate; `levels` equally likely levels cost log2(levels)."""
    arguments.positive_integer("dimensions", dimensions)
    return nats / (dimensions * math.log(2))
