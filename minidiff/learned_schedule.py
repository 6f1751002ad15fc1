"""A monotone schedule that is learned: how long to stay in each band of the signal-to-noise ratio.

Between fixed ends the continuous bound ∫ E|ε − ε̂|² dλ does not depend on λ_t, so a schedule is free to make its
estimate precise (Kingma et al. 2021, section 5.1 and appendix H). Here [lam_min, lam_max] is cut into K bands of equal
width Δ, and the share w_k > 0 of the clock is spent in band k: λ_t falls from lam_max to lam_min along a line of
slope −Δ/w_k there. Seen from another process the same schedule is the density w_k/Δ of λ from which times are drawn.
One draw of the estimate is (Δ/w_k) |ε − ε̂|², whose second moment Δ² Σ_k E[|ε − ε̂|⁴ | band k]/w_k the durations are
trained to minimise; the best w_k is in proportion to the root of the fourth moment.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from minidiff import arguments
from minidiff.process import Process, VariancePreserving
from minidiff.times import Density, speed


def _check_bands(lam_max: float, lam_min: float, durations: tuple[float, ...]) -> None:
    arguments.real("lam_max", lam_max)
    arguments.real("lam_min", lam_min)
    if not lam_min < lam_max:
        raise ValueError(f"lam_min must lie below lam_max, got {lam_min} and {lam_max}")
    if not isinstance(durations, tuple) or not durations:
        raise TypeError(f"durations must be a non-empty tuple of floats, got {type(durations).__name__}")
    for k, w in enumerate(durations):
        arguments.real(f"duration {k}", w, 1e-9, 1.0)
    if abs(math.fsum(durations) - 1) > 1e-6:
        raise ValueError(f"the durations must sum to 1, got {math.fsum(durations)}")


def _lam_of_clock(u: Tensor, lam_max: float, lam_min: float, durations: Tensor) -> tuple[Tensor, Tensor]:
    """λ at the fraction u of the clock, and the index of its band."""
    ends = durations.cumsum(0)
    k = torch.searchsorted(ends[:-1].contiguous(), u.detach().contiguous(), right=True)
    share = (u - (ends - durations)[k]) / durations[k]
    width = (lam_max - lam_min) / len(durations)
    return lam_max - width * (k + share), k


def _band(lam: Tensor, lam_max: float, lam_min: float, bands: int) -> Tensor:
    return ((lam_max - lam) * bands / (lam_max - lam_min)).floor().clamp(0, bands - 1).long()


@dataclass(frozen=True)
class BandedVP(VariancePreserving):
    """α² = 1/(1 + e^{−2λ}), σ² = 1 − α², with λ_t falling from lam_max to lam_min through bands of equal width.

    durations: the share of [0, 1] spent in each band, from high λ to low; (1.0,) is uniform in λ. Raises ValueError
    unless lam_min < lam_max are finite and the durations positive with sum 1, TypeError unless they are a tuple.
    """

    lam_max: float
    lam_min: float
    durations: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        """Check ends and durations."""
        _check_bands(self.lam_max, self.lam_min, self.durations)
        super().__post_init__()

    def _shares(self, of: Tensor) -> Tensor:
        w = torch.tensor(self.durations, dtype=torch.float64, device=of.device)
        return w / w.sum()

    def lam(self, t: Tensor) -> Tensor:
        """Piecewise linear, −Δ/w_k a unit of time in band k."""
        return _lam_of_clock(t, self.lam_max, self.lam_min, self._shares(t))[0]

    def alpha(self, t: Tensor) -> Tensor:
        """The root of sigmoid(2λ)."""
        return (2 * self.lam(t)).sigmoid().sqrt()

    def sigma(self, t: Tensor) -> Tensor:
        """The root of sigmoid(−2λ)."""
        return (-2 * self.lam(t)).sigmoid().sqrt()

    def alpha_rate(self, t: Tensor) -> Tensor:
        """α σ² λ′, at a border of two bands that of the later one."""
        w = self._shares(t)
        lam, k = _lam_of_clock(t, self.lam_max, self.lam_min, w)
        slope = -(self.lam_max - self.lam_min) / len(w) / w[k]
        return (2 * lam).sigmoid().sqrt() * (-2 * lam).sigmoid() * slope

    def time(self, lam: Tensor) -> Tensor:
        """The clock at which λ is reached."""
        w = self._shares(lam)
        k = _band(lam, self.lam_max, self.lam_min, len(w))
        share = (self.lam_max - lam) * len(w) / (self.lam_max - self.lam_min) - k
        return (w.cumsum(0) - w)[k] + w[k] * share


@dataclass(frozen=True)
class banded_density(Density):
    """Times of `process` whose λ has the density w_k/Δ in band k of [lam_min, lam_max]: the schedule as a sampler.

    durations (1.0,) is λ uniform. Raises ValueError for bands outside the range of the process, and as `BandedVP`.
    """

    process: Process
    lam_max: float
    lam_min: float
    durations: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        """Check ends and durations."""
        _check_bands(self.lam_max, self.lam_min, self.durations)
        low, high = self.process.lam_range
        if self.lam_min < low - 1e-9 or self.lam_max > high + 1e-9:
            raise ValueError(f"λ of {self.process} lies in [{low:g}, {high:g}], got {self.lam_min} and {self.lam_max}")

    def inverse_cdf(self, u: Tensor) -> Tensor:
        """The time of the process at which λ is that of the clock u."""
        w = torch.tensor(self.durations, dtype=torch.float64, device=u.device)
        return self.process.time(_lam_of_clock(u, self.lam_max, self.lam_min, w / w.sum())[0])

    def pdf(self, t: Tensor) -> Tensor:
        """(w_k/Δ) |λ′_t| inside the bands, 0 outside."""
        w = torch.tensor(self.durations, dtype=torch.float64, device=t.device)
        lam = self.process.lam(t)
        k = _band(lam, self.lam_max, self.lam_min, len(w))
        inside = (lam <= self.lam_max + 1e-9) & (lam >= self.lam_min - 1e-9)
        return torch.where(
            inside, (w / w.sum())[k] * len(w) / (self.lam_max - self.lam_min) * speed(self.process, t), 0.0
        )


class LearnedSchedule(nn.Module):
    """The durations of K bands of [lam_min, lam_max] as a softmax of trainable logits; they start equal.

    Raises ValueError as `BandedVP`, and for bands < 1.
    """

    def __init__(self, lam_max: float, lam_min: float, bands: int = 16) -> None:
        super().__init__()
        arguments.positive_integer("bands", bands)
        _check_bands(lam_max, lam_min, (1.0,))
        self.lam_max, self.lam_min = lam_max, lam_min
        self.logits = nn.Parameter(torch.zeros(bands, dtype=torch.float64))

    @property
    def durations(self) -> Tensor:
        """w (K,), positive, with sum 1."""
        return self.logits.softmax(0)

    def second_moment(self, lam: Tensor, error: Tensor, drawn: Tensor) -> Tensor:
        """|ε − ε̂|⁴ / (p(λ) q(λ)) with p the density of this schedule: its mean estimates E ℓ²; (B,), to be minimised.

        lam (B,) in the range; error (B,), the squared noise errors |ε − ε̂|² there; drawn (B,), the density q(λ) from
        which λ was drawn. The gradient reaches the logits through p alone, so the network is never differentiated.
        Raises ValueError for unequal shapes, λ out of range, or q not positive.
        """
        arguments.same_shape("lam", lam, "error", error)
        arguments.same_shape("lam", lam, "drawn", drawn)
        if not bool(((lam >= self.lam_min - 1e-9) & (lam <= self.lam_max + 1e-9)).all()):
            got = f"{float(lam.min()):g} to {float(lam.max()):g}"
            raise ValueError(f"λ must lie in [{self.lam_min:g}, {self.lam_max:g}], got values from {got}")
        if not bool((drawn > 0).all()):
            raise ValueError(f"drawn must be positive, got {float(drawn.min())}")
        return error.double().square() / (self.density_at(lam) * drawn)

    def density_at(self, lam: Tensor) -> Tensor:
        """p(λ) = w_k/Δ; (B,)."""
        bands = len(self.logits)
        k = _band(lam.double(), self.lam_max, self.lam_min, bands)
        return self.durations[k] * bands / (self.lam_max - self.lam_min)

    def process(self) -> BandedVP:
        """The schedule as a variance-preserving process."""
        return BandedVP(self.lam_max, self.lam_min, tuple(self.durations.detach().cpu().tolist()))

    def density(self, process: Process) -> banded_density:
        """The schedule as a density of the times of another process."""
        return banded_density(process, self.lam_max, self.lam_min, tuple(self.durations.detach().cpu().tolist()))
