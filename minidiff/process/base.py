"""What every forward process has in common: derived once from α and σ.

A subclass writes `alpha` and `sigma` as plain formulas of a float64 tensor; λ, its inverse, the rates, the drift and
the diffusion follow, and are overridden only where a closed form is exact at the ends. Whatever a subclass writes is
evaluated in float64 and returned in the precision of t, at least float32, so that a half-precision model keeps an
exact clock. Processes are frozen dataclasses of floats: they live on no device.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from minidiff import arguments
from minidiff.noise import Generators, standard_normal

Formula = Callable[[Any, Tensor], Any]


def in_float64(formula: Formula) -> Formula:
    """The method evaluated on t in float64, its value returned in the dtype of t, at least float32."""

    @functools.wraps(formula)
    def evaluated(self: Process, t: Tensor) -> Tensor | tuple[Tensor, ...]:
        if t.dtype == torch.float64:
            return formula(self, t)
        arguments.floating("the argument of a process", t)
        dtype = torch.promote_types(t.dtype, torch.float32)
        value = formula(self, t.double())
        return value.to(dtype) if isinstance(value, Tensor) else tuple(v.to(dtype) for v in value)

    return evaluated


def inverse_of_lam(formula: Formula) -> Formula:
    """The method `time`, with λ checked against the range of the process and t clamped to [0, 1]."""

    clamped = in_float64(lambda self, lam: formula(self, lam.clamp(*self.lam_range)).clamp(0, 1))

    @functools.wraps(formula)
    def checked(self: Process, lam: Tensor) -> Tensor:
        low, high = self.lam_range
        slack = 1e-9 if lam.dtype == torch.float64 else 1e-5  # λ in float32 is rounded, also at the ends
        inside = (lam >= low - slack * (1 + abs(low))) & (lam <= high + slack * (1 + abs(high)))
        if not bool(inside.all()):
            got = f"{float(lam.min()):g} to {float(lam.max()):g}"
            raise ValueError(f"λ must lie in [{low:g}, {high:g}] for {self}, got values from {got}")
        return clamped(self, lam)

    return checked


@dataclass(frozen=True)
class Process:
    """A Gaussian forward process q(x_t | x_0) = N(α_t x_0, σ_t² I).

    Every method takes t of shape () or (B,) with values in [0, 1] and returns the same shape; at the ends the value is
    the limit, ±∞ where that is infinite. Raises ValueError at construction unless λ_t = log(α_t/σ_t) strictly
    decreases.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:  # noqa: ANN401
        super().__init_subclass__(**kwargs)
        for name in ("alpha", "sigma", "lam", "rates", "f", "g2"):
            if name in cls.__dict__:
                setattr(cls, name, in_float64(cls.__dict__[name]))
        if "time" in cls.__dict__:
            cls.time = inverse_of_lam(cls.__dict__["time"])

    def __post_init__(self) -> None:
        """Check that λ is strictly decreasing."""
        lam = self.lam(torch.linspace(0, 1, 257, dtype=torch.float64))
        if not bool((lam[1:] < lam[:-1]).all()):
            raise ValueError(f"λ must be strictly decreasing on [0, 1], but it is not for {self}")

    def alpha(self, t: Tensor) -> Tensor:
        """Signal scale α_t ≥ 0."""
        raise NotImplementedError(f"{type(self).__name__} must define alpha(t)")

    def sigma(self, t: Tensor) -> Tensor:
        """Noise scale σ_t ≥ 0."""
        raise NotImplementedError(f"{type(self).__name__} must define sigma(t)")

    @in_float64
    def lam(self, t: Tensor) -> Tensor:
        """Half log signal-to-noise ratio λ_t = log(α_t / σ_t) (DPM-Solver's λ); +∞ at σ = 0, −∞ at α = 0."""
        return self.alpha(t).log() - self.sigma(t).log()

    @inverse_of_lam
    def time(self, lam: Tensor) -> Tensor:
        """The inverse of `lam`: t with λ_t = lam, in closed form where one exists, else by bisection to 1e-12.

        Raises ValueError for NaN and for values outside [λ_1, λ_0] beyond rounding.
        """
        low, high = torch.zeros_like(lam), torch.ones_like(lam)
        for _ in range(54):  # halves [0, 1] down to rounding
            middle = (low + high) / 2
            too_early = self.lam(middle) > lam
            low, high = torch.where(too_early, middle, low), torch.where(too_early, high, middle)
        return (low + high) / 2

    @functools.cached_property
    def lam_range(self) -> tuple[float, float]:
        """(λ_1, λ_0): the least and the greatest λ; infinite where α_1 = 0 or σ_0 = 0."""
        return float(self.lam(torch.ones((), dtype=torch.float64))), float(
            self.lam(torch.zeros((), dtype=torch.float64))
        )

    @in_float64
    def rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Time derivatives (α′_t, σ′_t); by forward-mode differentiation unless a subclass knows them."""

        def derivatives(t: Tensor) -> tuple[Tensor, Tensor]:
            one = torch.ones_like(t)
            return torch.func.jvp(self.alpha, (t,), (one,))[1], torch.func.jvp(self.sigma, (t,), (one,))[1]

        inside = derivatives(t.clamp(1e-12, 1 - 1e-12))
        at_t = derivatives(t)
        return torch.where(at_t[0].isnan(), inside[0], at_t[0]), torch.where(at_t[1].isnan(), inside[1], at_t[1])

    @in_float64
    def f(self, t: Tensor) -> Tensor:
        """Drift coefficient f_t = α′_t / α_t of the forward SDE dx = f x dt + g dW (Song et al. 2021, eq. 5)."""
        return self.rates(t)[0] / self.alpha(t)

    @in_float64
    def g2(self, t: Tensor) -> Tensor:
        """Squared diffusion g²_t = 2 σ σ′ − 2 (α′/α) σ² = −2 σ² λ′ (Kingma et al. 2021)."""

        def formula(t: Tensor) -> Tensor:
            alpha, sigma = self.alpha(t), self.sigma(t)
            alpha_rate, sigma_rate = self.rates(t)
            return 2 * sigma * sigma_rate - 2 * alpha_rate / alpha * sigma**2

        value = formula(t)  # 0/0 at an end of a process without closed forms: the limit is read 1e-12 inside
        return torch.where(value.isnan(), formula(t.clamp(1e-12, 1 - 1e-12)), value)

    def noise(self, x0: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """Forward marginal x_t = α_t x_0 + σ_t ε; x0 and eps (B, *D), t () or (B,).

        Raises TypeError for non-floating tensors, ValueError for unequal shapes or t outside [0, 1].
        """
        arguments.floating("x0", x0)
        arguments.same_shape("x0", x0, "eps", eps)
        arguments.time_of_batch(t, x0)
        alpha = arguments.along(self.alpha(t), x0)
        sigma = arguments.along(self.sigma(t), x0)
        return alpha * x0 + sigma * eps

    def prior(
        self,
        shape: Sequence[int],
        generator: Generators = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """Draw x at t = 1 from N(0, (α_1² + σ_1²) I), the moment match for standardised data; (B, *D).

        For a variance-preserving process this is N(0, I); for VE and EDM it is N(0, σ_max²) to 1/σ_max².
        """
        one = torch.ones((), dtype=torch.float64)
        scale = math.hypot(float(self.alpha(one)), float(self.sigma(one)))
        return scale * standard_normal(shape, generator, dtype, device)


@dataclass(frozen=True)
class VariancePreserving(Process):
    """α² + σ² = 1, hence σ′ = −α α′/σ and g² = −2 f (Song et al. 2021, section 3.4). Subclasses add `alpha_rate`."""

    def alpha_rate(self, t: Tensor) -> Tensor:
        """α′_t for float64 t."""
        raise NotImplementedError(f"{type(self).__name__} must define alpha_rate(t)")

    def rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """(α′, −α α′/σ)."""
        rate = self.alpha_rate(t)
        return rate, -self.alpha(t) * rate / self.sigma(t)

    def f(self, t: Tensor) -> Tensor:
        """α′/α."""
        return self.alpha_rate(t) / self.alpha(t)

    def g2(self, t: Tensor) -> Tensor:
        """−2 f."""
        return -2 * self.f(t)


@dataclass(frozen=True)
class VarianceExploding(Process):
    """α = 1, so f = 0 and g² = 2 σ σ′ (Song et al. 2021, section 3.4). Subclasses add `sigma_rate`."""

    def alpha(self, t: Tensor) -> Tensor:
        """1."""
        return torch.ones_like(t)

    def sigma_rate(self, t: Tensor) -> Tensor:
        """σ′_t for float64 t."""
        raise NotImplementedError(f"{type(self).__name__} must define sigma_rate(t)")

    def rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """(0, σ′)."""
        return torch.zeros_like(t), self.sigma_rate(t)
