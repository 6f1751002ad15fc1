"""The variational bound of infinitely many steps (Kingma et al. 2021, eqs. 12, 13 and 17).

Between two times low < high of a process, −log p(x_0) ≤ prior + reconstruction + diffusion, in nats:

    prior           KL(q(x_high | x_0) ‖ N(0, (α² + σ²) I)), `bound.prior_kl`
    reconstruction  −E log P(x_0 | x_low), P a softmax over the grey levels
    diffusion       −½ ∫_low^high SNR′(t) E|x_0 − D(x_t, t)|² dt = ∫ E|ε − ε̂|² dλ

The first two depend on the ends alone. The third is an integral over t, estimated at random times; between fixed ends
its value does not depend on the process or on the density of the times, its variance does.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from minidiff import arguments
from minidiff.bound import check_levels, prior_kl
from minidiff.denoiser import DenoiserLike
from minidiff.noise import Generators, standard_normal
from minidiff.objectives import denoising_loss, elbo
from minidiff.process import Process
from minidiff.times import Density, uniform_density


class Terms(NamedTuple):
    """The three parts of the bound, each (B,) nats in float64; `total` is their sum."""

    prior: Tensor
    reconstruction: Tensor
    diffusion: Tensor

    @property
    def total(self) -> Tensor:
        """prior + reconstruction + diffusion, (B,)."""
        return self.prior + self.reconstruction + self.diffusion


def reconstruction_term(process: Process, x0: Tensor, t: Tensor, eps: Tensor, levels: int) -> Tensor:
    """−log P(x_0 | x_t) at x_t = α x_0 + σ ε, one draw of its expectation; (B,) nats, float64.

    Each coordinate is a softmax over the grey levels v_k = −1 + 2k/(levels − 1): P(v_k | x_t) ∝ q(x_t | v_k), the
    posterior of a level when all are equally likely (Kingma et al. 2021, eq. 13). x0 and eps (B, *D), t () or (B,).
    Raises ValueError for x0 off the grey levels and where σ_t = 0.
    """
    check_levels(x0, levels)
    arguments.same_shape("x0", x0, "eps", eps)
    arguments.time_of_batch(t, x0)
    root_snr = process.lam(t.double()).exp()
    if not bool(root_snr.isfinite().all()):
        raise ValueError(f"the reconstruction needs σ_t > 0, got t = {float(t.min())} with σ = 0")
    x0, eps, root_snr = x0.double(), eps.double(), arguments.along(root_snr, x0.double())
    values = torch.linspace(-1, 1, levels, dtype=torch.float64, device=x0.device)
    offset = (x0[..., None] - values) * (root_snr[..., None] if root_snr.ndim else root_snr)
    log_likelihood = -(offset + eps[..., None]).square() / 2  # of x_t under level v_k, in units of σ
    chosen = ((x0 + 1) * (levels - 1) / 2).round().long()[..., None]
    nats = log_likelihood.logsumexp(-1) - log_likelihood.gather(-1, chosen)[..., 0]
    return nats.flatten(1).sum(1)


def diffusion_term(
    D: DenoiserLike,
    x0: Tensor,
    t: Tensor,
    eps: Tensor,
    y: Tensor | None = None,
    density: Density | None = None,
) -> Tensor:
    """−½ SNR′(t) |x_0 − D(x_t, t)|² / p(t): with t drawn from the density p, its mean is the diffusion term; (B,) nats.

    It can be trained on: the mean over a batch is an unbiased estimate of the only term that a network changes.
    x0 and eps (B, *D), t (B,), y the condition handed to D; density: where t was drawn, by default uniform on [0, 1].
    Raises ValueError where the weight is infinite (σ_t = 0, or a t that the density never draws).
    """
    law = uniform_density() if density is None else density
    nats = denoising_loss(D, x0, t, eps, y, weight=lambda process, time: elbo(process, time) / law.pdf(time))
    return x0[0].numel() * nats.double()


@torch.no_grad()
def terms(
    D: DenoiserLike,
    x0: Tensor,
    *,
    levels: int,
    low: float,
    high: float = 1.0,
    density: Density | None = None,
    y: Tensor | None = None,
    generator: Generators = None,
) -> Terms:
    """One draw of all three terms for each sample, at one random time each: one call of D.

    low < high are the times of the two ends; density draws the times between them (default: uniform) and may be a
    `times.low_discrepancy` one, which spreads them over the batch. The mean over a batch of data is an unbiased
    estimate of the bound. x0 (B, *D) on `levels` grey levels.
    Raises ValueError unless 0 ≤ low < high ≤ 1 with σ > 0 at low, and unless the density runs from low to high.
    """
    law = uniform_density(low, high) if density is None else density
    reached = law.inverse_cdf(torch.tensor([0.0, 1.0], dtype=torch.float64)).sort().values
    if not torch.allclose(reached, torch.tensor([low, high], dtype=torch.float64), rtol=0, atol=1e-6):
        raise ValueError(f"the density must draw times from {low} to {high}, got one from {reached.tolist()}")
    one = generator[0] if isinstance(generator, list | tuple) else generator
    t = law(len(x0), one).to(x0.device)
    eps = [standard_normal(x0.shape, generator, x0.dtype, x0.device) for _ in range(2)]
    first = torch.tensor(low, dtype=torch.float64)
    return Terms(
        prior_kl(D.process, x0, high),
        reconstruction_term(D.process, x0, first, eps[0], levels),
        diffusion_term(D, x0, t, eps[1], y, law),
    )
