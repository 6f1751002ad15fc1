"""Standard normal noise and random probes, from one generator or from one generator a sample."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from minidiff import arguments

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


def probes(
    x: Tensor,
    count: int = 1,
    distribution: Literal["rademacher", "gaussian"] = "rademacher",
    generator: Generators = None,
) -> Tensor:
    """Random directions v with E vvᵀ = I for a batch x (B, *D): (count, B, *D), in the dtype and on the device of x.

    Rademacher signs ±1 have the least variance of Hutchinson's trace estimate vᵀAv among directions with independent
    coordinates, 2 (|A|² − |diag A|²) for symmetric A; Gaussian ones have 2 |A|² (Hutchinson 1990).
    Raises TypeError or ValueError for an x that is not floating point, count < 1, or another distribution.
    """
    arguments.floating("x", x)
    arguments.positive_integer("count", count)
    if distribution not in ("rademacher", "gaussian"):
        raise ValueError(f"distribution must be 'rademacher' or 'gaussian', got {distribution!r}")
    shape = (len(x), count, *x.shape[1:])  # the batch first: a generator for each sample
    v = standard_normal(shape, generator, x.dtype, x.device).transpose(0, 1)
    return v if distribution == "gaussian" else torch.copysign(torch.ones_like(v), v)
