"""Two-dimensional toy distributions, standardised by the exact moments of their laws.

Each function draws n points (n, 2) in float32. Every coordinate of the *law* has mean 0 and variance 1: the
constants are the population's, integrated by hand, not those of the sample, so that any n and any seed give
the same law.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from minidiff.arguments import positive_integer


def eight_gaussians(n: int, seed: int = 0) -> Tensor:
    """Equal mixture of N(c_k, 0.1² I) with centres c_k = (cos kπ/4, sin kπ/4), k = 0…7, divided by √0.51.

    The variance of a coordinate before the division is ½ + 0.1².
    """
    generator = _generator(n, seed)
    angle = torch.randint(8, (n,), generator=generator) * (math.pi / 4)
    x = torch.stack([angle.cos(), angle.sin()], dim=1) + 0.1 * torch.randn(n, 2, generator=generator)
    return x / math.sqrt(0.5 + 0.1**2)


def two_moons(n: int, seed: int = 0) -> Tensor:
    """Two interleaved half circles, (cos θ, sin θ) and (1 − cos θ, ½ − sin θ), θ ~ U(0, π), with noise 0.05.

    Before standardisation the mean is (½, ¼) and the variances are ¾ + 0.05² and 9/16 − 1/π + 0.05².
    """
    generator = _generator(n, seed)
    angle = math.pi * torch.rand(n, generator=generator)
    upper = torch.stack([angle.cos(), angle.sin()], dim=1)
    first = torch.rand(n, 1, generator=generator) < 0.5
    x = torch.where(first, upper, torch.tensor([1.0, 0.5]) - upper)
    x = x + 0.05 * torch.randn(n, 2, generator=generator)
    return _standardised(x, mean=(1 / 2, 1 / 4), variance=(3 / 4 + 0.05**2, 9 / 16 - 1 / math.pi + 0.05**2))


def swiss_roll(n: int, seed: int = 0) -> Tensor:
    """The spiral (θ cos θ, θ sin θ), θ ~ U(3π/2, 9π/2), with noise 0.5.

    Before standardisation the mean is (2, 2/(3π)) and the second moments are 39π²/8 ∓ ¼ + 0.5².
    """
    generator = _generator(n, seed)
    angle = 1.5 * math.pi * (1 + 2 * torch.rand(n, generator=generator))
    x = angle[:, None] * torch.stack([angle.cos(), angle.sin()], dim=1)
    x = x + 0.5 * torch.randn(n, 2, generator=generator)
    mean = (2.0, 2 / (3 * math.pi))
    second = (39 * math.pi**2 / 8 - 1 / 4 + 0.5**2, 39 * math.pi**2 / 8 + 1 / 4 + 0.5**2)
    return _standardised(x, mean=mean, variance=(second[0] - mean[0] ** 2, second[1] - mean[1] ** 2))


def checkerboard(n: int, seed: int = 0) -> Tensor:
    """Uniform on the eight dark squares of a 4×4 board; square (i, j) is dark when i + j is even.

    On the board [−2, 2]² each coordinate is uniform, so that its variance is 4/3.
    """
    generator = _generator(n, seed)
    column = torch.randint(4, (n,), generator=generator)
    row = 2 * torch.randint(2, (n,), generator=generator) + column % 2
    x = torch.stack([column, row], dim=1) - 2 + torch.rand(n, 2, generator=generator)
    return x / math.sqrt(4 / 3)


def spirals(n: int, seed: int = 0) -> Tensor:
    """Two arms ±(θ cos θ, θ sin θ), θ = 3π√u with u ~ U(0, 1) and a fair sign, with noise 0.2.

    The mean is 0 and the variances before standardisation are 9π²/4 ± ¾ + 0.2².
    """
    generator = _generator(n, seed)
    angle = 3 * math.pi * torch.rand(n, generator=generator).sqrt()
    sign = 2 * torch.randint(2, (n, 1), generator=generator) - 1
    x = sign * angle[:, None] * torch.stack([angle.cos(), angle.sin()], dim=1)
    x = x + 0.2 * torch.randn(n, 2, generator=generator)
    square = 9 * math.pi**2 / 4
    return _standardised(x, mean=(0.0, 0.0), variance=(square + 3 / 4 + 0.2**2, square - 3 / 4 + 0.2**2))


def _generator(n: int, seed: int) -> torch.Generator:
    positive_integer("n", n)
    return torch.Generator().manual_seed(seed)


def _standardised(x: Tensor, mean: tuple[float, float], variance: tuple[float, float]) -> Tensor:
    return (x - torch.tensor(mean)) / torch.tensor(variance).sqrt()
