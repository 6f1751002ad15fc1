"""The exact law of what a stochastic sampler returns, where every step is affine: on Gaussian data.

x_end = gain · x + Σ_i c_i z_i with independent standard normal draws z_i, so that its variance is
gain² Var(x) + Σ_i c_i². The numbers are read from a run of the sampler itself: its draws can be drawn a second time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from minidiff import arguments


class AffineLaw(NamedTuple):
    """gain: the factor of the start; noise: the weight of each draw (draws,), float64, in the order of drawing."""

    gain: float
    noise: Tensor

    def variance(self, start: float) -> float:
        """The variance of the end if the start has the variance `start`: gain² start + Σ c²."""
        return self.gain**2 * start + float(self.noise.square().sum())


def affine_law(run: Callable[[Tensor, torch.Generator], Tensor], draws: int, seed: int = 0) -> AffineLaw:
    """The law of run(x, generator), a sampler from x (B, 1) to its end (B, 1) on data N(0, c²), in float64.

    draws: how many times it draws (B, 1) numbers from the generator, or more. Two runs with the same draws differ by
    the gain, and the rest is a system of linear equations for the c_i, one for each row, which is solved exactly.
    Raises ValueError if it has no solution, because the sampler is not affine or draws more often, and for NaN.
    """
    arguments.positive_integer("draws", draws)
    rows = draws + 8
    z = torch.Generator().manual_seed(seed)
    drawn = torch.cat([torch.randn(rows, 1, generator=z, dtype=torch.float64) for _ in range(draws)], 1)
    zero, one = (
        run(torch.full((rows, 1), start, dtype=torch.float64), torch.Generator().manual_seed(seed)).double()
        for start in (0.0, 1.0)
    )
    if not len(zero) == len(one) == rows:
        raise ValueError(f"run must return a row for each of x, {rows}, got {len(zero)}")
    arguments.finite("what run returns", torch.cat([zero, one]))
    noise = torch.linalg.lstsq(drawn, zero).solution
    worst = float((drawn @ noise - zero).abs().max() + (one - zero).std())
    if not worst <= 1e-8 * (1 + float(one.abs().max())):
        raise ValueError(f"the end is no affine function of the start and {draws} draws: they leave {worst:.1e}")
    return AffineLaw(float((one - zero).mean()), noise[:, 0])
