"""TMPD: the likelihood averaged over N(x̂_0, C) with C = Cov[x_0 | x_t] from Tweedie's second formula."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from minidiff import arguments
from minidiff.denoiser import Combined, DenoiserLike
from minidiff.inverse.operators import LinearOperator, require_linear
from minidiff.inverse.tweedie import check_prior, tweedie


class TMPD(Combined):
    """D + C Aᵀ (A C Aᵀ + s² I)⁻¹ (y − A D), C = (σ²/α) ∂D/∂x: Tweedie moment projection (Boys et al. 2023).

    The law of x_0 given x_t is taken for the Gaussian with its true mean and covariance. For Gaussian data of any
    covariance that is exact. covariance="full": A C Aᵀ whole, one backward pass for each of the M measurements.
    "rows": A C Aᵀ is replaced by the diagonal matrix of its row sums A C Aᵀ 1, the paper's approximation for large M,
    two backward passes; negative sums, which no covariance justifies, count as 0. Where A C Aᵀ is diagonal the two
    agree. One call of D.

    y: (B, *measured), s > 0. Raises TypeError for an operator that is not linear, ValueError for s ≤ 0, another
    covariance, a coupled denoiser, and at the call for a y that does not fit x and what `tweedie.tweedie` raises.
    """

    def __init__(
        self,
        D: DenoiserLike,
        A: LinearOperator,
        y: Tensor,
        s: float,
        *,
        covariance: Literal["full", "rows"] = "full",
    ) -> None:
        check_prior(D, "TMPD")
        require_linear(A, "TMPD")
        arguments.real("s", s, 1e-12)
        if covariance not in ("full", "rows"):
            raise ValueError(f"covariance must be 'full' or 'rows', got {covariance!r}")
        super().__init__(D)
        self.D = D
        self.A, self.y, self.s, self.covariance = A, y, s, covariance

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """x̂_0 plus the guidance; the shape of x."""
        self.A.check_measurement(self.y, x)
        x0, product = tweedie(self.D, x, t)
        residual = self.y - self.A(x0)
        if self.covariance == "rows":
            sums = self.A(product(self.A.adjoint(torch.ones_like(residual)))).clamp(min=0)
            return x0 + product(self.A.adjoint(residual / (sums + self.s**2)))
        size = residual[0].numel()
        basis = torch.eye(size, dtype=residual.dtype, device=residual.device).reshape(size, 1, *residual.shape[1:])
        # Row j of each product is C Aᵀ e_j: C is symmetric, so that (∂D/∂x)ᵀ serves as ∂D/∂x.
        seen = torch.stack([product(self.A.adjoint(e.expand(residual.shape))) for e in basis], 1)
        of_y = self.A(seen.flatten(0, 1)).reshape(len(x), size, size)
        noise = self.s**2 * torch.eye(size, dtype=of_y.dtype, device=of_y.device)
        weights = torch.linalg.solve((of_y + of_y.mT) / 2 + noise, residual.flatten(1))
        return x0 + torch.einsum("bj,bj...->b...", weights, seen)


def tmpd_ref(D: DenoiserLike, A: LinearOperator, y: Tensor, s: float, x: Tensor, t: Tensor) -> Tensor:
    """`TMPD` by the formula: the whole Jacobian of each row, N backward passes, and dense matrices; t is 0-d."""
    matrix, alpha, sigma = A.matrix(x.dtype), D.process.alpha(t), D.process.sigma(t)
    rows = []
    for one, measured in zip(x, y, strict=True):

        def denoised(flat: Tensor, one: Tensor = one) -> Tensor:
            return D(flat.reshape(1, *one.shape), t).flatten()

        x0 = denoised(one.flatten())
        C = sigma**2 / alpha * torch.autograd.functional.jacobian(denoised, one.flatten())
        gain = C @ matrix.mT @ torch.linalg.inv(matrix @ C @ matrix.mT + s**2 * torch.eye(len(matrix)).to(x))
        rows.append((x0 + gain @ (measured.flatten() - matrix @ x0)).reshape(one.shape))
    return torch.stack(rows)
