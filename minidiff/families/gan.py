"""A generative adversarial network (Goodfellow et al. 2014), with the relativistic loss of R3GAN as an option.

A discriminator with logit L tells data from samples G(z), z ~ N(0, I); the generator moves its samples to where they
are taken for data. For a generator of density q the best logit is the log-ratio of the densities, `optimal_logit`, and
at it E_p log D + E_q log(1 − D) = 2 JS(p ‖ q) − log 4 (D = sigmoid L). Two losses, two optimisers, in turn:

    for _ in zip(fit(gan.discriminator_loss, gan.discriminator.parameters(), batches, ...),
                 fit(gan.generator_loss, gan.generator.parameters(), batches, ...)): ...

with batches of pairs (x, z). Unlike the loss of every other family here, neither says how good the samples are.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minidiff import arguments
from minidiff.nets.perceptron import perceptron
from minidiff.noise import Generators, standard_normal


def optimal_logit(log_data: Tensor, log_model: Tensor) -> Tensor:
    """L* = log p(x) − log q(x), so that sigmoid L* = p/(p + q): the best discriminator (Goodfellow et al., prop. 1).

    The log densities of data and samples at the same points, of one shape; the result has it. Its gradient is the
    difference of the two scores.
    """
    arguments.same_shape("log_data", log_data, "log_model", log_model)
    return log_data - log_model


def discriminator_loss(real: Tensor, fake: Tensor, relativistic: bool = False) -> Tensor:
    """−log D(x) − log(1 − D(G(z))) from the logits of data and samples, (B,) each → (B,).

    relativistic: −log sigmoid(L(x) − L(G(z))), which asks only that data look better than samples (Jolicoeur-Martineau
    2019; Huang et al. 2024, eq. 2).
    """
    arguments.same_shape("real", real, "fake", fake)
    return F.softplus(fake - real) if relativistic else F.softplus(-real) + F.softplus(fake)


def generator_loss(real: Tensor, fake: Tensor, relativistic: bool = False) -> Tensor:
    """−log D(G(z)), the non-saturating loss, (B,); relativistic: −log sigmoid(L(G(z)) − L(x)).

    Its slope does not vanish where D is sure of a fake, as that of log(1 − D(G(z))) does; `real` counts only in the
    relativistic loss.
    """
    arguments.same_shape("real", real, "fake", fake)
    return F.softplus(real - fake) if relativistic else F.softplus(-fake)


def gradient_penalty(logit: nn.Module, x: Tensor) -> Tensor:
    """½ |∇_x L(x)|², (B,), for an L whose row i depends on row i of x alone: R1 at data (Mescheder et al. 2018), R2 at
    samples.
    """
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        (slope,) = torch.autograd.grad(logit(x).sum(), x, create_graph=True)
    return slope.square().flatten(1).sum(1) / 2


class GAN(nn.Module):
    """A generator (B, latent) → (B, *shape) and a discriminator (B, *shape) → (B,), each with two hidden layers.

    gamma: weight of the gradient penalty, R1 and, if relativistic, R2 as well: without it the game circles or diverges
    where data and samples lie on thin sets. limit: largest value of a sample, 1 for images, through tanh; None for
    none. Raises ValueError for sizes below 1, negative gamma or limit ≤ 0.
    """

    def __init__(
        self,
        shape: tuple[int, ...] = (1, 8, 8),
        latent: int = 16,
        width: int = 256,
        gamma: float = 1.0,
        relativistic: bool = False,
        limit: float | None = 1.0,
    ) -> None:
        super().__init__()
        arguments.positive_integer("latent", latent)
        arguments.real("gamma", gamma, 0.0)
        if limit is not None:
            arguments.real("limit", limit, 1e-12)
        self.shape, self.latent = tuple(shape), latent
        self.gamma, self.relativistic, self.limit = gamma, relativistic, limit
        self.generator = perceptron(latent, math.prod(self.shape), width)
        self.discriminator = perceptron(math.prod(self.shape), 1, width)

    def generate(self, z: Tensor) -> Tensor:
        """G(z), (B, *shape); z (B, latent)."""
        if z.ndim != 2 or z.shape[1] != self.latent:
            raise ValueError(f"z must have shape (B, {self.latent}), got {tuple(z.shape)}")
        x = self.generator(z).reshape(-1, *self.shape)
        return x if self.limit is None else self.limit * torch.tanh(x / self.limit)

    def logit(self, x: Tensor) -> Tensor:
        """L(x), (B,): positive where x looks like data. At the optimum log p(x)/q(x) (not if relativistic)."""
        arguments.floating("x", x)
        if x.shape[1:] != self.shape:
            raise ValueError(f"x must have shape (B, {', '.join(map(str, self.shape))}), got {tuple(x.shape)}")
        return self.discriminator(x.flatten(1))[:, 0]

    def discriminator_loss(self, x: Tensor, z: Tensor) -> Tensor:
        """The discriminator's loss with γ R1 (relativistic: γ (R1 + R2)), (B,); no gradient reaches the generator."""
        with torch.no_grad():
            made = self.generate(z)
        loss = discriminator_loss(self.logit(x), self.logit(made), self.relativistic)
        if self.gamma:
            loss = loss + self.gamma * gradient_penalty(self.logit, x)
            if self.relativistic:
                loss = loss + self.gamma * gradient_penalty(self.logit, made)
        return loss

    def generator_loss(self, x: Tensor, z: Tensor) -> Tensor:
        """The generator's loss, (B,); give only the generator's parameters to the optimiser."""
        return generator_loss(self.logit(x), self.logit(self.generate(z)), self.relativistic)

    @torch.no_grad()
    def sample(self, n: int, generator: Generators = None) -> Tensor:
        """n samples G(z), (n, *shape), z ~ N(0, I): one pass."""
        arguments.positive_integer("n", n)
        device = next(self.parameters()).device
        return self.generate(standard_normal((n, self.latent), generator, device=device))
