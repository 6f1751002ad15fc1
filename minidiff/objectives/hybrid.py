"""The loss of a learned reverse variance (Nichol & Dhariwal 2021): the bound teaches the variance, nothing else."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from minidiff import arguments
from minidiff.denoiser import DenoiserLike
from minidiff.objectives.denoising import Weight, simple
from minidiff.samplers.reverse_variance import ReverseSteps, reverse_steps


def step_kl(steps: ReverseSteps, i: Tensor, square_error: Tensor, variance: Tensor) -> Tensor:
    """KL(q(x_t | x_s, x_0) ‖ N(μ(x_s, x̂_0), v)) of each coordinate, in nats; the shape of square_error (B, *D).

    ½ (r − 1 − log r) + reveal² (x_0 − x̂_0)²/(2 v) with r = least/v, for the steps i (B,); variance broadcasts to
    square_error. Raises ValueError where least or v is 0: the divergence of a point is infinite.
    """
    least, reveal = (arguments.along(v[i.to(v.device)], square_error) for v in (steps.least, steps.reveal))
    if not bool((least > 0).all()) or not bool((variance > 0).all()):
        raise ValueError("both variances must be positive: leave out steps that end at σ_t = 0 or have η = 0")
    ratio = least / variance
    return (ratio - 1 - ratio.log() + reveal**2 * square_error / variance) / 2


def hybrid_loss(
    D: DenoiserLike,
    nu: Callable[[Tensor, Tensor], Tensor],
    x0: Tensor,
    i: Tensor,
    eps: Tensor,
    times: Tensor,
    *,
    bound_weight: float = 1e-3,
    weight: Weight = simple,
) -> Tensor:
    """w_s |x_0 − x̂_0|² + bound_weight · KL of the step, means over coordinates; (B,) (Nichol & Dhariwal 2021, eq. 16).

    The variance of the step i from s = times[i] to times[i + 1] is exp(ν log β + (1 − ν) log β̃) with ν = nu(x_s, s) of
    the shape of x, or a shape that broadcasts to it. In the second term x̂_0 is a constant: the bound teaches ν and
    leaves the denoiser to the first. x0 and eps (B, *D), i (B,) int64. Raises ValueError for an i outside the steps,
    and for a step that ends at σ = 0.
    """
    steps = reverse_steps(D.process, times)
    if i.dtype != torch.int64 or i.shape != x0.shape[:1]:
        raise ValueError(f"i must be int64 of shape ({len(x0)},), got {i.dtype} of shape {tuple(i.shape)}")
    if not bool(((i >= 0) & (i < len(steps.least))).all()):
        raise ValueError(f"i must lie in 0…{len(steps.least) - 1}, got values from {int(i.min())} to {int(i.max())}")
    arguments.real("bound_weight", bound_weight, 0.0)
    s = times[i.cpu()].to(x0.device)
    x = D.process.noise(x0, s, eps)
    square_error = (x0 - D(x, s)).square()
    share = nu(x, s)
    lower, upper = (arguments.along(values[i.to(values.device)].log(), x) for values in (steps.least, steps.forward))
    divergence = step_kl(steps, i, square_error.detach(), torch.exp(share * upper + (1 - share) * lower))
    plain = weight(D.process, s.double()).to(x0) * square_error.flatten(1).mean(1)
    return plain + bound_weight * divergence.flatten(1).mean(1)
