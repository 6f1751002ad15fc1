"""Densities of sets: the law does not ask which point is called first, so its score moves with the names.

If p(πx) = p(x) for every permutation π of the n points, then s(πx) = π s(x), and so for the denoiser (Niu et al. 2020
for graphs). The noise is invariant too, so the property holds at every time of the diffusion.
"""

from __future__ import annotations

from itertools import permutations

import torch
from torch import Tensor

from minidiff import arguments
from minidiff.analytic import GaussianMixture
from minidiff.denoiser import DenoiserLike, check_denoiser
from minidiff.process import Process

_MOST = 6  # points: 720 orders


def _orders(n: int) -> Tensor:
    arguments.positive_integer("n", n)
    if n > _MOST:
        raise ValueError(f"at most {_MOST} points are permuted exhaustively, got {n}")
    return torch.tensor(list(permutations(range(n))))


class SetMixture:
    """Sets of n points near n centres, unnamed: p(x_0) = (1/n!) Σ_π Π_i N(x_0^i; c_{π(i)}, s² I), a permanent.

    A denoiser of x (B, n, d) that is exact and permutation-equivariant: the `GaussianMixture` with a component for each
    of the n! orders of the centres (n, d), n ≤ 6. std: s > 0. Raises ValueError for other shapes or s ≤ 0.
    """

    coupled = False

    def __init__(self, process: Process, centres: Tensor, std: float) -> None:
        arguments.finite("centres", centres)
        if centres.ndim != 2:
            raise ValueError(f"centres must have shape (n, d), got {tuple(centres.shape)}")
        means = centres[_orders(len(centres))].flatten(1)
        self.shape = tuple(centres.shape)
        self.mixture = GaussianMixture(process, torch.ones(len(means)), means, stds=std)
        self.process, self.sigma_data = process, self.mixture.sigma_data

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """E[x_0 | x_t = x]; (B, n, d)."""
        return self.mixture(self._flat(x), t).reshape(x.shape)

    def log_prob(self, x: Tensor, t: Tensor) -> Tensor:
        """log p_t(x), the same for every order of the points; (B,)."""
        return self.mixture.log_prob(self._flat(x), t)

    def score(self, x: Tensor, t: Tensor) -> Tensor:
        """∇ log p_t(x); (B, n, d)."""
        return self.mixture.score(self._flat(x), t).reshape(x.shape)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw n sets; (n, *(points, d))."""
        return self.mixture.sample(n, generator).reshape(-1, *self.shape)

    def _flat(self, x: Tensor) -> Tensor:
        arguments.floating("x", x)
        if x.shape[1:] != self.shape:
            raise ValueError(f"x must have shape (B, {self.shape[0]}, {self.shape[1]}), got {tuple(x.shape)}")
        return x.flatten(1)


class Symmetrised:
    """(1/n!) Σ_π π⁻¹ D(πx, t): any denoiser of n ≤ 6 points x (B, n, …) made equivariant, at n! calls.

    For an invariant law the average never has the larger mean squared error, by convexity: it is the projection of D on
    the equivariant functions. Raises TypeError unless D is a denoiser.
    """

    def __init__(self, D: DenoiserLike) -> None:
        check_denoiser(D)
        self.D = D
        self.process, self.sigma_data, self.coupled = D.process, D.sigma_data, D.coupled
        self.angle = getattr(D, "angle", None)

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """x (B, n, …) → (B, n, …). Raises ValueError for more than 6 points or no axis of points."""
        arguments.floating("x", x)
        if x.ndim < 3:
            raise ValueError(f"x must have shape (B, n, …) with an axis of points, got {tuple(x.shape)}")
        orders = _orders(x.shape[1])
        return sum(self.D(x[:, order], t)[:, order.argsort()] for order in orders) / len(orders)
