"""Standard normal noise from one generator, or from one generator a sample."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

Generators = torch.Generator | Sequence[torch.Generator] | None


def standard_normal(
    shape: Sequence[int],
    generator: Generators = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> Tensor:
    """Draw ε ~ N(0, I) of the given shape (B, *D).

    With a sequence of B generators, row i comes from generator i alone, so that a row of a batch equals the
    same row sampled by itself. The numbers are drawn where their generator lives, so that a CPU generator gives the
    same noise on every device; the noise is put on `device`, by default left there.
    Raises ValueError when the number of generators is not B.
    """
    if generator is None or isinstance(generator, torch.Generator):
        drawn_on = device if generator is None else generator.device
        noise = torch.randn(tuple(shape), generator=generator, dtype=dtype, device=drawn_on)
        return noise if device is None else noise.to(device)
    if len(generator) != shape[0]:
        raise ValueError(f"one generator a sample needed: got {len(generator)} generators for a batch of {shape[0]}")
    rows = [standard_normal(shape[1:], g, dtype, device) for g in generator]
    return torch.stack(rows)
