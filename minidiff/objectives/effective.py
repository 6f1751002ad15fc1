"""What a loss asks for: its weight times the density of the times, on the one axis that all losses share."""

from __future__ import annotations

import torch
from torch import Tensor

from minidiff import arguments
from minidiff.objectives.denoising import Weight
from minidiff.process import Process
from minidiff.times import Density


def effective_weight(weight: Weight, density: Density, process: Process, lam: Tensor) -> Tensor:
    """ω(λ) = w(t) e^{−2λ} p(λ) at t = time(λ), so that E_t w(t) |x_0 − x̂_0|² = ∫ ω(λ) E|ε − ε̂|² dλ; the shape of λ.

    w is a weight of `denoising_loss`, on the error of x_0; e^{−2λ} = σ²/α² turns it into a weight on the error of ε,
    and p(λ) is the density of λ that `density` has through the process. Two trainings with proportional ω have the
    same expected loss up to that factor, whatever network, schedule and clock they use; ω = 1 is −ELBO in nats
    (Kingma & Gao 2023, section 3, whose λ is twice ours).

    lam is float64 or float32 inside the range of the process. Raises TypeError for other dtypes, ValueError for values
    outside, and at the ends of the range, where λ or its speed may be infinite.
    """
    arguments.finite("lam", lam)
    low, high = process.lam_range
    if bool(((lam <= low) | (lam >= high)).any()):
        got = f"{float(lam.min()):g} to {float(lam.max()):g}"
        raise ValueError(f"λ must lie inside ({low:g}, {high:g}), the range of {process}, got values from {got}")
    t = process.time(lam.double())
    value = weight(process, t) * torch.exp(-2 * lam.double()) * density.pdf_lam(process, t)
    return value.to(lam.dtype)
