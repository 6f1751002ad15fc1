"""Exact denoisers, the oracles against which everything else is tested: Gaussian mixtures and finite data sets.

Each is called as D(x, t) → E[x_0 | x_t = x] with t of shape () or (B,), carries `process`, `sigma_data` and
`coupled`, and has the density, the score and exact samples of its data. Arithmetic is in float64; answers return in
the dtype of x.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from minidiff import arguments
from minidiff.denoiser import Coefficient, marginal
from minidiff.process import Process


class GaussianMixture:
    """Data x_0 ~ Σ_k π_k N(m_k, C_k), so that x_t ~ Σ_k π_k N(α m_k, α² C_k + σ² I) in closed form.

    weights (K,) are positive and are normalised to sum to 1; means (K, D); and either covariances (K, D, D),
    symmetric positive definite, or stds, isotropic standard deviations: a number or (K,). Everything is finite at
    σ = 0 (D = x/α) and at α = 0 (D = the data mean). x is (B, D).
    Raises ValueError for shapes that do not fit, for weights or stds ≤ 0 and for covariances that are not positive
    definite.
    """

    coupled = False

    def __init__(
        self,
        process: Process,
        weights: Tensor,
        means: Tensor,
        covariances: Tensor | None = None,
        stds: Tensor | float | None = None,
    ) -> None:
        arguments.finite("weights", weights)
        arguments.finite("means", means)
        if means.ndim != 2 or weights.shape != means.shape[:1] or not len(weights):
            raise ValueError(
                f"weights must be (K,) and means (K, D), got {tuple(weights.shape)} and {tuple(means.shape)}"
            )
        if not bool((weights > 0).all()):
            raise ValueError(f"weights must be positive, got {weights.tolist()}")
        if (covariances is None) == (stds is None):
            raise ValueError("give either covariances (K, D, D) or stds, got " + ("both", "neither")[stds is None])
        self.process = process
        self.dtype = means.dtype
        self.weights = weights.double() / weights.double().sum()
        self.means = means.double()
        # The spectrum of C_k: variances (K, 1 or D) along the columns of axes (K, D, D); None is the identity.
        if covariances is None:
            self.variances, self.axes = _isotropic(stds, self.means), None
        else:
            self.variances, self.axes = _spectrum(covariances, self.means)
        self.mean = self.weights @ self.means
        spread = (self.means - self.mean).square().mean(1) + self.variances.mean(1)
        self.sigma_data = math.sqrt(float(self.weights @ spread))

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """Posterior mean Σ_k ρ_k (m_k + α C_k V_k⁻¹ (x − α m_k)), V_k = α² C_k + σ² I, ρ_k ∝ π_k N(x; α m_k, V_k)."""
        alpha, _, z, v = self._marginal(x, t)
        return self._average(z, v, self._component_means(alpha, z, v)).to(x.dtype)

    def log_prob(self, x: Tensor, t: Tensor) -> Tensor:
        """log p_t(x), the log density of x_t at x; (B,)."""
        _, _, z, v = self._marginal(x, t)
        constant = x.shape[1] / 2 * math.log(2 * math.pi)
        return (self._log_joint(z, v).logsumexp(1) - constant).to(x.dtype)

    def score(self, x: Tensor, t: Tensor) -> Tensor:
        """∇ log p_t(x) = −Σ_k ρ_k V_k⁻¹ (x − α m_k); (B, D), finite at σ = 0."""
        _, _, z, v = self._marginal(x, t)
        return self._average(z, v, -self._rotated(z / v)).to(x.dtype)

    def covariance(self, x: Tensor, t: Tensor) -> Tensor:
        """Posterior covariance Cov[x_0 | x_t = x]; (B, D, D).

        The mean over components of σ² C_k V_k⁻¹ plus the covariance over components of the posterior means.
        """
        alpha, sigma, z, v = self._marginal(x, t)
        means = self._component_means(alpha, z, v)
        offsets = means - self._average(z, v, means)[:, None]
        within = (sigma**2 * self.variances.to(x.device) / v).expand(z.shape)
        if self.axes is None:
            within = torch.diag_embed(within)
        else:
            axes = self.axes.to(x.device)
            within = torch.einsum("kie,bke,kje->bkij", axes, within, axes)
        between = offsets[..., :, None] * offsets[..., None, :]
        return self._average(z, v, within + between).to(x.dtype)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw x_0 (n, D) in the dtype of the means."""
        arguments.positive_integer("n", n)
        device = None if generator is None else generator.device
        k = torch.multinomial(self.weights.to(device), n, replacement=True, generator=generator)
        noise = torch.randn(n, self.means.shape[1], generator=generator, dtype=torch.float64, device=device)
        z = (self.variances.to(device)[k].sqrt() * noise)[:, None]
        if self.axes is not None:
            z = z @ self.axes.to(device)[k].mT
        return (self.means.to(device)[k] + z[:, 0]).to(self.dtype)

    def flow(self, x: Tensor, s: Tensor, t: Tensor) -> Tensor:
        """The probability-flow map x_s → x_t of a single Gaussian: α_t m + V_t^{1/2} V_s^{−1/2} (x − α_s m); (B, D).

        s and t are () or (B,), in either order. Raises ValueError for a mixture, whose flow has no closed form.
        """
        if len(self.weights) != 1:
            raise ValueError(f"the flow is known in closed form for one Gaussian, got {len(self.weights)} components")
        _, _, z, v = self._marginal(x, s)
        alpha, sigma = self._coefficients(x, t)
        scale = ((alpha**2 * self.variances.to(x.device) + sigma**2) / v).sqrt()
        return (alpha * self.means.to(x.device) + self._rotated(scale * z))[:, 0].to(x.dtype)

    def _coefficients(self, x: Tensor, t: Tensor) -> tuple[Coefficient, Coefficient]:
        """α and σ in float64: floats for one time, else shaped (B, 1, 1) to multiply (B, K, D)."""
        arguments.floating("x", x)
        if x.ndim != 2 or x.shape[1] != self.means.shape[1]:
            raise ValueError(f"x must have shape (B, {self.means.shape[1]}), got {tuple(x.shape)}")
        arguments.time_of_batch(t, x)
        return marginal(self.process, x.double()[:, None], t.double())

    def _marginal(self, x: Tensor, t: Tensor) -> tuple[Coefficient, Coefficient, Tensor, Tensor]:
        """α, σ, the residuals U_kᵀ(x − α m_k) (B, K, D) in the axes of C_k, and the spectrum of V_k there."""
        alpha, sigma = self._coefficients(x, t)
        z = x.double()[:, None] - alpha * self.means.to(x.device)
        if self.axes is not None:
            z = torch.einsum("bkd,kde->bke", z, self.axes.to(x.device))
        return alpha, sigma, z, alpha**2 * self.variances.to(x.device) + sigma**2

    def _log_joint(self, z: Tensor, v: Tensor) -> Tensor:
        """log π_k N(x; α m_k, V_k) without the constant (D/2) log 2π; (B, K)."""
        log_determinant = v.log().sum(-1) * (z.shape[-1] // v.shape[-1])
        return self.weights.log().to(z.device) - (log_determinant + (z.square() / v).sum(-1)) / 2

    def _average(self, z: Tensor, v: Tensor, values: Tensor) -> Tensor:
        """The mean over components of values (B, K, …) under the posterior ρ_k; (B, …)."""
        posterior = self._log_joint(z, v).softmax(1)
        return torch.bmm(posterior[:, None], values.flatten(2)).reshape(len(z), *values.shape[2:])

    def _component_means(self, alpha: Coefficient, z: Tensor, v: Tensor) -> Tensor:
        return self.means.to(z.device) + self._rotated(alpha * self.variances.to(z.device) / v * z)

    def _rotated(self, z: Tensor) -> Tensor:
        """U_k z: from the axes of C_k back to those of x; (B, K, D)."""
        return z if self.axes is None else torch.einsum("bke,kde->bkd", z, self.axes.to(z.device))


class Gaussian(GaussianMixture):
    """Data x_0 ~ N(mean, covariance) or N(mean, std² I); mean (D,), covariance (D, D): a mixture of one."""

    def __init__(
        self, process: Process, mean: Tensor, covariance: Tensor | None = None, std: float | None = None
    ) -> None:
        arguments.finite("mean", mean)
        covariances = None if covariance is None else covariance[None]
        super().__init__(process, mean.new_ones(1), mean[None], covariances, std)


class Empirical:
    """Data x_0 uniform on N given points, so that x_t is a mixture of N Gaussians: the minimiser of the training loss.

    data (N, *D) stays in its own dtype and on its own device and is read in chunks of `chunk` rows, for batches of
    `chunk` rows, in float64, with a running softmax (Milakov & Gimelshein 2018): memory beyond the data is
    O(chunk · (chunk + D)). x is (B, *D) on the device of the data. At σ = 0, D is the nearest point (the mean of the
    nearest, if several are equally near); at α = 0 it is the mean of the data.
    Raises TypeError for data that are not floating point, ValueError for NaN or an empty set.
    """

    coupled = False

    def __init__(self, process: Process, data: Tensor, chunk: int = 2048) -> None:
        arguments.floating("data", data)
        arguments.positive_integer("chunk", chunk)
        if data.ndim < 2 or not data.numel():
            raise ValueError(f"data must have shape (N, *D) and hold something, got {tuple(data.shape)}")
        self.process = process
        self.data = data
        self.chunk = chunk
        self._rows = data.flatten(1)
        for _, rows in self._chunks():
            arguments.finite("data", rows)
        mean = sum(rows.sum(0) for _, rows in self._chunks()) / len(data)
        spread = sum(float((rows - mean).square().sum()) for _, rows in self._chunks())
        self._half_squares = torch.cat([rows.square().sum(1) / 2 for _, rows in self._chunks()])
        self.mean = mean.reshape(data.shape[1:])
        self.sigma_data = math.sqrt(spread / data.numel())

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """Posterior mean Σ_i p(i | x) x_i with p(i | x) ∝ exp(−|x − α x_i|² / 2σ²); (B, *D)."""
        return torch.cat([mean for mean, _, _ in self._posteriors(x, t)]).reshape(x.shape).to(x.dtype)

    def weights(self, x: Tensor, t: Tensor) -> Tensor:
        """Posterior p(i | x_t = x) over the N points; (B, N)."""
        parts = []
        for x_part, alpha, variance in self._batches(x, t):
            energies = torch.cat([self._energies(x_part, alpha, i, rows) for i, rows in self._chunks()], 1)
            parts.append(((energies - energies.amax(1, keepdim=True)) / variance).softmax(1))
        return torch.cat(parts).to(x.dtype)

    def log_prob(self, x: Tensor, t: Tensor) -> Tensor:
        """log p_t(x) = log (1/N) Σ_i N(x; α x_i, σ² I); (B,). Raises ValueError at σ = 0, where it does not exist."""
        sigma = self._positive_sigma(x, t)
        dimension = self._rows.shape[1]
        parts = [
            total.log() + (peak - part.square().sum(1, keepdim=True) / 2) / variance
            for (_, peak, total), (part, _, variance) in zip(self._posteriors(x, t), self._batches(x, t), strict=True)
        ]
        constant = dimension * (sigma.log() + math.log(2 * math.pi) / 2) + math.log(len(self.data))
        return (torch.cat(parts)[:, 0] - constant).to(x.dtype)

    def score(self, x: Tensor, t: Tensor) -> Tensor:
        """∇ log p_t(x) = (α D(x, t) − x) / σ²; (B, *D). Raises ValueError at σ = 0."""
        sigma = arguments.along(self._positive_sigma(x, t), x.double())
        alpha = arguments.along(self.process.alpha(t.double()), x.double())
        return ((alpha * self(x.double(), t) - x) / sigma**2).to(x.dtype)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw n of the points with replacement; (n, *D). The generator, if any, is on the CPU."""
        arguments.positive_integer("n", n)
        return self.data[torch.randint(len(self.data), (n,), generator=generator).to(self.data.device)]

    def _positive_sigma(self, x: Tensor, t: Tensor) -> Tensor:
        arguments.time_of_batch(t, x)
        sigma = self.process.sigma(t.double()).to(x.device)
        if bool((sigma == 0).any()):
            raise ValueError("a finite data set has a density and a score only where σ > 0, got a t with σ = 0")
        return sigma

    def _chunks(self) -> Iterator[tuple[int, Tensor]]:
        """(first index, rows in float64) over the data."""
        for start in range(0, len(self.data), self.chunk):
            yield start, self._rows[start : start + self.chunk].double()

    def _batches(self, x: Tensor, t: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Rows of x (b, D) with their α and σ² as (1 or b, 1), all float64."""
        arguments.floating("x", x)
        if x.shape[1:] != self.data.shape[1:]:
            raise ValueError(f"x must have shape (B, {', '.join(map(str, self.data.shape[1:]))}), got {tuple(x.shape)}")
        arguments.time_of_batch(t, x)
        t = t.double()
        # The least positive σ² keeps 0/0 away at σ = 0, where the gaps of every point but the nearest divide to −∞.
        alpha = self.process.alpha(t).to(x.device).reshape(-1, 1)
        variance = self.process.sigma(t).to(x.device).reshape(-1, 1).square().clamp(min=1e-300)
        for start in range(0, max(len(x), 1), self.chunk):  # an empty batch is one empty part
            part = slice(start, start + self.chunk)
            of_part = part if t.ndim else slice(None)
            yield x[part].flatten(1).double(), alpha[of_part], variance[of_part]

    def _energies(self, x: Tensor, alpha: Tensor, start: int, rows: Tensor) -> Tensor:
        """(|x|² − |x − α x_i|²)/2 = α x·x_i − α² |x_i|²/2, finite at both ends; (b, n)."""
        return alpha * (x @ rows.T) - alpha**2 * self._half_squares[start : start + len(rows)]

    def _posteriors(self, x: Tensor, t: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """For each part of the batch: posterior mean (b, D), greatest energy e* and Σ exp((e − e*)/σ²), (b, 1)."""
        for part, alpha, variance in self._batches(x, t):
            peak = total = weighted = None
            for start, rows in self._chunks():
                energies = self._energies(part, alpha, start, rows)
                highest = energies.amax(1, keepdim=True)
                new_peak = highest if peak is None else torch.maximum(peak, highest)
                p = ((energies - new_peak) / variance).exp()
                if peak is None:  # a peak of −∞ to begin with would be simpler, and its derivatives NaN
                    total, weighted = p.sum(1, keepdim=True), p @ rows
                else:
                    kept = ((peak - new_peak) / variance).exp()
                    total, weighted = kept * total + p.sum(1, keepdim=True), kept * weighted + p @ rows
                peak = new_peak
            yield weighted / total, peak, total


def _isotropic(stds: Tensor | float, means: Tensor) -> Tensor:
    """Variances (K, 1) from one standard deviation or K."""
    stds = torch.as_tensor(stds, dtype=torch.float64)
    if stds.ndim > 1 or (stds.ndim == 1 and stds.shape != means.shape[:1]):
        raise ValueError(f"stds must be a number or have shape ({len(means)},), got {tuple(stds.shape)}")
    arguments.finite("stds", stds)
    if not bool((stds > 0).all()):
        raise ValueError(f"stds must be positive, got {stds.tolist()}")
    return stds.square().expand(len(means))[:, None]


def _spectrum(covariances: Tensor, means: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues (K, D) and eigenvectors (K, D, D) of symmetric positive definite covariances."""
    arguments.finite("covariances", covariances)
    needed = (*means.shape, means.shape[1])
    if covariances.shape != needed:
        raise ValueError(f"covariances must have shape {needed}, got {tuple(covariances.shape)}")
    if not torch.allclose(covariances, covariances.mT, rtol=1e-5, atol=1e-8):
        raise ValueError("covariances must be symmetric")
    variances, axes = torch.linalg.eigh(covariances.double())
    if not bool((variances > 0).all()):
        raise ValueError(f"covariances must be positive definite, got the eigenvalue {float(variances.min())}")
    return variances, axes
