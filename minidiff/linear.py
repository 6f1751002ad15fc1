"""The best affine denoiser: Wiener's filter, which is ridge regression, which is shrinkage along principal axes."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from minidiff import arguments
from minidiff.process import Process


class Wiener:
    """D(x, t) = m + α Σ (α² Σ + σ² I)⁻¹ (x − α m) for data with mean m and covariance Σ.

    Among all affine functions of x_t it has the least squared error, whatever the law of the data; for Gaussian data
    it is the posterior mean (Wiener 1949). mean (*D); covariance (n, n) over the n values of a sample, symmetric with
    no negative eigenvalue; it may be singular. x is (B, *D), t () or (B,). Arithmetic is in float64, answers return in
    the dtype of x. Everything is finite at σ = 0 and at α = 0.
    Raises ValueError for shapes that do not fit, an asymmetric covariance and a negative eigenvalue.
    """

    coupled = False

    def __init__(self, process: Process, mean: Tensor, covariance: Tensor) -> None:
        arguments.finite("mean", mean)
        arguments.finite("covariance", covariance)
        if mean.ndim < 1 or covariance.shape != (mean.numel(), mean.numel()):
            raise ValueError(
                f"mean (*D) with n values needs a covariance (n, n), got {tuple(mean.shape)} and "
                f"{tuple(covariance.shape)}"
            )
        if not torch.allclose(covariance, covariance.mT, rtol=1e-5, atol=1e-8):
            raise ValueError("covariance must be symmetric")
        variances, self.axes = torch.linalg.eigh(covariance.double())
        if float(variances[0]) < -1e-6 * float(variances.abs().max()):
            raise ValueError(f"covariance must have no negative eigenvalue, got {float(variances[0])}")
        self.process = process
        self.mean = mean.double()
        self.variances = variances.clamp(min=0)
        self.sigma_data = math.sqrt(float(self.variances.mean()))

    @classmethod
    def of_data(cls, process: Process, data: Tensor) -> Wiener:
        """The filter with the mean and the covariance (divisor N) of data (N, *D)."""
        arguments.finite("data", data)
        if data.ndim < 2 or not data.numel():
            raise ValueError(f"data must have shape (N, *D) and hold something, got {tuple(data.shape)}")
        rows = data.double().flatten(1)
        centred = rows - rows.mean(0)
        return cls(process, rows.mean(0).reshape(data.shape[1:]), centred.mT @ centred / len(rows))

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """m + Σ_j g_j u_j u_jᵀ (x − α m), with the gains g_j along the principal axes u_j; the shape of x."""
        arguments.floating("x", x)
        if x.shape[1:] != self.mean.shape:
            needed = ", ".join(map(str, self.mean.shape))
            raise ValueError(f"x must have shape (B, {needed}), got {tuple(x.shape)}")
        arguments.time_of_batch(t, x)
        gains = self.gains(t).to(x.device)
        alpha = self.process.alpha(t.double()).to(x.device).reshape(-1, 1)
        mean, axes = self.mean.to(x.device).flatten(), self.axes.to(x.device)
        coordinates = (x.double().flatten(1) - alpha * mean) @ axes
        return (mean + (gains * coordinates) @ axes.mT).reshape(x.shape).to(x.dtype)

    def gains(self, t: Tensor) -> Tensor:
        """g_j = α λ_j / (α² λ_j + σ²) for every principal variance λ_j, ascending; (n,) for t (), (B, n) for (B,).

        An axis without variance has gain 0, also at σ = 0.
        """
        signal, noise = self._powers(t)
        alpha = self.process.alpha(t.double())[..., None]
        return torch.where(self.variances > 0, alpha * self.variances / (signal + noise), 0.0)

    def error(self, t: Tensor) -> Tensor:
        """E|x_0 − D|² = Σ_j σ² λ_j / (α² λ_j + σ²), summed over the values of a sample; the shape of t."""
        signal, noise = self._powers(t)
        return torch.where(self.variances > 0, noise * self.variances / (signal + noise), 0.0).sum(-1)

    def _powers(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """(α² λ_j, σ²), the second with a last dimension of 1."""
        arguments.floating("t", t)
        arguments.unit_interval("t", t)
        t = t.double()[..., None]
        return self.process.alpha(t).square() * self.variances, self.process.sigma(t).square()


def ridge(inputs: Tensor, targets: Tensor, penalty: float = 0.0) -> tuple[Tensor, Tensor]:
    """The W (K, D) and b (K,) that minimise mean_i |targets_i − W inputs_i − b|² + penalty |W|².

    inputs (N, D), targets (N, K), penalty ≥ 0: W = C_yx (C_xx + penalty I)⁻¹ with the covariances C (divisor N), in
    the dtype of the inputs. Noise of standard deviation s on each input acts, on average, like penalty = s².
    Raises ValueError for shapes that do not fit, a negative penalty, and where no unique solution exists.
    """
    arguments.finite("inputs", inputs)
    arguments.finite("targets", targets)
    arguments.real("penalty", penalty, 0)
    shapes = tuple(inputs.shape), tuple(targets.shape)
    if not (inputs.ndim == targets.ndim == 2 and len(inputs) == len(targets) > 0):
        raise ValueError("inputs must be (N, D), targets (N, K), got {} and {}".format(*shapes))
    x_mean, y_mean = inputs.mean(0), targets.mean(0)
    x, y = inputs - x_mean, targets - y_mean
    gram = x.mT @ x / len(x)
    gram.diagonal().add_(penalty)
    try:
        weight = torch.linalg.solve(gram, x.mT @ y / len(x)).mT
    except torch.linalg.LinAlgError as error:
        raise ValueError("the inputs are linearly dependent: a penalty above 0 is needed") from error
    return weight, y_mean - weight @ x_mean
