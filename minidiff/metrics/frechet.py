"""The Fréchet distance between two sets of features, its bias, and the floor below which it says nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from minidiff.arguments import positive_integer
from minidiff.metrics.samples import Estimate, check_features, check_pair, shuffled

CHUNK = 4096
GROUPS = 10


class Floor(NamedTuple):
    """Mean and standard deviation, over random splits, of the distance between two halves of n rows each."""

    mean: float
    std: float
    n: int


@torch.no_grad()
def frechet_distance(a: Tensor, b: Tensor) -> float:
    """The squared 2-Wasserstein distance between Gaussians fitted to the features a (n, d) and b (m, d).

    FD = |μ_a − μ_b|² + tr C_a + tr C_b − 2 tr (C_a^½ C_b C_a^½)^½, with unbiased covariances. The last trace is the
    sum of the singular values of C_a^½ C_b^½; the roots come from symmetric eigendecompositions in float64. A
    general matrix square root of the product is never formed: it turns complex when n < d. Two samples of one
    law have FD > 0: the bias falls as 1/n. State n, and see `frechet_floor`. Returns 0 exactly for identical
    sets. Raises ValueError unless both are finite (n ≥ 2, d) with the same d.

    Source: D. C. Dowson and B. V. Landau, J. Multivariate Analysis 12, 1982; Heusel et al. 2017 (as FID).
    """
    check_pair("a", a, "b", b, at_least=2)
    (mean_a, covariance_a), (mean_b, covariance_b) = _moments(a), _moments(b)
    if torch.equal(mean_a, mean_b) and torch.equal(covariance_a, covariance_b):
        return 0.0
    overlap = torch.linalg.svdvals(_root(covariance_a) @ _root(covariance_b)).sum()
    shift = (mean_a - mean_b).square().sum()
    distance = shift + covariance_a.trace() + covariance_b.trace() - 2 * overlap
    return max(0.0, float(distance))


def frechet_floor(features: Tensor, splits: int = 20, seed: int = 0) -> Floor:
    """The Fréchet distance of a set to itself: random half against the other half, `splits` times.

    features (n, d) give halves of ⌊n/2⌋ rows. A model whose distance at this size is no larger than the floor
    cannot be told from the data. The standard deviation is the spread over splits, of which the mean's error
    is a part only: all splits share the same rows. Raises ValueError if n < 4 or splits < 2.
    """
    check_features("features", features, at_least=4)
    positive_integer("splits", splits, at_least=2)
    generator = torch.Generator().manual_seed(seed)
    half = len(features) // 2
    distances = []
    for _ in range(splits):
        rows = shuffled(features, generator)
        distances.append(frechet_distance(rows[:half], rows[half : 2 * half]))
    values = torch.tensor(distances, dtype=torch.float64)
    return Floor(float(values.mean()), float(values.std()), half)


def frechet_extrapolated(a: Tensor, b: Tensor, sizes: Sequence[int], seed: int = 0) -> Estimate:
    """The Fréchet distance that infinitely many samples would give: E FD_n = FD_∞ + c/n + O(1/n²).

    For each n in `sizes` the rows of a and b, shuffled once, are cut into disjoint blocks of n, and FD_n is
    the mean over the pairs of blocks; a straight line through FD_n against 1/n meets 1/n = 0 at FD_∞, which
    may come out negative. The sizes should be several times the dimension, or the O(1/n²) term shows. The
    standard error is the delete-a-group jackknife's over 10 groups of rows (sizes shrunk by 9/10 with them):
    sizes share rows, so the residuals of the line would understate it.

    Raises ValueError unless there are at least two different sizes, each from 3 to min(len(a), len(b)).

    Source: Chong and Forsyth, Effectively Unbiased FID and Inception Score, 2020 (the extrapolation).
    """
    check_pair("a", a, "b", b, at_least=2 * GROUPS)
    largest = min(len(a), len(b))
    if len(set(sizes)) < 2 or min(sizes) < 3 or max(sizes) > largest:
        raise ValueError(f"sizes must be two or more different numbers from 3 to {largest}, got {list(sizes)}")
    generator = torch.Generator().manual_seed(seed)
    a, b = shuffled(a, generator), shuffled(b, generator)
    value = _intercept(a, b, sizes)
    group_a, group_b = torch.arange(len(a)) % GROUPS, torch.arange(len(b)) % GROUPS
    fewer = [n * (GROUPS - 1) // GROUPS for n in sizes]
    left_out = torch.tensor(
        [_intercept(a[group_a != k], b[group_b != k], fewer) for k in range(GROUPS)], dtype=torch.float64
    )
    return Estimate(value, float(left_out.std(correction=0)) * (GROUPS - 1) ** 0.5)


def _intercept(a: Tensor, b: Tensor, sizes: Sequence[int]) -> float:
    """Least-squares line through (1/n, FD_n), at 1/n = 0."""
    curve = []
    for n in sizes:
        pairs = zip(a.split(n), b.split(n), strict=False)
        distances = [frechet_distance(x, y) for x, y in pairs if len(x) == len(y) == n]
        curve.append(sum(distances) / len(distances))
    x = 1 / torch.tensor(sizes, dtype=torch.float64)
    y = torch.tensor(curve, dtype=torch.float64)
    slope = ((x - x.mean()) * y).sum() / (x - x.mean()).square().sum()
    return float(y.mean() - slope * x.mean())


def _moments(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (d,) and unbiased covariance (d, d) in float64, a chunk of rows at a time."""
    n = len(features)
    mean = sum(chunk.double().sum(0) for chunk in features.split(CHUNK)) / n
    scatter = sum((centred := chunk.double() - mean).mT @ centred for chunk in features.split(CHUNK))
    return mean, scatter / (n - 1)


def _root(covariance: Tensor) -> Tensor:
    """The symmetric square root; eigenvalues that rounding made negative count as zero."""
    values, vectors = torch.linalg.eigh(covariance)
    return vectors * values.clamp(min=0).sqrt() @ vectors.mT
