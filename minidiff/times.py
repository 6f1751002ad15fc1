"""Times: the grids on which samplers run and the densities from which training draws.

A grid of n steps has n + 1 times: CPU float64, strictly decreasing from noise (t near 1) to data (t near 0), so
that a method with one call a step makes n calls. Grids in λ or in r = σ/α = e^{−λ} run between `r_max` and
`r_min`, clipped to the range of the process. With `zero=True` the last of the n steps leads to t = 0 (as in EDM,
where it ends the grid); where the process reaches its own smallest r first, the grid ends there, at t = 0, anyway.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from minidiff import arguments
from minidiff.process import Process


def check_times(times: Tensor) -> None:
    """Raise unless times is what a sampler needs: CPU float64 (n + 1,), n ≥ 1, in [0, 1], strictly decreasing.

    TypeError for anything but a float64 tensor, ValueError for the device, shape, range or order.
    """
    if not isinstance(times, Tensor) or times.dtype != torch.float64:
        got = times.dtype if isinstance(times, Tensor) else type(times).__name__
        raise TypeError(f"times must be a float64 tensor, got {got}")
    if times.device.type != "cpu":
        raise ValueError(f"times must be on the CPU (a sampler reads them as Python floats), got {times.device}")
    if times.ndim != 1 or len(times) < 2:
        raise ValueError(f"times must have shape (n + 1,) with n ≥ 1 steps, got {tuple(times.shape)}")
    arguments.finite("times", times)
    arguments.unit_interval("times", times)
    rises = (times[1:] >= times[:-1]).nonzero()
    if len(rises):
        i = int(rises[0])
        raise ValueError(
            f"times must be strictly decreasing, got times[{i}] = {float(times[i])} then {float(times[i + 1])}"
        )


def pairwise(times: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """The steps (s, t), t < s, of a grid: n pairs of 0-d float64 tensors. Raises as `check_times` does."""
    check_times(times)
    return itertools.pairwise(times)


def uniform(n: int, *, start: float = 1.0, end: float = 0.0) -> Tensor:
    """n equal steps in t from start to end: t_i = start + (end − start) i / n; (n + 1,) with 0 ≤ end < start ≤ 1."""
    arguments.positive_integer("n", n)
    arguments.real("start", start, 0.0, 1.0)
    arguments.real("end", end, 0.0, 1.0)
    times = torch.linspace(start, end, n + 1, dtype=torch.float64)
    check_times(times)
    return times


def trailing(n: int, chain: int = 1000) -> Tensor:
    """n steps that visit a chain of `chain` steps from its last one: t_i = round(T − i T/n) / T, T = chain; (n + 1,).

    The first time is 1, so sampling starts where the noise is largest (Lin et al. 2024, table 2); step number
    k = 0…T − 1 of a discrete scheduler is t = (k + 1)/T here. Raises ValueError if n > T.
    """
    arguments.positive_integer("n", n)
    arguments.positive_integer("chain", chain)
    if n > chain:
        raise ValueError(f"n must be at most the chain's {chain} steps, got {n}: times would repeat")
    return torch.linspace(chain, 0, n + 1, dtype=torch.float64).round() / chain


def log_snr(process: Process, n: int, *, r_max: float = 80.0, r_min: float = 0.002, zero: bool = False) -> Tensor:
    """Uniform in λ = −log r from r_max to r_min (DPM-Solver's grid, Lu et al. 2022); (n + 1,).

    Raises ValueError where λ would be infinite (r_min = 0, or r_max = inf) or nothing of the range remains.
    """
    return _uniform_in(process, n, r_max, r_min, zero, torch.log, torch.exp)


def karras(
    process: Process,
    n: int,
    *,
    rho: float = 7.0,
    r_max: float = 80.0,
    r_min: float = 0.002,
    zero: bool = False,
) -> Tensor:
    """Uniform in r^{1/ρ} from r_max to r_min (Karras et al. 2022, eq. 5, on r = σ/α instead of σ); (n + 1,).

    With zero=True this is EDM's grid: n values of r from r_max to r_min, then 0. Raises ValueError for ρ ≤ 0.
    """
    arguments.real("rho", rho, 1e-6)
    return _uniform_in(process, n, r_max, r_min, zero, lambda r: r ** (1 / rho), lambda u: u**rho)


def cosine_angle(
    process: Process,
    n: int,
    *,
    sigma_data: float = 1.0,
    r_max: float = 80.0,
    r_min: float = 0.002,
    zero: bool = False,
    power: float = 1.0,
) -> Tensor:
    """Uniform in the angle arctan((r / σ_data)^power) from r_max to r_min; (n + 1,).

    With power = 1 it is θ = arctan(r / σ_data): for centred Gaussian data of standard deviation σ_data the denoiser
    along a sampling path is proportional to cos θ. A smaller power spreads the steps over more scales of r. The angle
    is finite at both ends: r_max = inf starts at the process's own t = 1, r_min = 0 ends at t = 0. Raises ValueError
    unless sigma_data > 0 and 0 < power ≤ 1, and where nothing of the range remains.
    """
    arguments.real("sigma_data", sigma_data, 1e-12)
    arguments.real("power", power, 1e-3, 1.0)
    return _uniform_in(
        process,
        n,
        r_max,
        r_min,
        zero,
        lambda r: torch.atan((r / sigma_data) ** power),
        lambda u: sigma_data * torch.tan(u) ** (1 / power),
    )


def _uniform_in(
    process: Process,
    n: int,
    r_max: float,
    r_min: float,
    zero: bool,
    of_r: Callable[[Tensor], Tensor],
    to_r: Callable[[Tensor], Tensor],
) -> Tensor:
    """The grid whose u = of_r(r) is uniform between r_max and r_min, clipped to the process's own range of r."""
    arguments.positive_integer("n", n)
    if not 0 <= r_min < r_max:  # also refuses NaN
        raise ValueError(f"r_max and r_min must satisfy 0 ≤ r_min < r_max, got {r_max} and {r_min}")
    least, most = (-process.lam(torch.tensor([0.0, 1.0], dtype=torch.float64))).exp().tolist()
    # Ends within rounding of the process's own are its own, so that they are exactly t = 1 and t = 0.
    from_one, to_zero = r_max >= most * (1 - 1e-12), r_min <= least * (1 + 1e-12)
    high, low = most if from_one else r_max, least if to_zero else r_min
    if not low < high:
        raise ValueError(f"[{r_min}, {r_max}] must meet the range of r of {process}, which is [{least}, {most}]")
    first, final = of_r(torch.tensor([high, low], dtype=torch.float64)).tolist()
    if not math.isfinite(first - final):
        raise ValueError(f"this grid needs 0 < r < ∞ at both ends, got {high} and {low}: set r_max and r_min")
    appended = zero and not to_zero
    u = torch.linspace(first, final, n if appended else n + 1, dtype=torch.float64)
    times = process.time(-to_r(u).log())
    if from_one:
        times[0] = 1.0
    if to_zero:
        times[-1] = 0.0
    times = torch.cat([times, times.new_zeros(1)]) if appended else times
    check_times(times)
    return times


@dataclass(frozen=True)
class Density:
    """A density of training times; calling it draws times. Subclasses give the inverse of its distribution function."""

    def inverse_cdf(self, u: Tensor) -> Tensor:
        """The time below which the fraction u of the draws falls; u (n,) float64 in [0, 1]."""
        raise NotImplementedError(f"{type(self).__name__} must define inverse_cdf(u)")

    def pdf(self, t: Tensor) -> Tensor:
        """The density p(t) at t of any shape; it integrates to 1 over [0, 1] and is 0 where no time is drawn."""
        raise NotImplementedError(f"{type(self).__name__} must define pdf(t)")

    def pdf_lam(self, process: Process, t: Tensor) -> Tensor:
        """The density of λ_t at t, p(λ) = p(t) / |dλ/dt| with dλ/dt = α′/α − σ′/σ.

        The effective weight of a loss at noise level λ is w(λ) p(λ), never w alone (Kingma & Gao 2023).
        """
        return self.pdf(t) / speed(process, t)

    def _uniforms(self, n: int, generator: torch.Generator | None) -> Tensor:
        device = None if generator is None else generator.device
        return torch.rand(n, generator=generator, dtype=torch.float64, device=device)

    def __call__(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw t (n,) float64, on the generator's device. Raises ValueError for n < 1."""
        arguments.positive_integer("n", n)
        return self.inverse_cdf(self._uniforms(n, generator))


# The densities are used like functions, so they carry function names.


@dataclass(frozen=True)
class uniform_density(Density):
    """t uniform on [low, high): p(t) = 1/(high − low). Raises ValueError unless 0 ≤ low < high ≤ 1."""

    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        """Check the interval."""
        arguments.real("low", self.low, 0.0, 1.0)
        arguments.real("high", self.high, 0.0, 1.0)
        if self.low >= self.high:
            raise ValueError(f"low must be below high, got {self.low} and {self.high}")

    def inverse_cdf(self, u: Tensor) -> Tensor:
        """low + (high − low) u."""
        return self.low + (self.high - self.low) * u

    def pdf(self, t: Tensor) -> Tensor:
        """1/(high − low) inside the interval, 0 outside."""
        return ((t >= self.low) & (t <= self.high)).to(t.dtype) / (self.high - self.low)


@dataclass(frozen=True)
class log_normal_density(Density):
    """ln r ~ N(mean, std²) with r = σ/α (Karras et al. 2022, table 1), truncated to the process's own range of r."""

    process: Process
    mean: float = -1.2
    std: float = 1.2

    def __post_init__(self) -> None:
        """Check the parameters and that the process's range holds some of the mass."""
        arguments.real("mean", self.mean)
        arguments.real("std", self.std, 1e-12)
        low, high = self._range
        if not low < high:
            raise ValueError(f"ln r ~ N({self.mean}, {self.std}²) has no mass in the range of {self.process}")

    @property
    def _range(self) -> tuple[float, float]:
        return tuple(torch.special.ndtr(self._standardised(torch.tensor([0.0, 1.0]).double())).tolist())

    def _standardised(self, t: Tensor) -> Tensor:
        return (-self.process.lam(t) - self.mean) / self.std

    def inverse_cdf(self, u: Tensor) -> Tensor:
        """time(λ) at λ = −mean − std Φ⁻¹(Φ(a) + u (Φ(b) − Φ(a))), [a, b] the range of the standardised ln r."""
        low, high = self._range
        log_r = self.mean + self.std * torch.special.ndtri(low + (high - low) * u)
        return self.process.time(-log_r)

    def pdf(self, t: Tensor) -> Tensor:
        """φ((ln r − mean)/std) / (std (Φ(b) − Φ(a))) · |dλ/dt|; 0 where λ is infinite."""
        low, high = self._range
        value = _standard_normal_pdf(self._standardised(t)) / (self.std * (high - low)) * speed(self.process, t)
        return torch.where(self.process.lam(t).isinf(), 0.0, value)


@dataclass(frozen=True)
class logit_normal_density(Density):
    """log(t/(1 − t)) ~ N(mean, std²) (Esser et al. 2024, eq. 19): most draws in the middle of [0, 1]."""

    mean: float = 0.0
    std: float = 1.0

    def __post_init__(self) -> None:
        """Check the parameters."""
        arguments.real("mean", self.mean)
        arguments.real("std", self.std, 1e-12)

    def inverse_cdf(self, u: Tensor) -> Tensor:
        """sigmoid(mean + std Φ⁻¹(u))."""
        return torch.sigmoid(self.mean + self.std * torch.special.ndtri(u))

    def pdf(self, t: Tensor) -> Tensor:
        """φ((logit t − mean)/std) / (std t (1 − t)); 0 at both ends."""
        value = _standard_normal_pdf((t.logit() - self.mean) / self.std) / (self.std * t * (1 - t))
        return torch.where((t <= 0) | (t >= 1), 0.0, value)


@dataclass(frozen=True)
class low_discrepancy(Density):
    """Another density drawn at u_i = (u_0 + i/n) mod 1 with one uniform u_0 (Kingma et al. 2021, appendix I.1).

    Each t still has that density, but a batch covers it evenly, so a batch mean over t varies far less.
    """

    density: Density = field(default_factory=uniform_density)

    def _uniforms(self, n: int, generator: torch.Generator | None) -> Tensor:
        first = super()._uniforms(1, generator)
        return (first + torch.arange(n, dtype=torch.float64, device=first.device) / n) % 1

    def inverse_cdf(self, u: Tensor) -> Tensor:
        """That of the wrapped density."""
        return self.density.inverse_cdf(u)

    def pdf(self, t: Tensor) -> Tensor:
        """That of the wrapped density."""
        return self.density.pdf(t)


def speed(process: Process, t: Tensor) -> Tensor:
    """|dλ/dt| = σ′/σ − α′/α."""
    alpha_rate, sigma_rate = process.rates(t)
    return sigma_rate / process.sigma(t) - alpha_rate / process.alpha(t)


def _standard_normal_pdf(z: Tensor) -> Tensor:
    return (-z.square() / 2).exp() / math.sqrt(2 * math.pi)
