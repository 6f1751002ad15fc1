"""A Gaussian variational autoencoder of images with grey levels (Kingma & Welling 2014; Rezende et al. 2014).

z ~ N(0, I), x | z: each pixel the mass that N(m_i(z), s_i(z)²) puts on the bin of its grey level, the likelihood that
also ends the chain of `minidiff.bound`, so that bits per dimension of the two can be compared. The encoder is a
diagonal Gaussian q(z | x) = N(μ(x), diag s(x)²).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from minidiff import arguments
from minidiff.bound import discretised_log_prob
from minidiff.likelihood import quantise
from minidiff.nets.perceptron import perceptron
from minidiff.noise import Generators, standard_normal


def standard_kl(mean: Tensor, std: Tensor) -> Tensor:
    """KL(N(mean, diag std²) ‖ N(0, I)) = ½ Σ (μ² + s² − 1 − log s²); (B, k) → (B,) nats."""
    arguments.same_shape("std", std, "mean", mean)
    return (mean.square() + std.square() - 1 - 2 * std.log()).sum(1) / 2


class NegativeELBO(NamedTuple):
    """The two parts of −ELBO, each (B,) nats: −log p(x | z) at the drawn z, and KL(q(z | x) ‖ p(z))."""

    reconstruction: Tensor
    kl: Tensor


class VAE(nn.Module):
    """Encoder and decoder of two hidden layers each, for images (B, *shape) on `levels` grey levels in [−1, 1].

    shape: of one image; latent: dimension of z; width: of the hidden layers; dropout: of the hidden layers, in training
    mode. Raises ValueError for sizes below 1, levels below 2, or a dropout outside [0, 1).
    """

    def __init__(
        self,
        shape: tuple[int, ...] = (1, 8, 8),
        latent: int = 16,
        width: int = 256,
        levels: int = 17,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        for name, value, least in (("latent", latent, 1), ("width", width, 1), ("levels", levels, 2)):
            arguments.positive_integer(name, value, least)
        self.shape, self.latent, self.levels = tuple(shape), latent, levels
        self.dimensions = math.prod(self.shape)
        self.encoder = perceptron(self.dimensions, 2 * latent, width, dropout)
        self.decoder = perceptron(latent, 2 * self.dimensions, width, dropout)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """μ(x) and s(x) of q(z | x), each (B, latent). Raises ValueError for images of another shape."""
        arguments.floating("x", x)
        if x.shape[1:] != self.shape:
            raise ValueError(f"x must have shape (B, {', '.join(map(str, self.shape))}), got {tuple(x.shape)}")
        mean, raw = self.encoder(x.flatten(1)).chunk(2, 1)
        return mean, _positive(raw)

    def decode(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """m(z) and s(z) of the pixels before they are cut into bins, each (B, *shape); z (B, latent)."""
        if z.ndim != 2 or z.shape[1] != self.latent:
            raise ValueError(f"z must have shape (B, {self.latent}), got {tuple(z.shape)}")
        mean, raw = self.decoder(z).chunk(2, 1)
        return mean.reshape(-1, *self.shape), _positive(raw).reshape(-1, *self.shape)

    def log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
        """log p(x | z), the mass of the bins; (B,) float64. Raises ValueError for x off the grey levels."""
        mean, std = self.decode(z)
        return discretised_log_prob(x, mean.double(), std.double(), self.levels).flatten(1).sum(1)

    def forward(self, x: Tensor, eps: Tensor) -> NegativeELBO:
        """−ELBO(x) in its two parts, at z = μ(x) + s(x) ε; eps (B, latent) from N(0, I). Their sum is the loss."""
        mean, std = self.encode(x)
        arguments.same_shape("eps", eps, "the mean of z", mean)
        return NegativeELBO(-self.log_likelihood(x, mean + std * eps), standard_kl(mean.double(), std.double()))

    @torch.no_grad()
    def log_prob(self, x: Tensor, draws: int, generator: Generators = None) -> Tensor:
        """log (1/K) Σ_k p(x, z_k)/q(z_k | x), z_k ~ q, K = draws: on average below log p(x), rising with K; (B,).

        Source: Burda et al. 2016, eq. 8; K = 1 is a draw of the ELBO.
        """
        arguments.positive_integer("draws", draws)
        mean, std = self.encode(x)
        weights = []
        for _ in range(draws):
            eps = standard_normal(mean.shape, generator, mean.dtype, mean.device)
            z = mean + std * eps
            # The constants of the two normal densities cancel.
            log_ratio = (eps.double().square() - z.double().square()).sum(1) / 2 + std.double().log().sum(1)
            weights.append(self.log_likelihood(x, z) + log_ratio)
        return torch.stack(weights).logsumexp(0) - math.log(draws)

    @torch.no_grad()
    def sample(self, n: int, generator: Generators = None, noise: bool = False) -> Tensor:
        """n images (n, *shape) from z ~ N(0, I): the means m(z), or with noise=True a draw of the grey levels."""
        arguments.positive_integer("n", n)
        device = next(self.parameters()).device
        mean, std = self.decode(standard_normal((n, self.latent), generator, device=device))
        if not noise:
            return mean.clamp(-1, 1)
        return quantise(mean + std * standard_normal(mean.shape, generator, device=device), self.levels)


def _positive(raw: Tensor) -> Tensor:
    """A standard deviation between e^−4 and e^4: a softly bounded logarithm, so that no pixel can run away."""
    return (4 * torch.tanh(raw / 4)).exp()
