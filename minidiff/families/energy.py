"""An energy-based model of noisy data, p_t(x) = exp(−E(x, t))/Z_t, trained without Z_t.

Langevin dynamics needs the score −∇E, which does not see Z_t. The likelihood does: it is trained by contrast with noise
(Gutmann & Hyvärinen 2010), or as that of x_t given a noisier x_s, the recovery likelihood (Gao et al. 2021). Through
its score an energy is a denoiser, D = (x + σ² s)/α: what diffusion drops is the energy.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minidiff import arguments
from minidiff.denoiser import convert
from minidiff.nets.perceptron import perceptron
from minidiff.noise import Generators, standard_normal
from minidiff.process import Process
from minidiff.samplers import langevin, last
from minidiff.times import pairwise

CLOCK = 4  # harmonics of the angle of the noise
STEEPNESS = 4.0  # of the network's x: one that starts nearly linear has no slope towards the curvature that modes need


def nce_loss(data: Tensor, noise: Tensor) -> Tensor:
    """−log h(x) − Σ_j log(1 − h(y_j)) with h = sigmoid(G − log ν): tell data x from ν draws y of a known law; (B,).

    data (B,) and noise (ν, B) are G = log p_θ − log p_noise at x and at y_j, where log p_θ = −E is not normalised: the
    minimiser over all functions is the true log density, whose constant is found as well (Gutmann & Hyvärinen 2010,
    eq. 5, theorem 1). At ν = 1 it is the loss of a GAN's discriminator, with G as its logit.
    """
    if noise.ndim != 2 or not len(noise) or noise.shape[1:] != data.shape:
        got = f"{tuple(data.shape)} and {tuple(noise.shape)}"
        raise ValueError(f"data must be (B,) and noise (ν, B) with ν ≥ 1, got {got}")
    log_ratio = math.log(len(noise))
    return F.softplus(log_ratio - data) + F.softplus(noise - log_ratio).sum(0)


class Energy(nn.Module):
    """E(x, t) = |x|²/2q_t + net(4 x/√q_t, θ_t), q_t = α² σ_data² + σ², for x (B, *shape): a network on a Gaussian.

    θ_t = arctan(σ/(α σ_data)) tells the network the noise and is finite at both ends. Raises ValueError for a width
    below 1 or sigma_data ≤ 0.
    """

    coupled = False

    def __init__(
        self, process: Process, shape: tuple[int, ...] = (2,), width: int = 128, sigma_data: float = 1.0
    ) -> None:
        super().__init__()
        arguments.real("sigma_data", sigma_data, 1e-12)
        self.process, self.shape, self.sigma_data = process, tuple(shape), sigma_data
        self.net = perceptron(math.prod(self.shape) + 2 * CLOCK, 1, width)

    def energy(self, x: Tensor, t: Tensor) -> Tensor:
        """E(x, t), (B,); t () or (B,). −E is log p_t up to log Z_t."""
        arguments.floating("x", x)
        if x.shape[1:] != self.shape:
            raise ValueError(f"x must have shape (B, {', '.join(map(str, self.shape))}), got {tuple(x.shape)}")
        arguments.time_of_batch(t, x)
        alpha, sigma = self.process.alpha(t.double()), self.process.sigma(t.double())
        angle = 2 * torch.atan2(sigma, alpha * self.sigma_data)[..., None]
        harmonics = angle * torch.arange(1, CLOCK + 1, device=angle.device)
        clock = torch.cat([harmonics.cos(), harmonics.sin()], -1).to(x).expand(len(x), -1)
        root = (alpha**2 * self.sigma_data**2 + sigma**2).sqrt().to(x)
        rows = x.flatten(1) / root.reshape(-1, 1)
        return rows.square().sum(1) / 2 + self.net(torch.cat([STEEPNESS * rows, clock], 1))[:, 0]

    def score(self, x: Tensor, t: Tensor) -> Tensor:
        """−∇_x E(x, t), like x, by automatic differentiation; differentiable itself where gradients are on."""
        keep = torch.is_grad_enabled()
        with torch.enable_grad():
            x = x if x.requires_grad else x.detach().requires_grad_()
            (slope,) = torch.autograd.grad(self.energy(x, t).sum(), x, create_graph=keep)
        return -slope

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """x̂_0 = (x + σ² s)/α: Tweedie's formula with the score of the energy. Raises ValueError at α = 0."""
        return convert(self.score(x, t), x, t, self.process, "score", "x0")

    @torch.no_grad()
    def sample(
        self, n: int, times: Tensor, *, step: float = 0.2, steps: int = 20, generator: Generators = None
    ) -> Tensor:
        """n samples (n, *shape): from `Process.prior` down the times, each level by Langevin on its `Recovery`.

        times: L, float64, falling from 1 to a t with σ > 0, whose noise a last call takes off; step is in units of the
        conditional's Gaussian variance. (L − 1) · steps + 1 calls of the score.
        """
        arguments.positive_integer("n", n)
        weight = self.net[0].weight
        x = self.process.prior((n, *self.shape), generator, weight.dtype, weight.device)
        for s, t in pairwise(times):
            x = Recovery(self, x, s, t).sample(step, steps, generator)
        return self(x, times[-1])


