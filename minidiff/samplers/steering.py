"""Steering: a population of chains, weighted on the way by a reward and resampled (Feynman–Kac, SMC).

Particles move as in `ancestral`. The reward r of the prediction x̂_0 weights them at every step by
G_i = exp(β (r_i − r_{i−1})), and the product of all G is exp(β r(x)) at the end: the weighted particles stand for the
chain's law times exp(β r) (Singhal et al. 2025).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from minidiff import arguments
from minidiff.denoiser import DenoiserLike
from minidiff.noise import Generators, standard_normal
from minidiff.samplers.posterior import ancestral_steps
from minidiff.samplers.state import begin, refuse_coupled

Reward = Callable[[Tensor], Tensor]


class Steered(NamedTuple):
    """Particles x (S, K, *D) of S systems, their log weights (S, K), log Ẑ (S,), and how often each resampled (S,).

    The weights are relative to those after the last resampling; softmax over K normalises them. Ẑ is an unbiased
    estimate of E exp(β r(x)) under the chain.
    """

    x: Tensor
    log_weights: Tensor
    log_normaliser: Tensor
    resampled: Tensor


def effective_sample_size(log_weights: Tensor) -> Tensor:
    """(Σ w)² / Σ w² over the last axis of log_weights (…, K): between 1 and K; (…)."""
    arguments.floating("log_weights", log_weights)
    return (2 * log_weights.logsumexp(-1) - (2 * log_weights).logsumexp(-1)).exp()


def systematic(log_weights: Tensor, u: Tensor) -> Tensor:
    """Ancestors (S, K) int64: of K points (u + k)/K, as many as fall into each particle's share; u (S,) in [0, 1)."""
    shares = log_weights.double().softmax(-1).cumsum(-1)
    count = log_weights.shape[-1]
    points = (u.double()[:, None] + torch.arange(count, dtype=torch.float64, device=u.device)) / count
    return torch.searchsorted(shares, points).clamp(max=count - 1)


def resample(log_weights: Tensor, threshold: float, generator: Generators = None) -> tuple[Tensor, Tensor]:
    """Ancestors (S, K) of every particle, and which systems resample (S,): those with a size below threshold · K.

    log_weights (S, K); a system that does not resample keeps each particle. generator: one, or one a system.
    """
    systems, count = log_weights.shape
    device = log_weights.device
    low = effective_sample_size(log_weights) < threshold * count
    u = torch.special.ndtr(standard_normal((systems, 1), generator, torch.float64, device))[:, 0]
    stay = torch.arange(count, device=device).expand(systems, count)
    return torch.where(low[:, None], systematic(log_weights, u), stay), low


def steered(
    D: DenoiserLike,
    x: Tensor,
    times: Tensor,
    reward: Reward,
    *,
    strength: float = 1.0,
    threshold: float = 0.5,
    generator: Generators = None,
) -> Steered:
    """S systems of K ancestral chains each, drawn towards exp(strength · reward) (Singhal et al. 2025, alg. 1).

    x: (S, K, *D) at times[0]; D and reward see the S·K rows flattened, system by system, and reward returns (S·K,); it
    is asked n + 1 times, at the predictions and at the end. A system resamples (systematically) where its effective
    sample size falls below threshold · K; with threshold 0 this is importance sampling at the end. One call of D a
    step. generator: one, or one a system. Raises what `begin` raises, ValueError for a coupled denoiser, for x without
    two batch axes, a threshold outside [0, 1], and rewards that are not finite or of another shape.
    """
    refuse_coupled(D, "steered")
    if x.ndim < 3:
        raise ValueError(f"x must be (S, K, *D), S systems of K particles, got shape {tuple(x.shape)}")
    grid = begin(D, x.flatten(0, 1), times)
    arguments.real("strength", strength)
    arguments.real("threshold", threshold, 0.0, 1.0)

    def judged(x: Tensor) -> Tensor:
        value = reward(x.flatten(0, 1))
        if value.shape != (x.shape[0] * x.shape[1],):
            raise ValueError(f"reward must return one value a row, got {tuple(value.shape)} for {tuple(x.shape)}")
        arguments.finite("the reward", value)
        return strength * value.double().reshape(x.shape[:2])

    x = x.to(torch.promote_types(x.dtype, torch.float32))
    systems, count = x.shape[:2]
    log_weights = x.new_zeros(systems, count, dtype=torch.float64)
    total, resampled, before = log_weights[:, 0].clone(), torch.zeros(systems, dtype=torch.int64), 0.0
    for s, (a, b, c) in zip(grid.times, ancestral_steps(grid), strict=False):
        x0 = D(x.flatten(0, 1), s).reshape(x.shape)
        value = judged(x0)
        log_weights = log_weights + value - before
        chosen, low = resample(log_weights, threshold, generator)
        total = torch.where(low, total + log_weights.logsumexp(1) - math.log(count), total)
        log_weights = torch.where(low[:, None], 0.0, log_weights)
        resampled += low.cpu()
        row = torch.arange(systems, device=x.device)[:, None]
        x, x0, before = x[row, chosen], x0[row, chosen], value[row, chosen]
        x = a * x + b * x0.to(x.dtype)
        if c:
            x = x + c * standard_normal(x.shape, generator, x.dtype, x.device)
    log_weights = log_weights + judged(x) - before
    return Steered(x, log_weights, total + log_weights.logsumexp(1) - math.log(count), resampled)
