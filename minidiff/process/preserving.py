"""Variance-preserving processes with a formula, and sub-VP, which shares the α of the linear one."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from minidiff import arguments
from minidiff.process.base import Process, VariancePreserving


@dataclass(frozen=True)
class LinearVP(VariancePreserving):
    """ln α_t = −t² (β_max − β_min)/4 − t β_min/2, σ² = 1 − α² (Song et al. 2021, eq. 33). β_t = −2 f_t is linear in t.

    Raises ValueError unless 0 < beta_min ≤ beta_max.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0

    def __post_init__(self) -> None:
        """Check the range of β."""
        arguments.real("beta_min", self.beta_min, 1e-12)
        arguments.real("beta_max", self.beta_max, self.beta_min)
        super().__post_init__()

    def beta(self, t: Tensor) -> Tensor:
        """β_t = β_min + t (β_max − β_min)."""
        return self.beta_min + t * (self.beta_max - self.beta_min)

    def log_alpha(self, t: Tensor) -> Tensor:
        """ln α_t = −½ ∫_0^t β."""
        return -(t**2) * (self.beta_max - self.beta_min) / 4 - t * self.beta_min / 2

    def alpha(self, t: Tensor) -> Tensor:
        """exp(ln α_t)."""
        return self.log_alpha(t).exp()

    def sigma(self, t: Tensor) -> Tensor:
        """√(1 − α²)."""
        return (-torch.expm1(2 * self.log_alpha(t))).sqrt()

    def alpha_rate(self, t: Tensor) -> Tensor:
        """−α β/2."""
        return -self.alpha(t) * self.beta(t) / 2

    def f(self, t: Tensor) -> Tensor:
        """−β/2."""
        return -self.beta(t) / 2

    def time(self, lam: Tensor) -> Tensor:
        """The root of ln α_t = −½ log(1 + e^{−2λ})."""
        return self._time_of_log_alpha(-torch.log1p((-2 * lam).exp()) / 2)

    def _time_of_log_alpha(self, log_alpha: Tensor) -> Tensor:
        half = self.beta_min / 2
        return -2 * log_alpha / (half + (half**2 - (self.beta_max - self.beta_min) * log_alpha).sqrt())


@dataclass(frozen=True)
class SubVP(LinearVP):
    """The α of LinearVP with σ = 1 − α² (Song et al. 2021, eq. 34), hence g² = β (1 − α⁴)."""

    def sigma(self, t: Tensor) -> Tensor:
        """1 − α²."""
        return -torch.expm1(2 * self.log_alpha(t))

    def rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """(α′, −2 α α′)."""
        rate = self.alpha_rate(t)
        return rate, -2 * self.alpha(t) * rate

    def g2(self, t: Tensor) -> Tensor:
        """β (1 − α⁴)."""
        return -self.beta(t) * torch.expm1(4 * self.log_alpha(t))

    def time(self, lam: Tensor) -> Tensor:
        """r = e^{−λ} = 1/α − α = 2 sinh(−ln α)."""
        return self._time_of_log_alpha(-torch.asinh((-lam).exp() / 2))


@dataclass(frozen=True)
class CosineVP(VariancePreserving):
    """α_t = sin(a (1 − t)) / sin a with a = π / (2 (1 + s)) (Nichol & Dhariwal 2021, eq. 17); α_1 = 0 exactly.

    σ² = 1 − α² = sin(a (2 − t)) sin(a t) / sin² a, which has no cancellation at t = 0. Raises ValueError unless
    0 ≤ s ≤ 1.
    """

    s: float = 0.008

    def __post_init__(self) -> None:
        """Check the offset."""
        arguments.real("s", self.s, 0.0, 1.0)
        super().__post_init__()

    @property
    def _a(self) -> float:
        return math.pi / (2 * (1 + self.s))

    def alpha(self, t: Tensor) -> Tensor:
        """sin(a (1 − t)) / sin a."""
        return torch.sin(self._a * (1 - t)) / math.sin(self._a)

    def sigma(self, t: Tensor) -> Tensor:
        """√(sin(a (2 − t)) sin(a t)) / sin a."""
        return (torch.sin(self._a * (2 - t)) * torch.sin(self._a * t)).sqrt() / math.sin(self._a)

    def alpha_rate(self, t: Tensor) -> Tensor:
        """−a cos(a (1 − t)) / sin a."""
        return -self._a * torch.cos(self._a * (1 - t)) / math.sin(self._a)

    def time(self, lam: Tensor) -> Tensor:
        """1 − arcsin(α sin a)/a, or from the tangent of a (1 − t), which keeps its digits near t = 0."""
        # tan(a(1−t)) = α sin a / √(1 − α² sin² a), and 1 − α² sin² a = (r² + cos² a)/(1 + r²) with r = e^{−λ}.
        scaled = (2 * lam).sigmoid().sqrt() * math.sin(self._a)
        complement = (-2 * lam).sigmoid() + (2 * lam).sigmoid() * math.cos(self._a) ** 2
        return 1 - torch.atan2(scaled, complement.sqrt()) / self._a


