"""CausalVAE (Yang et al. 2021): a variational autoencoder whose latent variables obey a structural causal model.

The latent variables are concepts with known values u, such as a lamp's height and the length of a shadow, and the model
finds which causes which. A plain autoencoder's variables are independent: moving one moves nothing else. Here
do(z_i = v) moves the descendants of i with it, and only them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from minidiff import arguments
from minidiff.families.causal_graph import acyclicity, check_rows, intervene, linear_scm, square_size
from minidiff.families.vae import VAE, standard_kl
from minidiff.nets.perceptron import perceptron
from minidiff.noise import Generators, standard_normal


class CausalVAE(nn.Module):
    """A `VAE` with as many latent variables as concepts u (B, n), bound to them by A and a mask layer.

    z = Aᵀ z + ε as in `linear_scm`; the mask layer remakes each concept from its causes alone, g_j(A_·j ∘ z) + ε_j, and
    from these the decoder makes the image. spread: the standard deviation of p(z | u) = N(u, spread² I). encodes: the
    variables in which the encoder is a diagonal Gaussian, "noise" for q(ε | x) as published, or "concepts" for
    q(z | x), which does not charge for arrows. A is learned from zero, where no concept causes another, unless
    `weights` is set; settings are those of `VAE`. Concepts should be centred and of one noise variance, with a spread
    about 1. Raises ValueError for sizes below 1, spread ≤ 0 or another word.
    """

    def __init__(
        self,
        concepts: int,
        spread: float = 0.1,
        encodes: Literal["noise", "concepts"] = "noise",
        **settings: int | float | tuple[int, ...],
    ) -> None:
        super().__init__()
        arguments.real("spread", spread, 1e-6)
        if encodes not in ("noise", "concepts"):
            raise ValueError(f"encodes must be 'noise' or 'concepts', got {encodes!r}")
        self.vae = VAE(latent=concepts, **settings)
        self.concepts, self.spread, self.encodes = concepts, spread, encodes
        self.weights = nn.Parameter(torch.zeros(concepts, concepts))
        self.mechanisms = nn.ModuleList(perceptron(concepts, 1, 32) for _ in range(concepts))

    @property
    def A(self) -> Tensor:
        """The weights (n, n) of the graph, with nothing its own cause."""
        return self.weights * (1 - torch.eye(self.concepts).to(self.weights))

    def masked(self, z: Tensor, eps: Tensor, A: Tensor) -> Tensor:
        """g_j(A_·j ∘ z) + ε_j for each j: (B, n). Concept j sees its causes and its own noise, nothing else."""
        causes = z[:, None] * A.mT
        return torch.cat([g(causes[:, j]) for j, g in enumerate(self.mechanisms)], 1) + eps

    def loss(self, x: Tensor, u: Tensor, noise: Tensor, acyclic: float = 1.0, labels: float = 1.0) -> Tensor:
        """−log p(x|z) + KL(q(ε|x) ‖ N(0, I)) + KL(q(z|x) ‖ p(z|u)) + labels |u − Aᵀu|² + |z − m|² + acyclic (3h + h²).

        The terms of Yang et al. 2021, section 4, both divergences in closed form; m is the output of the mask layer,
        noise included, and h is `acyclicity(A)`. x (B, *shape) on the grey levels, u (B, n), noise (B, n) from N(0, I)
        → (B,).
        """
        mean, std = self.vae.encode(x)
        check_rows("u", u, self.concepts)
        arguments.finite("u", u)
        for name, value in (("u", u), ("noise", noise)):
            arguments.same_shape(name, value, "the mean of the encoder", mean)
        A = self.A
        eps, z = self._latent(mean + std * noise, A)
        made = self.masked(z, eps, A)
        bound = self.noise_kl(mean, std) + self.concept_kl(mean, std, u) - self.vae.log_likelihood(x, made)
        supervised = labels * (u - u @ A).square().sum(1) + (z - made).square().sum(1)
        h = acyclicity(A)
        return bound + supervised + acyclic * (3 * h + h.square())

    def noise_kl(self, mean: Tensor, std: Tensor) -> Tensor:
        """KL(q(ε | x) ‖ N(0, I)), mean and std (B, n) those of the encoder → (B,)."""
        if self.encodes == "noise":
            return standard_kl(mean, std)
        return mapped_kl(mean, std, torch.eye(self.concepts).to(mean) - self.A.mT)

    def concept_kl(self, mean: Tensor, std: Tensor, u: Tensor) -> Tensor:
        """KL(q(z | x) ‖ N(u, spread² I)), mean and std (B, n) those of the encoder, u (B, n) → (B,)."""
        if self.encodes == "noise":
            C = linear_scm(self.A, torch.eye(self.concepts).to(mean)).mT
            return mapped_kl(mean, std, C, u, self.spread)
        return standard_kl((mean - u) / self.spread, std / self.spread)

    def _latent(self, drawn: Tensor, A: Tensor) -> tuple[Tensor, Tensor]:
        """ε and z, each (B, n), from what the encoder encodes."""
        return (drawn, linear_scm(A, drawn)) if self.encodes == "noise" else (drawn - drawn @ A, drawn)

    @torch.no_grad()
    def counterfactual(self, x: Tensor, do: Mapping[int, float], threshold: float = 0.1) -> Tensor:
        """The concepts of x (B, *shape), had z_i been v: ε from x, do(z_i = v), mask layer: (B, n) for `vae.decode`.

        Weights below `threshold` in size count as no arrow. Concepts that no path from an i of `do` reaches keep every
        bit. Raises ValueError where the arrows that count make a cycle, and as `intervene` does.
        """
        arguments.real("threshold", threshold, 0.0)
        mean, _ = self.vae.encode(x)
        A = self.A.where(self.A.abs() >= threshold, 0.0)
        eps, z = self._latent(mean, A)
        made = self.masked(intervene(A, z, do), eps, A)
        for i, value in do.items():
            made[:, i] = value
        return made

    @torch.no_grad()
    def sample(self, u: Tensor, generator: Generators = None) -> Tensor:
        """Images (B, *shape) with the concepts u (B, n): z ~ p(z | u), ε = z − Aᵀz, mask layer, decoder's mean."""
        check_rows("u", u, self.concepts)
        z = u + self.spread * standard_normal(u.shape, generator, u.dtype, u.device)
        return self.vae.decode(self.masked(z, z - z @ self.A, self.A))[0].clamp(-1, 1)


def mapped_kl(mean: Tensor, std: Tensor, M: Tensor, centre: Tensor | float = 0.0, spread: float = 1.0) -> Tensor:
    """KL(N(M μ, M diag s² Mᵀ) ‖ N(centre, spread² I)); mean μ and std s (B, n), M (n, n) of full rank → (B,) nats."""
    n = square_size(M)
    variances = std.square() @ M.square().mT
    squares = (variances + (mean @ M.mT - centre).square()).sum(1) / spread**2
    log_det = 2 * (std.log().sum(1) + torch.linalg.slogdet(M).logabsdet)
    return (squares - n - log_det) / 2 + n * math.log(spread)