class Recovery:
    """p(x_t | x_s) ∝ exp(−E(x_t, t) − |x_s − a x_t|²/2v), a = α_s/α_t, v = σ_s² − a² σ_t², s > t: a denoiser of x_t.

    With the true energy it is the reverse kernel of diffusion; for s close to t nearly Gaussian, so that a few steps of
    Langevin reach it (Gao et al. 2021, eq. 6). noisy: x_s (B, *D). Raises ValueError unless s > t, with σ_t > 0.
    """

    coupled = False

    def __init__(self, model: Energy, noisy: Tensor, s: Tensor, t: Tensor) -> None:
        arguments.finite("noisy", noisy)
        self.process = process = model.process
        if not float(s) > float(t) or float(process.sigma(t)) == 0:
            raise ValueError(f"s must be noisier than t, and t have noise, got s = {float(s)} and t = {float(t)}")
        self.model, self.noisy, self.t, self.sigma_data = model, noisy, t, model.sigma_data
        self.ratio = float(process.alpha(s) / process.alpha(t))
        self.variance = float(-(process.sigma(s) ** 2) * torch.expm1(2 * (process.lam(s) - process.lam(t))))
        marginal = float(process.alpha(t)) ** 2 * self.sigma_data**2 + float(process.sigma(t)) ** 2
        self.gaussian_variance = 1 / (self.ratio**2 / self.variance + 1 / marginal)

    def score(self, x: Tensor, t: Tensor) -> Tensor:
        """−∇E(x, t) + a (x_s − a x)/v, like x."""
        return self.model.score(x, t) + self.ratio / self.variance * (self.noisy - self.ratio * x)

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """The x̂_0 whose score it is, for `samplers.langevin`."""
        return convert(self.score(x, t), x, t, self.process, "score", "x0")

    @torch.no_grad()
    def sample(self, step: float, steps: int, generator: Generators = None) -> Tensor:
        """x_t (B, *D): `steps` of Langevin with ε = step · Var, from a draw of the conditional of Gaussian data."""
        mean, variance = self.gaussian_variance * self.ratio / self.variance * self.noisy, self.gaussian_variance
        start = mean + math.sqrt(variance) * standard_normal(mean.shape, generator, mean.dtype, mean.device)
        return last(langevin(self, start, self.t, step=step * variance, steps=steps, generator=generator))


def recovery_loss(
    model: Energy, x0: Tensor, s: Tensor, t: Tensor, *, step: float = 0.2, steps: int = 20, generator: Generators = None
) -> Tensor:
    """E(x_t, t) − E(x⁻, t), (B,): its gradient is that of −log p(x_t | x_s) where `Recovery.sample` draws x⁻ from it.

    x_t, x_s: two times of one noisy path of x_0 (B, *D). The value is no likelihood (Gao et al. 2021, algorithm 1).
    """
    noisy = model.process.noise(x0, t, standard_normal(x0.shape, generator, x0.dtype, x0.device))
    recovery = Recovery(model, noisy, s, t)
    z = standard_normal(x0.shape, generator, x0.dtype, x0.device)
    recovery.noisy = recovery.ratio * noisy + math.sqrt(recovery.variance) * z
    made = recovery.sample(step, steps, generator)
    return model.energy(noisy, t) - model.energy(made, t)
