"""Exact posteriors, the oracles of inverse problems: they are denoisers, so that any sampler draws from them.

For data whose law is a Gaussian mixture and a linear operator the posterior is a Gaussian mixture again. For a finite
data set it is a reweighting of the points, whatever the operator.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from minidiff import arguments
from minidiff.analytic import Empirical, GaussianMixture
from minidiff.denoiser import marginal
from minidiff.inverse.operators import LinearOperator, require_linear, same_batch

Operator = Callable[[Tensor], Tensor]
LEAST = 1e-300  # the least positive variance keeps 0/0 away: a noiseless limit picks the nearest point


def linear_gaussian(prior: GaussianMixture, A: LinearOperator, y: Tensor, s: float) -> GaussianMixture:
    """The law of x_0 given y = A x_0 + s n, n ~ N(0, I), for x_0 ~ Σ_k π_k N(m_k, C_k): a `GaussianMixture`.

    With S_k = A C_k Aᵀ + s² I and K_k = C_k Aᵀ S_k⁻¹, the components are N(m_k + K_k (y − A m_k), (I − K_k A) C_k),
    and their weights ∝ π_k N(y; A m_k, S_k). Its call is the exact posterior denoiser E[x_0 | x_t, y], its log_prob the
    noised posterior, its sample draws from p(x_0 | y). y: one measurement, *measured. s > 0, since a noiseless
    measurement has a singular posterior. Raises TypeError for another prior and an operator that is not linear,
    ValueError for shapes that do not fit, for s ≤ 0, and where a component's likelihood underflows to zero weight.
    """
    if not isinstance(prior, GaussianMixture):
        raise TypeError(f"linear_gaussian needs a Gaussian mixture as prior, got {type(prior).__name__}")
    require_linear(A, "linear_gaussian")
    arguments.real("s", s, 1e-12)
    if A.shape != tuple(prior.means.shape[1:]):
        raise ValueError(f"A must act on {tuple(prior.means.shape[1:])}, got one for {A.shape}")
    A.check_measurement(y[None], prior.means[:1])
    matrix, y = A.matrix(), y.double().flatten()
    identity = torch.eye(len(prior.mean), dtype=torch.float64)
    axes = identity if prior.axes is None else prior.axes
    covariances = (axes * prior.variances[:, None]) @ axes.mT
    of_y = matrix @ covariances @ matrix.mT + s**2 * torch.eye(len(y), dtype=torch.float64)
    gain = torch.linalg.solve(of_y, matrix @ covariances).mT
    residual = y - prior.means @ matrix.mT
    log_weights = prior.weights.log() + torch.distributions.MultivariateNormal(
        torch.zeros_like(residual), of_y
    ).log_prob(residual)
    means = prior.means + torch.einsum("knm,km->kn", gain, residual)
    keep = identity - gain @ matrix
    # Joseph's form stays symmetric and positive definite where (I − K A) C loses it to rounding.
    posterior = keep @ covariances @ keep.mT + s**2 * gain @ gain.mT
    weights = (log_weights - log_weights.max()).exp()
    return GaussianMixture(prior.process, weights, means.to(prior.dtype), posterior)


def empirical_log_weights(prior: Empirical, A: Operator, y: Tensor, s: float) -> Tensor:
    """log p(x_i | y) = −|y − A(x_i)|²/2s² + const over the N points, for any operator, normalised; (B, N) float64.

    A maps (N, *D) to (N, *measured); y (B, *measured); s ≥ 0. At s = 0 it is the limit: the point with the nearest
    A(x_i), shared among those equally near. Raises TypeError for another prior, ValueError for s < 0, for measurements
    of another shape and for an A(x_i) that is not finite.
    """
    if not isinstance(prior, Empirical):
        raise TypeError(f"needed is a finite data set as prior, an Empirical, got {type(prior).__name__}")
    arguments.finite("y", y)
    arguments.real("s", s, 0.0)
    measured = A(prior.data)
    if measured.shape[1:] != y.shape[1:] or len(measured) != len(prior.data):
        raise ValueError(
            f"A must map the data to (N, *M) and y be (B, *M), got {tuple(measured.shape)} and {tuple(y.shape)}"
        )
    arguments.finite("A(data)", measured)
    squares = torch.cdist(
        y.flatten(1).double(), measured.flatten(1).double(), compute_mode="donot_use_mm_for_euclid_dist"
    ).square()
    nearest = squares.amin(1, keepdim=True)
    return (-(squares - nearest) / max(2 * s**2, LEAST)).log_softmax(1)


class EmpiricalPosterior:
    """E[x_0 | x_t, y] under a finite data set: `Empirical` with p(x_i | y) in the place of 1/N, for any operator.

    p(i | x_t, y) ∝ exp(−|x_t − α x_i|²/2σ² − |y − A(x_i)|²/2s²). One measurement a row: x is (B, *D) for y
    (B, *measured). Memory is O(B N). At σ = 0 it is the nearest point, at α = 0 the mean E[x_0 | y]. Raises
    what `empirical_log_weights` raises.
    """

    coupled = False
    angle = None

    def __init__(self, prior: Empirical, A: Operator, y: Tensor, s: float) -> None:
        self.process = prior.process
        self.sigma_data = prior.sigma_data
        self.data = prior.data
        self.log_weights = empirical_log_weights(prior, A, y, s)
        self._rows = prior.data.flatten(1).double()

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """Σ_i p(i | x, y) x_i; the shape of x."""
        return (self.weights(x, t).double() @ self._rows).reshape(x.shape).to(x.dtype)

    def weights(self, x: Tensor, t: Tensor) -> Tensor:
        """p(i | x_t = x, y); (B, N) in the dtype of x. Raises ValueError unless x is (B, *D) for the B rows of y."""
        arguments.floating("x", x)
        arguments.time_of_batch(t, x)
        if x.shape[1:] != self.data.shape[1:]:
            raise ValueError(f"x must hold samples of shape {tuple(self.data.shape[1:])}, got {tuple(x.shape)}")
        same_batch(self.log_weights, x)
        rows = x.flatten(1).double()
        alpha, sigma = (torch.as_tensor(c, dtype=torch.float64) for c in marginal(self.process, rows, t.double()))
        variance = sigma.square().clamp(min=LEAST)
        energies = alpha * (rows @ self._rows.mT) - alpha**2 * self._rows.square().sum(1) / 2
        energies = energies + variance * self.log_weights
        return ((energies - energies.amax(1, keepdim=True)) / variance).softmax(1).to(x.dtype)

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """One of the points for each row of y, drawn from p(x_i | y); (B, *D). The generator, if any, is on the CPU."""
        chosen = torch.multinomial(self.log_weights.exp().cpu(), 1, generator=generator)[:, 0]
        return self.data[chosen.to(self.data.device)]


def gaussian_log_likelihood(A: Operator, y: Tensor, s: float) -> Callable[[Tensor], Tensor]:
    """x ↦ log N(y; A(x), s² I) for x (B, *D), (B,), in float64; y (B, *measured). Differentiable, for any operator.

    Raises ValueError for s ≤ 0, which has no density, and at the call for measurements of another shape.
    """
    arguments.finite("y", y)
    arguments.real("s", s, 1e-12)

    def log_likelihood(x: Tensor) -> Tensor:
        residual = residuals(A, y, x).double().flatten(1)
        return -residual.square().sum(1) / (2 * s**2) - residual.shape[1] * (math.log(s) + math.log(2 * math.pi) / 2)

    return log_likelihood


def residuals(A: Operator, y: Tensor, x: Tensor) -> Tensor:
    """y − A(x); (B, *measured). Raises ValueError unless A(x) has the shape of y."""
    same_batch(y, x)
    measured = A(x)
    arguments.same_shape("A(x)", measured, "y", y)
    return y - measured