@dataclass(frozen=True)
class SigmoidVP(VariancePreserving):
    """α² falls like a logistic curve: α² = floor + (1 − floor) (s(b) − s(u))/(s(b) − s(a)), s the sigmoid.

    Here a = start/temperature, b = end/temperature and u = a + t (b − a) (Jabri et al. 2023; Chen 2023, algorithm 1).
    They clip α² at 1e-9; the floor does the same smoothly: α_1² = floor, and everything is finite at t = 1. A higher
    temperature makes α² straighter. Raises ValueError unless start < end, temperature > 0 and 0 < floor < 1.
    """

    start: float = -3.0
    end: float = 3.0
    temperature: float = 1.0
    floor: float = 1e-9

    def __post_init__(self) -> None:
        """Check the piece of the sigmoid."""
        arguments.real("start", self.start)
        arguments.real("end", self.end)
        arguments.real("temperature", self.temperature, 1e-6)
        arguments.real("floor", self.floor, 1e-15, 1 - 1e-3)
        if self.start >= self.end:
            raise ValueError(f"start must be below end, got {self.start} and {self.end}")
        super().__post_init__()

    def _share(self, t: Tensor, mirrored: bool) -> Tensor:
        """(s(b) − s(u))/(s(b) − s(a)), or one minus it, by s(p) − s(q) = sinh((p − q)/2)/(2 cosh(p/2) cosh(q/2))."""
        a, b = self.start / self.temperature, self.end / self.temperature
        length, other = (t, b) if mirrored else (1 - t, a)
        scale = math.cosh(other / 2) / math.sinh((b - a) / 2)
        return scale * torch.sinh(length * (b - a) / 2) / torch.cosh((a + t * (b - a)) / 2)

    def alpha(self, t: Tensor) -> Tensor:
        """√(floor + (1 − floor) (s(b) − s(u))/(s(b) − s(a)))."""
        return (self.floor + (1 - self.floor) * self._share(t, mirrored=False)).sqrt()

    def sigma(self, t: Tensor) -> Tensor:
        """√((1 − floor) (s(u) − s(a))/(s(b) − s(a)))."""
        return ((1 - self.floor) * self._share(t, mirrored=True)).sqrt()

    def alpha_rate(self, t: Tensor) -> Tensor:
        """−(1 − floor) (b − a) s′(u) / (2 α (s(b) − s(a)))."""
        a, b = self.start / self.temperature, self.end / self.temperature
        whole = math.sinh((b - a) / 2) / (2 * math.cosh(a / 2) * math.cosh(b / 2))
        slope = (b - a) / (4 * torch.cosh((a + t * (b - a)) / 2) ** 2)
        return -(1 - self.floor) * slope / (2 * whole * self.alpha(t))


@dataclass(frozen=True)
class SNRShifted(VariancePreserving):
    """Another process with its signal-to-noise ratio divided by k² at every t, made variance-preserving.

    α = α_p/√(α_p² + k² σ_p²) and σ = k σ_p/√(α_p² + k² σ_p²), so that λ = λ_p − log k. With k = d/64 this is
    the schedule for d × d pixels that keeps the noise of a picture averaged down to 64 × 64 (Hoogeboom et al. 2023,
    section 2.1). Raises ValueError unless k > 0.
    """

    process: Process
    k: float

    def __post_init__(self) -> None:
        """Check the shift."""
        arguments.real("k", self.k, 1e-6)
        super().__post_init__()

    def _scales(self, t: Tensor) -> tuple[Tensor, Tensor]:
        alpha, sigma = self.process.alpha(t), self.k * self.process.sigma(t)
        length = (alpha**2 + sigma**2).sqrt()
        return alpha / length, sigma / length

    def alpha(self, t: Tensor) -> Tensor:
        """α_p/√(α_p² + k² σ_p²)."""
        return self._scales(t)[0]

    def sigma(self, t: Tensor) -> Tensor:
        """k σ_p/√(α_p² + k² σ_p²)."""
        return self._scales(t)[1]

    def alpha_rate(self, t: Tensor) -> Tensor:
        """k² (σ_p² α_p′ − α_p σ_p σ_p′)/(α_p² + k² σ_p²)^{3/2}, the derivative of the quotient."""
        alpha, sigma = self.process.alpha(t), self.process.sigma(t)
        alpha_rate, sigma_rate = self.process.rates(t)
        # σ_p σ_p′ = ½ g² + f σ_p² is finite where σ ~ √t at the data, though σ_p′ is not.
        product = torch.where(sigma_rate.isinf(), self.process.g2(t) / 2, sigma * sigma_rate)
        length = (alpha**2 + self.k**2 * sigma**2).sqrt()
        return self.k**2 * (sigma**2 * alpha_rate - alpha * product) / length**3

    def time(self, lam: Tensor) -> Tensor:
        """The time of the other process at λ + log k."""
        return self.process.time(lam + math.log(self.k))
