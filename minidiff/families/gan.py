"""A generative adversarial network (Goodfellow et al. 2014), with the relativistic loss of R3GAN as an option.

A discriminator with logit L tells data from samples G(z), z ~ N(0, I); the generator moves its samples to where they
are taken for data. For a generator of density q the best logit is the log-ratio of the densities, `optimal_logit`, and
at it E_p log D + E_q log(1 − D) = 2 JS(p ‖ q) − log 4 (D = sigmoid L). `play` is the training: two losses, two
optimisers, in turn. Unlike the loss of every other family here, neither says how good the samples are.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

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

    def discriminator_loss(self, x: Tensor, z: Tensor, penalty: float = 1.0) -> Tensor:
        """Its loss with `penalty` · γ R1 (relativistic: R1 + R2), (B,); no gradient reaches the generator."""
        with torch.no_grad():
            made = self.generate(z)
        loss = discriminator_loss(self.logit(x), self.logit(made), self.relativistic)
        for points in [x, made][: 1 + self.relativistic] if self.gamma * penalty else ():
            loss = loss + penalty * self.gamma * gradient_penalty(self.logit, points)
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


def play(
    gan: GAN, batches: Iterable[tuple[Tensor]], *, rounds: int, generator: Generators = None, every: int = 8
) -> Iterator[tuple[float, float]]:
    """Train both, a step each a round, on at least `rounds` batches (B, *shape); yields the
    discriminator's loss and the generator's.

    The discriminator learns at twice the generator's rate (two time scales, Heusel et al. 2017), Adam has no momentum,
    both rates fall over the second half. The penalty comes in each `every`-th round, `every` times as heavy.
    """
    for name, value in (("rounds", rounds), ("every", every)):
        arguments.positive_integer(name, value)
    players = (gan.discriminator, 2e-3), (gan.generator, 1e-3)
    optimisers = [torch.optim.Adam(part.parameters(), lr, (0.0, 0.99), fused=True) for part, lr in players]
    k = -1
    for k, (x,) in zip(range(rounds), batches, strict=False):
        losses, penalty = [], every * (k % every == 0)
        for optimiser, (part, lr) in zip(optimisers, players, strict=True):
            z = standard_normal((len(x), gan.latent), generator, x.dtype, x.device)
            loss = gan.generator_loss(x, z) if part is gan.generator else gan.discriminator_loss(x, z, penalty)
            optimiser.zero_grad()
            loss.mean().backward(inputs=list(part.parameters()))
            optimiser.param_groups[0]["lr"] = lr * min(1.0, 2 - 2 * k / rounds)
            optimiser.step()
            losses.append(float(loss.detach().mean()))
        yield losses[0], losses[1]
    if k + 1 < rounds:
        raise ValueError(f"batches must last for {rounds} rounds, they ended after {k + 1}")
