"""The energy distance between two samples, row by row, differentiable."""

from __future__ import annotations

import torch
from torch import Tensor

from minidiff import arguments


def energy_distance(a: Tensor, b: Tensor) -> Tensor:
    """2 E|a_i − b| − E|a_i − a′| − E|b − b′| of each row a_i, (n,): their mean estimates the laws' energy distance.

    The kernel distance with k(x, y) = −|x − y| (Székely & Rizzo 2013): zero in expectation for one law, unbiased, since
    a′ ≠ a_i and b′ ≠ b. a: (n, *D), b: (m, *D), n, m ≥ 2. Raises ValueError for other shapes.
    """
    arguments.finite("a", a)
    arguments.finite("b", b)
    if len(a) < 2 or len(b) < 2 or a.shape[1:] != b.shape[1:]:
        raise ValueError(f"a and b must hold two rows or more of one shape, got {tuple(a.shape)} and {tuple(b.shape)}")
    a, b = a.flatten(1), b.flatten(1)
    return 2 * torch.cdist(a, b).mean(1) - _others(a) - _others(b).mean()


def _others(a: Tensor) -> Tensor:
    """E|a_i − a′| over the other rows."""
    n = len(a)
    distance = (a[:, None] - a[None]).flatten(2)
    off = ~torch.eye(n, dtype=torch.bool, device=a.device)
    return distance[off].norm(dim=-1).reshape(n, n - 1).mean(1)  # without the diagonal, where a norm has no derivative
