"""Processes that run from pure data to pure noise: the straight line, the circle, and a change of clock."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from minidiff import arguments
from minidiff.process.base import Process


@dataclass(frozen=True)
class RectifiedFlow(Process):
    """α = 1 − t, σ = t (Liu et al. 2022; Lipman et al. 2022 with t_FM = 1 − t)."""

    def alpha(self, t: Tensor) -> Tensor:
        """1 − t."""
        return 1 - t

    def sigma(self, t: Tensor) -> Tensor:
        """The time t itself."""
        return t.clone()

    def rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """(−1, 1)."""
        return -torch.ones_like(t), torch.ones_like(t)

    def g2(self, t: Tensor) -> Tensor:
        """2 t / (1 − t)."""
        return 2 * t / (1 - t)

    def time(self, lam: Tensor) -> Tensor:
        """1 / (1 + e^λ)."""
        return torch.sigmoid(-lam)


@dataclass(frozen=True)
class TrigFlow(Process):
    """α = cos(π t/2), σ = σ_data sin(π t/2) (Lu & Song 2024, with their t scaled to [0, 1]).

    Raises ValueError unless sigma_data > 0.
    """

    sigma_data: float = 1.0

    def __post_init__(self) -> None:
        """Check σ_data."""
        arguments.real("sigma_data", self.sigma_data, 1e-12)
        super().__post_init__()

    def alpha(self, t: Tensor) -> Tensor:
        """cos(π t/2), written as a sine so that it is 0 at t = 1."""
        return torch.sin(math.pi * (1 - t) / 2)

    def sigma(self, t: Tensor) -> Tensor:
        """σ_data sin(π t/2)."""
        return self.sigma_data * torch.sin(math.pi * t / 2)

    def rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """(−(π/2) sin(π t/2), (π/2) σ_data cos(π t/2))."""
        return -math.pi / 2 * self.sigma(t) / self.sigma_data, math.pi / 2 * self.sigma_data * self.alpha(t)

    def g2(self, t: Tensor) -> Tensor:
        """π σ_data² tan(π t/2)."""
        return math.pi * self.sigma_data * self.sigma(t) / self.alpha(t)

    def time(self, lam: Tensor) -> Tensor:
        """(2/π) arctan(e^{−λ}/σ_data)."""
        return torch.atan((-lam).exp() / self.sigma_data) * 2 / math.pi


@dataclass(frozen=True)
class Shifted(Process):
    """Another process on the clock u = k t / (k t + 1 − t) (Esser et al. 2024, eq. 23).

    It multiplies σ/α of RectifiedFlow by k at every t: k > 1 spends more of [0, 1] at high noise. Raises ValueError
    unless k > 0.
    """

    process: Process
    k: float

    def __post_init__(self) -> None:
        """Check the shift."""
        arguments.real("k", self.k, 1e-6)
        super().__post_init__()

    def clock(self, t: Tensor) -> Tensor:
        """u = k t / (k t + 1 − t), written so that u(1) = 1 without rounding."""
        return self.k * t / (self.k * t + (1 - t))

    def clock_rate(self, t: Tensor) -> Tensor:
        """u′ = k / (k t + 1 − t)²."""
        return self.k / (self.k * t + (1 - t)) ** 2

    def alpha(self, t: Tensor) -> Tensor:
        """α_u."""
        return self.process.alpha(self.clock(t))

    def sigma(self, t: Tensor) -> Tensor:
        """σ_u."""
        return self.process.sigma(self.clock(t))

    def rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """(α′_u u′, σ′_u u′)."""
        alpha_rate, sigma_rate = self.process.rates(self.clock(t))
        return alpha_rate * self.clock_rate(t), sigma_rate * self.clock_rate(t)

    def f(self, t: Tensor) -> Tensor:
        """f_u u′."""
        return self.process.f(self.clock(t)) * self.clock_rate(t)

    def g2(self, t: Tensor) -> Tensor:
        """g²_u u′."""
        return self.process.g2(self.clock(t)) * self.clock_rate(t)

    def time(self, lam: Tensor) -> Tensor:
        """t = u / (u + k (1 − u)) at the inner process's u."""
        u = self.process.time(lam)
        return u / (u + self.k * (1 - u))
