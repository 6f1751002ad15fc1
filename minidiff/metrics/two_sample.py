"""Distances between laws that need no Gaussian fit: maximum mean discrepancy and sliced Wasserstein."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from minidiff.arguments import positive_integer, real
from minidiff.metrics.samples import Estimate, check_pair, shuffled

CHUNK = 2048
PROJECTIONS_AT_ONCE = 16


def mmd(
    a: Tensor,
    b: Tensor,
    kernel: Literal["gaussian", "cubic"] = "gaussian",
    bandwidth: float | None = None,
    blocks: int = 10,
    seed: int = 0,
) -> Estimate:
    """The squared maximum mean discrepancy of a (n, d) and b (m, d), unbiased, with its standard error.

    In one block, MMD²_u = mean_{i≠j} k(a_i, a_j) + mean_{i≠j} k(b_i, b_j) − 2 mean_{i,j} k(a_i, b_j), whose
    expectation is exactly E k(a, a′) + E k(b, b′) − 2 E k(a, b): zero for one law, so that it is often
    negative. Both sets are shuffled and cut into `blocks` disjoint parts; the value is the mean over the
    blocks, and since they are independent its standard error is std/√blocks.

    kernel "gaussian": exp(−|x − y|²/(2h²)), h the `bandwidth` or, if None, the median distance between pooled
    rows. kernel "cubic": (x·y/d + 1)³, the kernel inception distance's; it takes no bandwidth. Raises
    ValueError for an unknown kernel, blocks < 2, or fewer than two rows a block.

    Source: Gretton et al., JMLR 13, 2012, lemma 6; Zaremba et al. 2013 (blocks); Bińkowski et al. 2018
    (cubic).
    """
    positive_integer("blocks", blocks, at_least=2)
    check_pair("a", a, "b", b, at_least=2 * blocks)
    if kernel not in ("gaussian", "cubic"):
        raise ValueError(f"kernel must be 'gaussian' or 'cubic', got {kernel!r}")
    if kernel == "cubic" and bandwidth is not None:
        raise ValueError(f"the cubic kernel has no bandwidth, got {bandwidth}")
    generator = torch.Generator().manual_seed(seed)
    a, b = shuffled(a, generator), shuffled(b, generator)
    if kernel == "gaussian" and bandwidth is None:
        bandwidth = _median_distance(a, b)
    if bandwidth is not None:
        real("bandwidth", bandwidth, low=math.ulp(0.0))

    values = torch.tensor(
        [
            _kernel_mean(x, x, bandwidth) + _kernel_mean(y, y, bandwidth) - 2 * _kernel_mean(x, y, bandwidth)
            for x, y in zip(a.tensor_split(blocks), b.tensor_split(blocks), strict=True)
        ],
        dtype=torch.float64,
    )
    return Estimate(float(values.mean()), float(values.std()) / math.sqrt(blocks))


def _kernel_mean(x: Tensor, y: Tensor, bandwidth: float | None) -> float:
    """The mean kernel value over all pairs, or over the pairs i ≠ j when x is y."""
    total = 0.0
    for rows in x.split(CHUNK):
        for columns in y.split(CHUNK):
            total += float(_kernel(rows.double(), columns.double(), bandwidth).sum())
    if x is not y:
        return total / (len(x) * len(y))
    diagonal = sum(float(_diagonal(rows.double(), bandwidth).sum()) for rows in x.split(CHUNK))
    return (total - diagonal) / (len(x) * (len(x) - 1))


def _kernel(x: Tensor, y: Tensor, bandwidth: float | None) -> Tensor:
    """k(x_i, y_j): cubic if there is no bandwidth."""
    if bandwidth is None:
        return (x @ y.mT / x.shape[1] + 1) ** 3
    return torch.exp(-torch.cdist(x, y).square() / (2 * bandwidth**2))


def _diagonal(x: Tensor, bandwidth: float | None) -> Tensor:
    """k(x_i, x_i)."""
    return (x.square().mean(1) + 1) ** 3 if bandwidth is None else x.new_ones(len(x))


def _median_distance(a: Tensor, b: Tensor) -> float:
    """Median distance between two rows among 500 of a and 500 of b, which are already in random order."""
    return float(torch.nn.functional.pdist(torch.cat([a[:500], b[:500]]).double()).median())


def sliced_wasserstein(a: Tensor, b: Tensor, projections: int = 128, seed: int = 0) -> float:
    """The sliced 2-Wasserstein distance SW₂ between a (n, d) and b (m, d); n and m may differ.

    SW₂² = mean over unit directions θ of ∫₀¹ (F_a⁻¹(u) − F_b⁻¹(u))² du, F the distribution functions of θ·a and θ·b:
    in one dimension the quantile functions are steps of width 1/n and 1/m, and the integral is exact.
    The directions come in random orthonormal frames of d, over which Σ (θ·δ)² = |δ|²: with `projections` a
    multiple of d, a shift by δ gives SW₂ = |δ|/√d and no sampling error of the directions.

    Source: Rabin et al. 2011; Bonneel et al., J. Math. Imaging and Vision 51, 2015.
    """
    check_pair("a", a, "b", b)
    positive_integer("projections", projections)
    directions = _directions(a.shape[1], projections, torch.Generator().manual_seed(seed))
    directions = directions.to(dtype=a.dtype, device=a.device)
    cuts, in_a, in_b = (x.to(a.device) for x in _common_steps(len(a), len(b)))
    total = 0.0
    for part in directions.split(PROJECTIONS_AT_ONCE, dim=1):
        quantiles_a = (a @ part).double().sort(dim=0).values
        quantiles_b = (b.to(a.dtype) @ part).double().sort(dim=0).values
        total += float(((quantiles_a[in_a] - quantiles_b[in_b]).square() * cuts[:, None]).sum())
    return math.sqrt(total / projections)


def _directions(d: int, count: int, generator: torch.Generator) -> Tensor:
    """Unit vectors (d, count) in orthonormal frames, each uniform over directions."""
    frames = []
    for start in range(0, count, d):
        gaussian = torch.randn(d, min(d, count - start), generator=generator, dtype=torch.float64)
        frames.append(torch.linalg.qr(gaussian).Q)
    return torch.cat(frames, dim=1)


def _common_steps(n: int, m: int) -> tuple[Tensor, Tensor, Tensor]:
    """Widths of the steps on which both quantile functions are constant, and each one's order statistic."""
    cuts = torch.cat([torch.arange(n + 1) * m, torch.arange(m) * n]).unique()  # integers: in units of 1/(n m)
    return cuts.diff().double() / (n * m), cuts[:-1] // m, cuts[:-1] // n
