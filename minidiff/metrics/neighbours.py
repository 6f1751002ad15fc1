"""Nearest neighbours: fidelity and coverage apart, and whether samples are copies of the training set.

Distances are Euclidean, in float64 and in blocks, so that 50 000 images of 3072 pixels fit in memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from minidiff.arguments import positive_integer, real
from minidiff.metrics.samples import check_pair

CHUNK = 2048


class PrecisionRecall(NamedTuple):
    """Share of samples inside the data's manifold, and share of the data inside the samples' manifold."""

    precision: float
    recall: float


def precision_recall(samples: Tensor, data: Tensor, k: int = 3) -> PrecisionRecall:
    """Improved precision and recall of samples (n, d) against data (m, d), both features.

    The manifold of a set is the union of balls around its points, each reaching to the point's k-th nearest
    neighbour in the set. Precision is the share of the samples in the manifold of the data; recall the share
    of the data in the manifold of the samples. Both are 1 when the sets are equal, also by copying: see
    `copy_rate`. Raises ValueError unless both sets have more than k rows.

    Source: Kynkäänniemi et al. 2019, equations (1) and (2).
    """
    positive_integer("k", k)
    check_pair("samples", samples, "data", data, at_least=k + 1)
    return PrecisionRecall(
        precision=_covered(samples, data, _radii(data, k)), recall=_covered(data, samples, _radii(samples, k))
    )


def nearest_distance(samples: Tensor, training: Tensor) -> Tensor:
    """Euclidean distance of each sample (n, *D) to its nearest training image (m, *D): (n,) float64.

    Its mean stands beside a Fréchet distance: it shrinks when a model begins to reproduce its training set,
    so compare it with the same mean for held-out data.
    """
    samples, training = samples.flatten(1), training.flatten(1)
    check_pair("samples", samples, "training", training)
    return _nearest(samples, training, 1)[:, 0]


def copy_rate(samples: Tensor, training: Tensor, ratio: float = 3.0) -> float:
    """The share of samples (n, *D) whose nearest training image (m, *D) is `ratio` times nearer than the
    second.

    With d₁ ≤ d₂ the two smallest distances of a sample to the training set, it counts as a copy if ratio·d₁ ≤
    d₂. A generator that returns training images has rate 1, fresh data almost 0. Raises ValueError if m < 2
    or ratio < 1.

    Source: Yoon et al., Diffusion Probabilistic Models Generalize when They Fail to Memorize, 2023.
    """
    samples, training = samples.flatten(1), training.flatten(1)
    check_pair("samples", samples, "training", training)
    if len(training) < 2:
        raise ValueError(f"training must hold at least two images, got {len(training)}")
    real("ratio", ratio, low=1.0)
    first, second = _nearest(samples, training, 2).unbind(1)
    return float((ratio * first <= second).double().mean())


def _blocks(queries: Tensor, points: Tensor) -> Iterator[tuple[slice, slice, Tensor]]:
    """Squared distances between some queries and some points, block by block: (rows, columns, block)."""
    for row in range(0, len(queries), CHUNK):
        x = queries[row : row + CHUNK].double()
        for column in range(0, len(points), CHUNK):
            y = points[column : column + CHUNK].double()
            scale = x.square().sum(1)[:, None] + y.square().sum(1)
            squared = scale - 2 * x @ y.mT
            # The difference of large numbers is known to about 1e-15 of them: below that the two rows are
            # equal.
            squared = torch.where(squared > 1e-14 * scale, squared, 0.0)
            yield slice(row, row + len(x)), slice(column, column + len(y)), squared


def _nearest(queries: Tensor, points: Tensor, k: int, same: bool = False) -> Tensor:
    """The k smallest distances from each query to the points, ascending: (n, k).

    `same` says that the two are one set, in which no row is its own neighbour.
    """
    best = torch.full((len(queries), k), torch.inf, dtype=torch.float64, device=queries.device)
    for rows, columns, squared in _blocks(queries, points):
        if same and rows.start == columns.start:  # the blocks of a set with itself are aligned
            squared.fill_diagonal_(torch.inf)
        best[rows] = torch.cat([best[rows], squared], dim=1).topk(k, dim=1, largest=False).values
    return best.sqrt()


def _radii(points: Tensor, k: int) -> Tensor:
    """Squared distance of each point to its k-th nearest neighbour in the set."""
    return _nearest(points, points, k, same=True)[:, -1].square()


def _covered(queries: Tensor, points: Tensor, radii: Tensor) -> float:
    """Share of the queries that lie in at least one ball."""
    inside = torch.zeros(len(queries), dtype=torch.bool, device=queries.device)
    for rows, columns, squared in _blocks(queries, points):
        inside[rows] |= (squared <= radii[columns]).any(dim=1)
    return float(inside.double().mean())
