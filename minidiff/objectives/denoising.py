"""Training losses: one denoising loss, and the weights that papers give it.

Every weight is a function (process, t) → w_t, t () or (B,), that multiplies the squared error |x_0 − x̂_0|², for any
(α, σ). A paper's loss on ε, v or the velocity is this loss with another weight, because each prediction is linear
in x̂_0 at fixed x_t: ε − ε̂ = −(α/σ)(x_0 − x̂_0), v − v̂ = −((α² + σ²)/σ)(x_0 − x̂_0), u − û = αλ′(x_0 − x̂_0). What
training feels is the weight times the density of the times (`times.Density.pdf_lam`).
Weights with parameters take them by keyword: `functools.partial(min_snr, gamma=3.0)`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from minidiff import arguments
from minidiff.denoiser import DenoiserLike
from minidiff.process import Process

Weight = Callable[[Process, Tensor], Tensor]


def snr(process: Process, t: Tensor) -> Tensor:
    """The signal-to-noise ratio α²/σ², the weight of the loss on ε; 0 at α = 0, infinite at σ = 0."""
    return (process.alpha(t) / process.sigma(t)).square()


def simple(process: Process, t: Tensor) -> Tensor:
    """DDPM's L_simple = |ε − ε̂|² (Ho et al. 2020, eq. 14): w = SNR."""
    return snr(process, t)


def uniform(process: Process, t: Tensor) -> Tensor:
    """The loss on x_0 itself: w = 1."""
    return torch.ones_like(process.alpha(t))


def v(process: Process, t: Tensor) -> Tensor:
    """The loss |v − v̂|² (Salimans & Ho 2022): w = (α² + σ²)²/σ², which is SNR + 1 where α² + σ² = 1."""
    alpha, sigma = process.alpha(t), process.sigma(t)
    return ((alpha**2 + sigma**2) / sigma).square()


def velocity(process: Process, t: Tensor) -> Tensor:
    """Flow matching's loss on dx/dt (Lipman et al. 2022): w = (αλ′)² = (α′ − ασ′/σ)²."""
    alpha_rate, sigma_rate = process.rates(t)
    return (alpha_rate - process.alpha(t) * sigma_rate / process.sigma(t)).square()


def score(process: Process, t: Tensor) -> Tensor:
    """The plain loss on the score, |s − ŝ|² with s = −ε/σ: w = α²/σ⁴."""
    return (process.alpha(t) / process.sigma(t).square()).square()


def likelihood(process: Process, t: Tensor) -> Tensor:
    """Maximum-likelihood training of score models, ½ g² |s − ŝ|² (Song et al. 2021, ScoreFlow, eq. 7): w = ½ g² α²/σ⁴.

    Since g² = −2σ²λ′ it is `elbo` written in the terms of the SDE.
    """
    value = process.g2(t) / 2 * score(process, t)
    return torch.where(value.isnan(), elbo(process, t), value)  # 0 · ∞ at an end, where elbo has the limit


def elbo(process: Process, t: Tensor) -> Tensor:
    """The continuous-time variational bound (Kingma et al. 2021, eq. 11): w = −½ dSNR/dt = α (ασ′ − σα′)/σ³.

    With t uniform the mean loss times the number of coordinates is the diffusion part of −ELBO in nats. Its
    integral over t does not depend on the schedule between its two ends.
    """
    alpha, sigma = process.alpha(t), process.sigma(t)
    alpha_rate, sigma_rate = process.rates(t)
    return alpha * (alpha * sigma_rate - sigma * alpha_rate) / sigma**3


def sigmoid(process: Process, t: Tensor, *, bias: float = 0.0) -> Tensor:
    """The ELBO's weight times sigmoid(bias − log SNR) (Kingma & Gao 2023): w = −½ dSNR/dt / (1 + SNR e^{−bias}).

    The factor falls monotonically with the SNR, so the loss is still a bound, for data augmented with noise.
    """
    alpha, sigma = process.alpha(t), process.sigma(t)
    alpha_rate, sigma_rate = process.rates(t)
    return alpha * (alpha * sigma_rate - sigma * alpha_rate) / (sigma * (sigma**2 + alpha**2 * math.exp(-bias)))


def truncated_snr(process: Process, t: Tensor) -> Tensor:
    """w = max(SNR, 1), the larger of the losses on x_0 and on ε (Salimans & Ho 2022, section 4)."""
    return snr(process, t).clamp(min=1)


def min_snr(process: Process, t: Tensor, *, gamma: float = 5.0) -> Tensor:
    """Min-SNR-γ (Hang et al. 2023, eq. 8): w = min(SNR, γ), on ε min(1, γ/SNR), on v min(SNR, γ)/(SNR + 1)."""
    return snr(process, t).clamp(max=gamma)


def edm(process: Process, t: Tensor, *, sigma_data: float = 1.0) -> Tensor:
    """EDM's λ(σ) = (σ² + σ_data²)/(σ σ_data)² (Karras et al. 2022, table 1), for any α: w = SNR + 1/σ_data²."""
    return snr(process, t) + 1 / sigma_data**2


def p2(process: Process, t: Tensor, *, k: float = 1.0, gamma: float = 1.0) -> Tensor:
    """Perception-prioritised weighting (Choi et al. 2022, eq. 8): 1/(k + SNR)^γ on ε, so w = SNR/(k + SNR)^γ."""
    alpha, sigma = process.alpha(t), process.sigma(t)
    return alpha**2 * sigma ** (2 * gamma - 2) / (k * sigma**2 + alpha**2) ** gamma


def denoising_loss(
    D: DenoiserLike,
    x0: Tensor,
    t: Tensor,
    eps: Tensor,
    y: Tensor | None = None,
    weight: Weight = simple,
) -> Tensor:
    """w_t |x_0 − D(α_t x_0 + σ_t ε, t)|², the mean over coordinates; (B,).

    x0 and eps are (B, *D), t () or (B,) in [0, 1], y the condition handed to D. Raises ValueError where the weight is
    infinite (SNR at σ = 0: the loss has no value there; draw t > 0), and as `Process.noise` does.
    """
    x = D.process.noise(x0, t, eps)
    w = weight(D.process, t.double())
    _refuse_infinite(w, t)
    x0_hat = D(x, t) if y is None else D(x, t, y)
    arguments.same_shape("x0", x0, "D(x, t)", x0_hat)
    return w.to(x0) * (x0 - x0_hat).square().flatten(1).mean(1)


def _refuse_infinite(w: Tensor, t: Tensor) -> None:
    infinite = ~torch.isfinite(w)
    if bool(infinite.any()):
        where = float(t[infinite].min())
        raise ValueError(f"the weight must be finite, got an infinite one at t = {where}: draw times inside (0, 1)")
