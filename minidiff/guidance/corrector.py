"""The sharpened density, sampled: particles on guided chains, weighted by how far CFG is from it (Feynman–Kac)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from minidiff import arguments
from minidiff.guidance.scale import Guided, extrapolate, require_guided
from minidiff.noise import Generators, standard_normal
from minidiff.samplers.posterior import ancestral_steps
from minidiff.samplers.state import begin, refuse_coupled
from minidiff.samplers.steering import Steered, resample


def corrected(
    guided: Guided,
    x: Tensor,
    times: Tensor,
    *,
    moved_by: float | None = None,
    threshold: float = 0.5,
    generator: Generators = None,
) -> Steered:
    """Particles of p_1(x)^w p_0(x)^{1−w}/Z, p_1 and p_0 the laws of the positive and negative denoiser.

    A step s → t of `ancestral` is N(a x + b D, c² I) with b²/c² = SNR_t − SNR_s. Particles move on the chain guided by
    the scale m = moved_by, by default w, with noise c z, and G = kernel_1^w kernel_0^{1−w} / kernel_m is

        log G = (w − m) z·δ + ½ (w (w − 1) − (w − m)²) ‖δ‖²,    δ = √(SNR_t − SNR_s) (D_1 − D_0),

    so that particles weighted by the product of all G stand for the product of path densities P_1^w P_0^{1−w} of the
    two chains. If these reverse one forward process exactly, as in the limit of small steps, its law at the end is
    p_1^w p_0^{1−w}: given the end, both paths are that of the forward process. For m = w the weight is that of Skreta
    et al. 2025, ½ w (w − 1) g² ‖score_1 − score_0‖² dt. A step to σ_t = 0 has neither noise nor weight,
    and is guided by w.

    What CFG makes too narrow, no weight widens again: where w is large, m = w leaves the tails without particles (the
    variance of the weights may be infinite), and m = 1 weights the conditional chain by (p_1/p_0)^{w−1}, which is
    bounded if p_1/p_0 is.

    guided: of `cfg` or `autoguidance`, with one number w and no interval, and y bound for the S·K rows, system by
    system, the same for all of a system. x: (S, K, *D) at times[0], drawn from the prior, which the two chains must
    share. threshold, generator, resampling and result as in `samplers.steered`; Ẑ estimates Z. Two calls a step.

    Raises what `begin` raises, TypeError for what is not `Guided`, ValueError for a coupled denoiser, an interval, a w
    for each row, a rule other than `extrapolate`, an x without two batch axes, a threshold outside [0, 1] and an m that
    is not finite.
    """
    require_guided(guided, "corrected")
    if guided.interval is not None or isinstance(guided.w, Tensor) or guided.rule is not extrapolate:
        raise ValueError("p_1^w p_0^{1−w} needs one number w at all times: no interval, no rescaling, no projection")
    refuse_coupled(guided, "corrected")
    if x.ndim < 3:
        raise ValueError(f"x must be (S, K, *D), S systems of K particles, got shape {tuple(x.shape)}")
    grid = begin(guided, x.flatten(0, 1), times)
    w, m = guided.w, guided.w if moved_by is None else moved_by
    arguments.real("moved_by", m)
    arguments.real("threshold", threshold, 0.0, 1.0)

    x = x.to(torch.promote_types(x.dtype, torch.float32))
    systems, count = x.shape[:2]
    row = torch.arange(systems, device=x.device)[:, None]
    log_weights = x.new_zeros(systems, count, dtype=torch.float64)
    total, resampled = log_weights[:, 0].clone(), torch.zeros(systems, dtype=torch.int64)
    for i, (a, b, c) in enumerate(ancestral_steps(grid)):
        chosen, low = resample(log_weights, threshold, generator)
        total = torch.where(low, total + log_weights.logsumexp(1) - math.log(count), total)
        log_weights = torch.where(low[:, None], 0.0, log_weights)
        resampled += low.cpu()
        x = x[row, chosen]
        x1, x0 = (D(x.flatten(0, 1), grid.times[i]).to(x.dtype) for D in (guided.positive, guided.negative))
        x = a * x + b * extrapolate(x1, x0, m if c else w).reshape(x.shape)
        if c:
            z = standard_normal(x.shape, generator, x.dtype, x.device)
            x = x + c * z
            delta = ((b / c) * (x1 - x0)).double().reshape(systems, count, -1)
            along = (z.double().flatten(2) * delta).sum(-1)
            log_weights = log_weights + (w - m) * along + (w * (w - 1) - (w - m) ** 2) / 2 * delta.square().sum(-1)
    return Steered(x, log_weights, total + log_weights.logsumexp(1) - math.log(count), resampled)
