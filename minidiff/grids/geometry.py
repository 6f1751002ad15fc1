"""How flat a sampling path is: the principal components of its points."""

from __future__ import annotations

import torch
from torch import Tensor

from minidiff import arguments


def trajectory_shares(path: Tensor) -> Tensor:
    """The share of each path's variance in its principal components, largest first: (B, k), rows sum to 1.

    path: (n, B, *D), n ≥ 2 points of each of B paths; k = min(n, d). A straight path has the shares (1, 0, …), a path
    in a plane (a, 1 − a, 0, …). Raises ValueError for another shape, or a path that does not move.
    """
    arguments.finite("path", path)
    if path.ndim < 3 or len(path) < 2:
        raise ValueError(f"path must be (n, B, *D) with n ≥ 2, got {tuple(path.shape)}")
    points = path.double().flatten(2).transpose(0, 1)
    variances = torch.linalg.svdvals(points - points.mean(1, keepdim=True)).square()
    total = variances.sum(1, keepdim=True)
    if not bool((total > 0).all()):
        raise ValueError("every path must move, got one whose points are all the same")
    return variances / total
