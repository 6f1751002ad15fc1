"""Total variation on a finite set: between two laws, and between a law and samples that land near its points."""

from __future__ import annotations

import torch
from torch import Tensor

from minidiff import arguments
from minidiff.metrics.neighbours import _blocks


def total_variation(p: Tensor, q: Tensor) -> Tensor:
    """½ Σ_i |p_i − q_i| over the last axis of two probability vectors (…, N): in [0, 1]; (…), float64.

    Raises ValueError for unequal shapes and for what is no law.
    """
    arguments.same_shape("p", p, "q", q)
    for name, law in (("p", p), ("q", q)):
        _check_law(name, law)
    return (p.double() - q.double()).abs().sum(-1) / 2


def nearest_index(samples: Tensor, points: Tensor) -> Tensor:
    """The index of the point (N, *D) nearest to each sample (n, *D); (n,) int64."""
    arguments.finite("samples", samples)
    arguments.finite("points", points)
    if samples.shape[1:] != points.shape[1:] or not len(points):
        raise ValueError(f"samples and points must fit, got {tuple(samples.shape)} and {tuple(points.shape)}")
    best = torch.full((len(samples),), torch.inf, dtype=torch.float64, device=samples.device)
    index = torch.zeros(len(samples), dtype=torch.int64, device=samples.device)
    for rows, columns, squared in _blocks(samples.flatten(1), points.flatten(1)):
        value, at = squared.min(1)
        index[rows] = torch.where(value < best[rows], at + columns.start, index[rows])
        best[rows] = torch.minimum(best[rows], value)
    return index


def frequencies(samples: Tensor, points: Tensor) -> Tensor:
    """The share of samples (n, *D) nearest to each of the points (N, *D); (N,) float64, a law."""
    counts = torch.bincount(nearest_index(samples, points), minlength=len(points))
    return counts.double() / len(samples)


def total_variation_floor(p: Tensor, n: int) -> float:
    """E of ½ Σ |p̂_i − p_i| for the frequencies p̂ of n exact draws from p (N,): what a perfect sampler scores.

    The counts are binomial, and E|X − n p| = 2 m C(n, m) p^m (1 − p)^{n−m+1} with m = ⌊n p⌋ + 1 (de Moivre 1730). About
    that mean a score of n draws has a standard deviation of at most 1/(2√n) (Efron & Stein 1981), in all but small
    cases much less. Raises ValueError for what is no law and n < 1.
    """
    _check_law("p", p)
    arguments.positive_integer("n", n)
    inside = p[(p > 0) & (p < 1)].double()  # a certain outcome has no scatter
    m = (n * inside).floor() + 1
    choose = torch.lgamma(torch.tensor(n + 1.0).double()) - torch.lgamma(m) - torch.lgamma(n - m + 1)  # m C(n, m)
    logs = choose + m * inside.log() + (n - m + 1) * torch.log1p(-inside)
    return float(logs.exp().sum() / n)


def _check_law(name: str, p: Tensor) -> None:
    arguments.finite(name, p)
    if p.ndim < 1 or bool((p < 0).any()) or not torch.allclose(p.double().sum(-1), p.new_ones(()).double(), atol=1e-5):
        raise ValueError(f"{name} must be probabilities that sum to 1, got sums {p.sum(-1).flatten().tolist()[:4]}")
