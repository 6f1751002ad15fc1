"""CausalVAE (Yang et al. 2021): a variational autoencoder whose latent variables obey a structural causal model.

The latent variables are concepts with known values u, such as a lamp's height and the length of a shadow, and the model
finds which causes which. A plain autoencoder's variables are independent: moving one moves nothing else. Here
do(z_i = v) moves the descendants of i with it, and only them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from minidiff import arguments
from minidiff.families.causal_graph import acyclicity, check_rows, intervene, linear_scm
from minidiff.families.vae import VAE, standard_kl
from minidiff.nets.perceptron import perceptron
from minidiff.noise import Generators, standard_normal


class CausalVAE(nn.Module):
    """A `VAE` with as many latent variables as concepts u (B, n), bound to them by A and a mask layer.

    The encoder gives q(ε | x); z = (I − Aᵀ)⁻¹ ε; the mask layer remakes each concept from its causes alone,
    g_j(A_·j ∘ z) + ε_j, and from these the decoder makes the image. spread: the standard deviation of p(z | u) =
    N(u, spread² I). A is learned from zero, where no concept causes another; settings are those of `VAE`. Concepts
    should be centred, with a spread about 1. Raises ValueError for sizes below 1 or spread ≤ 0.
    """

    def __init__(self, concepts: int, spread: float = 0.1, **settings: int | float | tuple[int, ...]) -> None:
        super().__init__()
        arguments.real("spread", spread, 1e-6)
        self.vae = VAE(latent=concepts, **settings)
        self.concepts, self.spread = concepts, spread
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

    def loss(self, x: Tensor, u: Tensor, noise: Tensor, acyclic: float = 1.0) -> Tensor:
        """−log p(x|z) + KL(q(ε|x) ‖ N(0, I)) + KL(q(z|x) ‖ p(z|u)) + |u − Aᵀu|² + |z − g|² + acyclic (3h + h²); (B,).

        The terms of Yang et al. 2021, section 4, both divergences in closed form: q(z | x) is N(C μ, C diag s² Cᵀ) with
        C = (I − Aᵀ)⁻¹; h is `acyclicity(A)`. x (B, *shape) on the grey levels, u (B, n), noise (B, n) from N(0, I).
        """
        mean, std = self.vae.encode(x)
        check_rows("u", u, self.concepts)
        arguments.same_shape("noise", noise, "the mean of ε", mean)
        A, eps = self.A, mean + std * noise
        z = linear_scm(A, eps)
        made = self.masked(z, eps, A)
        bound = standard_kl(mean, std) + self.concept_kl(mean, std, u) - self.vae.log_likelihood(x, made)
        supervised = (u - u @ A).square().sum(1) + (z - made).square().sum(1)
        h = acyclicity(A)
        return bound + supervised + acyclic * (3 * h + h.square())

    def concept_kl(self, mean: Tensor, std: Tensor, u: Tensor) -> Tensor:
        """KL(N(C μ, C diag s² Cᵀ) ‖ N(u, spread² I)) with C = (I − Aᵀ)⁻¹; mean μ, std s and u (B, n) → (B,)."""
        C = linear_scm(self.A, torch.eye(self.concepts).to(mean)).mT
        variances = std.square() @ C.square().mT
        squares = (variances + (mean @ C.mT - u).square()).sum(1) / self.spread**2
        log_det = 2 * (std.log().sum(1) + torch.linalg.slogdet(C).logabsdet)
        return (squares - self.concepts - log_det) / 2 + self.concepts * math.log(self.spread)

    @torch.no_grad()
    def counterfactual(self, x: Tensor, do: Mapping[int, float], threshold: float = 0.1) -> Tensor:
        """The concepts of x (B, *shape), had z_i been v: ε from x, do(z_i = v), mask layer: (B, n) for `vae.decode`.

        Weights below `threshold` in size count as no arrow. Concepts that no path from an i of `do` reaches keep every
        bit. Raises ValueError where the arrows that count make a cycle.
        """
        eps, _ = self.vae.encode(x)
        A = self.A.where(self.A.abs() >= threshold, 0.0)
        made = self.masked(intervene(A, linear_scm(A, eps), do), eps, A)
        for i, value in do.items():
            made[:, i] = value
        return made

    @torch.no_grad()
    def sample(self, u: Tensor, generator: Generators = None) -> Tensor:
        """Images (B, *shape) with the concepts u (B, n): z ~ p(z | u), ε = z − Aᵀz, mask layer, decoder's mean."""
        check_rows("u", u, self.concepts)
        z = u + self.spread * standard_normal(u.shape, generator, u.dtype, u.device)
        return self.vae.decode(self.masked(z, z - z @ self.A, self.A))[0].clamp(-1, 1)
