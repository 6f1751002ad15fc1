"""DDNM: what is measured is put into the prediction, and the prior fills the null space."""

from __future__ import annotations

from torch import Tensor

from minidiff.denoiser import Combined, DenoiserLike, check_denoiser
from minidiff.inverse.operators import LinearOperator, require_linear


class DDNM(Combined):
    """A⁺ y + (I − A⁺ A) D(x, t), for y = A x_0 without noise: DDNM (Wang et al. 2023).

    A x̂_0 = y at every step (for y in the range of A), so that a sampler that ends at σ = 0 fits the measurement, to the
    bit for a `Mask`. What is not measured learns of y only through x_t, one step late: even on Gaussian data
    this is not the posterior, unless measured and unmeasured parts are independent. One call of D, no gradients, so
    that it also serves a coupled denoiser and any t.

    y: (B, *measured). Raises TypeError for an operator that is not linear, and at the call ValueError for a y that does
    not fit x.
    """

    def __init__(self, D: DenoiserLike, A: LinearOperator, y: Tensor) -> None:
        check_denoiser(D)
        require_linear(A, "DDNM")
        super().__init__(D)
        self.D = D
        self.A, self.y = A, y

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """The corrected x̂_0; the shape of x."""
        self.A.check_measurement(self.y, x)
        x0 = self.D(x, t)
        return x0 - self.A.pseudo_inverse(self.A(x0)) + self.A.pseudo_inverse(self.y.to(x0))
