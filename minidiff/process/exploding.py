"""Variance-exploding processes: α = 1, the noise grows."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from minidiff import arguments
from minidiff.process.base import VarianceExploding


@dataclass(frozen=True)
class VE(VarianceExploding):
    """α = 1, σ_t = σ_min (σ_max/σ_min)^t (Song et al. 2021, eq. 31, whose kernel has variance σ_t² − σ_0² instead).

    Raises ValueError unless 0 < sigma_min < sigma_max.
    """

    sigma_min: float = 0.01
    sigma_max: float = 50.0

    def __post_init__(self) -> None:
        """Check the range of σ."""
        arguments.real("sigma_min", self.sigma_min, 1e-12)
        arguments.real("sigma_max", self.sigma_max, self.sigma_min)
        super().__post_init__()

    @property
    def _log_ratio(self) -> float:
        return math.log(self.sigma_max / self.sigma_min)

    def sigma(self, t: Tensor) -> Tensor:
        """σ_min (σ_max/σ_min)^t."""
        return self.sigma_min * (t * self._log_ratio).exp()

    def sigma_rate(self, t: Tensor) -> Tensor:
        """σ log(σ_max/σ_min)."""
        return self._log_ratio * self.sigma(t)

    def time(self, lam: Tensor) -> Tensor:
        """log(σ/σ_min) / log(σ_max/σ_min)."""
        return (-lam - math.log(self.sigma_min)) / self._log_ratio


@dataclass(frozen=True)
class EDM(VarianceExploding):
    """α = 1, σ_t = (a + t (b − a))^ρ with a = σ_min^{1/ρ}, b = σ_max^{1/ρ} (Karras et al. 2022, eq. 5).

    Raises ValueError unless 0 < sigma_min < sigma_max and rho > 0.
    """

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 7.0

    def __post_init__(self) -> None:
        """Check the range of σ and the exponent."""
        arguments.real("sigma_min", self.sigma_min, 1e-12)
        arguments.real("sigma_max", self.sigma_max, self.sigma_min)
        arguments.real("rho", self.rho, 1e-6)
        super().__post_init__()

    @property
    def _ends(self) -> tuple[float, float]:
        return self.sigma_min ** (1 / self.rho), self.sigma_max ** (1 / self.rho)

    def sigma(self, t: Tensor) -> Tensor:
        """(a + t (b − a))^ρ."""
        a, b = self._ends
        return (a + t * (b - a)) ** self.rho

    def sigma_rate(self, t: Tensor) -> Tensor:
        """ρ (b − a) (a + t (b − a))^{ρ−1}."""
        a, b = self._ends
        return self.rho * (b - a) * (a + t * (b - a)) ** (self.rho - 1)

    def time(self, lam: Tensor) -> Tensor:
        """(σ^{1/ρ} − a) / (b − a)."""
        a, b = self._ends
        return ((-lam / self.rho).exp() - a) / (b - a)
