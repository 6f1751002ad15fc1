"""ΠGDM: the likelihood averaged over an isotropic guess at the law of x_0 given x_t."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from minidiff import arguments
from minidiff.denoiser import Combined, DenoiserLike
from minidiff.inverse.operators import GramFunction, LinearOperator, require_linear
from minidiff.inverse.tweedie import check_prior, tweedie

Variance = Callable[[Tensor], Tensor]


def isotropic_variance(D: DenoiserLike) -> Variance:
    """t ↦ ϱ_t² = s_d² σ²/(α² s_d² + σ²), s_d = D.sigma_data: Var[x_0 | x_t] of Gaussian data N(m, s_d² I)."""

    def variance(t: Tensor) -> Tensor:
        signal, noise = (D.sigma_data * D.process.alpha(t)) ** 2, D.process.sigma(t) ** 2
        return D.sigma_data**2 * noise / (signal + noise)

    return variance


def averaged_log_likelihood(
    A: LinearOperator, y: Tensor, s: float, variance: Variance
) -> Callable[[Tensor, Tensor], Tensor]:
    """(x̂_0, t) ↦ −½ rᵀ (ϱ_t² A Aᵀ + s² I)⁻¹ r with r = y − A x̂_0: log p(y | x_t) but for a function of t; (B,) float64.

    That is the logarithm of ∫ N(y; A x_0, s² I) N(x_0; x̂_0, ϱ_t² I) dx_0. y: (B, *measured), s ≥ 0; variance: t ↦ ϱ_t²,
    such as `isotropic_variance`. Raises TypeError for an operator that is not linear, ValueError for s < 0, and at the
    call for a y that does not fit x̂_0 and for a variance that is negative or, with s, zero.
    """
    require_linear(A, "averaged_log_likelihood")
    arguments.real("s", s, 0.0)

    def log_likelihood(x0: Tensor, t: Tensor) -> Tensor:
        A.check_measurement(y, x0)
        residual = y - A(x0)
        solved = A.of_gram(residual, _inverse(A, s, _spread(variance, t, x0)))
        return -(residual * solved).double().flatten(1).sum(1) / 2

    return log_likelihood


class PiGDM(Combined):
    """D(x, t) + (σ²/α) (∂D/∂x)ᵀ Aᵀ (ϱ² A Aᵀ + s² I)⁻¹ (y − A D(x, t)): ΠGDM (Song et al. 2023).

    The law of x_0 given x_t is taken for N(x̂_0, ϱ_t² I). The default ϱ² is `isotropic_variance`: for Gaussian data with
    equal variance in all directions the answer is exact. For one measured direction a the guidance is
    (s² + Var[a·x_0 | x_t])/(s² + |a|² ϱ²) times that of `TMPD`. With s = 0 it is the pseudo-inverse that guides:
    Aᵀ(A Aᵀ)⁺ = A⁺. One call of D and one backward pass.

    y: (B, *measured), s ≥ 0; variance: a function of t, of its shape, in the place of ϱ_t² (zero is `DPS`). Raises
    TypeError for an operator that is not linear, ValueError for s < 0 and a coupled denoiser, and at the call for a y
    that does not fit x, for a variance that is negative or, with s, zero, and what `tweedie.tweedie` raises.
    """

    def __init__(
        self, D: DenoiserLike, A: LinearOperator, y: Tensor, s: float, *, variance: Variance | None = None
    ) -> None:
        check_prior(D, "PiGDM")
        require_linear(A, "PiGDM")
        arguments.real("s", s, 0.0)
        super().__init__(D)
        self.D = D
        self.A, self.y, self.s = A, y, s
        self.variance = isotropic_variance(D) if variance is None else variance

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """x̂_0 plus the guidance; the shape of x."""
        self.A.check_measurement(self.y, x)
        x0, product = tweedie(self.D, x, t)
        inverse = _inverse(self.A, self.s, _spread(self.variance, t, x0))
        return x0 + product(self.A.adjoint(self.A.of_gram(self.y - self.A(x0), inverse)))


def _spread(variance: Variance, t: Tensor, x0: Tensor) -> Tensor:
    """ϱ_t² in the dtype of x0. Raises TypeError for what is no function, ValueError unless it is () or (B,)."""
    if not callable(variance):
        raise TypeError(f"variance must be a function of t, got {type(variance).__name__}")
    spread = torch.as_tensor(variance(t)).to(x0)
    if spread.shape not in ((), x0.shape[:1]):
        raise ValueError(f"variance(t) must have shape () or ({len(x0)},), got {tuple(spread.shape)}")
    return spread


def _inverse(A: LinearOperator, s: float, spread: Tensor) -> GramFunction:
    """e ↦ 1/(ϱ² e + s²) for ϱ² (spread) of shape () or (B,)."""
    if not bool((spread >= 0).all()) or (s == 0 and bool((spread == 0).any())):
        raise ValueError(f"the variance must be ≥ 0, and > 0 where s = 0, got {spread.flatten().tolist()}")

    def inverse(e: Tensor) -> Tensor:
        total = (spread.reshape(-1, *[1] * e.ndim) if spread.ndim else spread) * e + s**2
        # Where nothing is measured and there is no noise, the residual has no part either.
        return torch.where((e > A.cutoff) | (s > 0), 1 / total, 0.0)

    return inverse
