"""The twisted diffusion sampler: DPS proposes, weights correct it, and many particles are exact."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from minidiff import arguments
from minidiff.denoiser import DenoiserLike
from minidiff.inverse.dps import at_prediction
from minidiff.noise import Generators, standard_normal
from minidiff.samplers.posterior import ancestral_steps
from minidiff.samplers.state import begin, refuse_coupled
from minidiff.samplers.steering import Steered, resample


def twisted(
    D: DenoiserLike,
    x: Tensor,
    times: Tensor,
    log_likelihood: Callable[[Tensor], Tensor],
    *,
    log_twist: Callable[[Tensor, Tensor], Tensor] | None = None,
    threshold: float = 0.5,
    generator: Generators = None,
) -> Steered:
    """S systems of K particles for the ancestral chain given y: TDS (Wu et al. 2023, algorithm 1).

    A twist p̃(y | x_t) guesses at p(y | x_t) from x̂_0 = D(x_t, t); by default it is DPS's guess p(y | x̂_0). It moves the
    mean of each step, by b (σ²/α) ∇ log p̃ beside a x_s + b x̂_0, and the weights take back what it has done wrong: each
    step multiplies them by p(x_t | x_s) p̃(y | x_t) / (p̃(y | x_s) q(x_t | x_s)), q the moved step. Over the run that is
    p(chain) p(y | x_end)/q(chain), so that the weighted particles stand for the chain's law times p(y | x_0) for any
    operator and any twist, as K → ∞, and Ẑ is an unbiased estimate of p(y). `steered` is the same without the moved
    mean. A twist that is too sure moves too far, and the weights scatter: where s is small against what x_t leaves
    open, `averaged_log_likelihood` serves better than the default.

    x: (S, K, *D) at times[0], where α > 0; log_likelihood: the S·K rows flattened, system by system, to (S·K,), such as
    `gaussian_log_likelihood` with y repeated K times; log_twist: (rows of x̂_0, t) to (S·K,), differentiable, up to a
    function of t. Systems resample as in `steered`. The last step, where σ_t = 0, is not moved. n calls of D on n
    steps, one backward pass each. Raises what `begin` and `tweedie.tweedie` raise, and ValueError for a coupled
    denoiser, an x without two batch axes, a threshold outside [0, 1] and values that are not finite or misshapen.
    """
    refuse_coupled(D, "twisted")
    if x.ndim < 3:
        raise ValueError(f"x must be (S, K, *D), S systems of K particles, got shape {tuple(x.shape)}")
    grid = begin(D, x.flatten(0, 1), times)
    arguments.real("threshold", threshold, 0.0, 1.0)
    systems, count = x.shape[:2]

    def checked(value: Tensor, rows: Tensor) -> Tensor:
        if value.shape != rows.shape[:1]:
            raise ValueError(f"a log-likelihood must return one value a row, got {tuple(value.shape)} for {len(rows)}")
        arguments.finite("the log-likelihood", value)
        return value

    def guess(x0: Tensor) -> Tensor:
        return checked(log_likelihood(x0) if log_twist is None else log_twist(x0, s), x0)

    log_weights = x.new_zeros(systems, count, dtype=torch.float64)
    total, resampled, before = log_weights[:, 0].clone(), torch.zeros(systems, dtype=torch.int64), 0.0
    row = torch.arange(systems, device=x.device)[:, None]
    for s, (a, b, c) in zip(grid.times, ancestral_steps(grid), strict=False):
        told = at_prediction(D, x.flatten(0, 1), s, guess)
        x0, value, shift = (v.reshape(systems, count, *v.shape[1:]) for v in told)
        log_weights = log_weights + value - before
        chosen, low = resample(log_weights, threshold, generator)
        total = torch.where(low, total + log_weights.logsumexp(1) - math.log(count), total)
        log_weights = torch.where(low[:, None], 0.0, log_weights)
        resampled += low.cpu()
        x, x0, shift, before = x[row, chosen], x0[row, chosen], shift[row, chosen], value[row, chosen]
        x = a * x + b * x0
        if c:
            z = standard_normal(x.shape, generator, x.dtype, x.device)
            moved = (b / c) * shift
            x = x + c * (z + moved)
            # log p − log q at the same point: the step is z + moved standard deviations from p's mean, z from q's.
            log_weights = log_weights - (moved * z + moved.square() / 2).double().flatten(2).sum(2)
    end = checked(log_likelihood(x.flatten(0, 1)), x.flatten(0, 1)).double().reshape(systems, count)
    log_weights = log_weights + end - before
    return Steered(x, log_weights, total + log_weights.logsumexp(1) - math.log(count), resampled)
