"""ΠGDM: the likelihood averaged over an isotropic guess at the law of x_0 given x_t."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from minidiff import arguments
from minidiff.denoiser import DenoiserLike
from minidiff.inverse.operators import LinearOperator, require_linear
from minidiff.inverse.tweedie import Conditioned, check_prior, tweedie

Variance = Callable[[Tensor], Tensor]


class PiGDM(Conditioned):
    """D(x, t) + (σ²/α) (∂D/∂x)ᵀ Aᵀ (ϱ² A Aᵀ + s² I)⁻¹ (y − A D(x, t)): ΠGDM (Song et al. 2023).

    The law of x_0 given x_t is taken for N(x̂_0, ϱ_t² I). By default ϱ² = s_d² σ²/(α² s_d² + σ²) with
    s_d = D.sigma_data, the posterior variance of Gaussian data with variance s_d² in all directions: there it is exact.
    For one measured direction a the guidance is (s² + Var[a·x_0 | x_t])/(s² + |a|² ϱ²) times that of `TMPD`. With s = 0
    it is the pseudo-inverse that guides: Aᵀ(A Aᵀ)⁺ = A⁺. One call of D and one backward pass.

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
        self.A, self.y, self.s = A, y, s
        self.variance = variance or self._isotropic

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """x̂_0 plus the guidance; the shape of x."""
        self.A.check_measurement(self.y, x)
        x0, product = tweedie(self.D, x, t)
        spread = torch.as_tensor(self.variance(t)).to(x0)
        if not bool((spread >= 0).all()) or (self.s == 0 and bool((spread == 0).any())):
            raise ValueError(f"the variance must be ≥ 0, and > 0 where s = 0, got {spread.flatten().tolist()}")

        def inverse(e: Tensor) -> Tensor:
            total = spread.reshape(-1, *[1] * e.ndim) * e + self.s**2 if spread.ndim else spread * e + self.s**2
            # Where nothing is measured and there is no noise, the residual has no part either.
            return torch.where((e > self.A.cutoff) | (self.s > 0), 1 / total, 0.0)

        return x0 + product(self.A.adjoint(self.A.of_gram(self.y - self.A(x0), inverse)))

    def _isotropic(self, t: Tensor) -> Tensor:
        signal = (self.sigma_data * self.process.alpha(t)) ** 2
        noise = self.process.sigma(t) ** 2
        return self.sigma_data**2 * noise / (signal + noise)
