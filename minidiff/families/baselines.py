"""Generators that a family must be compared with: neighbours mixed, and a mixture of Gaussians along principal axes."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from minidiff import arguments
from minidiff.analytic import GaussianMixture
from minidiff.process import Process


def neighbour_interpolation(data: Tensor, n: int, k: int = 5, generator: torch.Generator | None = None) -> Tensor:
    """n mixtures w x_i + (1 − w) x_j, w ~ U(0, 1), of a row x_i of data and one of its k nearest others; (n, *D).

    No model at all: it fills in between neighbours. data (N, *D); n on the device of data. Raises ValueError unless
    1 ≤ k < N.
    """
    arguments.finite("data", data)
    arguments.positive_integer("n", n)
    arguments.positive_integer("k", k)
    if k >= len(data):
        raise ValueError(f"k must be below the number of rows {len(data)}, got {k}")
    rows = torch.randint(len(data), (n,), generator=generator)
    which = torch.randint(k, (n,), generator=generator)
    w = torch.rand(n, generator=generator).to(data)
    first = data[rows.to(data.device)]
    distance = torch.cdist(first.flatten(1).double(), data.flatten(1).double())
    distance[torch.arange(n), rows] = torch.inf
    nearest = distance.topk(k, largest=False).indices[torch.arange(n), which]
    return torch.lerp(data[nearest], first, arguments.along(w, first))


def pca_mixture(
    process: Process,
    data: Tensor,
    components: int = 10,
    axes: int = 20,
    *,
    steps: int = 50,
    ridge: float = 1e-3,
    generator: torch.Generator | None = None,
) -> GaussianMixture:
    """A mixture of Gaussians along the first principal axes of data (N, D), of one variance across them; by EM.

    With U the first `axes` principal axes, x = m + U c + rest: c follows a mixture of `components` Gaussians, the rest
    N(0, v) along each other axis with v their mean variance, so that x has a density (Tipping & Bishop 1999 have one
    component). EM starts from the Gaussian of all data round rows that the generator draws, and never lowers the
    likelihood but for `ridge`, which is added to the covariances. Raises ValueError unless 1 ≤ axes ≤ D and
    components ≤ N.
    """
    arguments.finite("data", data)
    for name, value in (("components", components), ("axes", axes), ("steps", steps)):
        arguments.positive_integer(name, value)
    arguments.real("ridge", ridge, 1e-12)
    if data.ndim != 2 or axes > data.shape[1] or components > len(data):
        raise ValueError(f"data must be (N, D) with N ≥ {components} and D ≥ {axes}, got {tuple(data.shape)}")
    x = data.double()
    variances, basis = torch.linalg.eigh(torch.cov(x.mT, correction=0).reshape(x.shape[1], -1))
    U, mean = basis[:, -axes:], x.mean(0)
    rest = max(float(variances[:-axes].mean()) if axes < x.shape[1] else 0.0, ridge)
    c, I = (x - mean) @ U, torch.eye(axes, dtype=torch.float64)  # noqa: E741
    means = c[torch.randperm(len(c), generator=generator)[:components]]
    covariances = (torch.diag(variances[-axes:]) + ridge * I).expand(components, -1, -1)
    weights = torch.full((components,), 1 / components, dtype=torch.float64)
    for _ in range(steps):
        shares = _log_joint(c, weights, means, covariances).softmax(1)
        total = shares.sum(0).clamp(min=1e-12)
        weights, means = total / total.sum(), shares.mT @ c / total[:, None]
        gaps = c[:, None] - means
        covariances = torch.einsum("nk,nki,nkj->kij", shares, gaps, gaps) / total[:, None, None] + ridge * I
    across = rest * (torch.eye(x.shape[1], dtype=torch.float64) - U @ U.mT)
    return GaussianMixture(process, weights, mean + means @ U.mT, U @ covariances @ U.mT + across)


def _log_joint(c: Tensor, weights: Tensor, means: Tensor, covariances: Tensor) -> Tensor:
    """log π_k N(c; m_k, C_k), (N, K)."""
    factors = torch.linalg.cholesky(covariances)
    z = torch.linalg.solve_triangular(factors, (c[:, None] - means).permute(1, 2, 0), upper=False)
    log_det = factors.diagonal(dim1=1, dim2=2).log().sum(1)
    constant = c.shape[1] / 2 * math.log(2 * math.pi)
    return weights.log() - log_det - constant - z.square().sum(1).mT / 2
