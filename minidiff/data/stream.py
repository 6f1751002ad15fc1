"""The endless stream of mini-batches that training draws from."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from minidiff.arguments import positive_integer


def batches(*tensors: Tensor, batch_size: int, seed: int) -> Iterator[tuple[Tensor, ...]]:
    """Endless mini-batches, drawn without replacement and shuffled anew in each epoch.

    tensors: one or more of shape (N, ...) with the same N; row i of each belongs together. Every item is a
    tuple of tensors (batch_size, ...) on the device of its source. The last N mod batch_size rows of an
    epoch's order are left out, so that all batches have one size. The order depends on `seed` alone.

    Raises ValueError if the lengths differ or batch_size > N; the check happens at the call, not at the first
    batch.
    """
    if not tensors:
        raise ValueError("batches needs at least one tensor, got none")
    for x in tensors:
        if not isinstance(x, Tensor) or x.ndim == 0:
            raise TypeError(f"batches needs tensors of shape (N, ...), got {x!r:.80}")
    lengths = [len(x) for x in tensors]
    if len(set(lengths)) != 1:
        raise ValueError(f"all tensors must have the same length, got {lengths}")
    positive_integer("batch_size", batch_size)
    if batch_size > lengths[0]:
        raise ValueError(f"batch_size must be at most the number of rows {lengths[0]}, got {batch_size}")
    generator = torch.Generator().manual_seed(seed)
    return _epochs(tensors, batch_size, generator)


def _epochs(tensors: tuple[Tensor, ...], size: int, generator: torch.Generator) -> Iterator[tuple[Tensor, ...]]:
    n = len(tensors[0])
    while True:
        order = torch.randperm(n, generator=generator)
        for start in range(0, n - size + 1, size):
            rows = order[start : start + size]
            yield tuple(x[rows.to(x.device)] for x in tensors)
