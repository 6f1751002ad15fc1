"""Critically damped Langevin diffusion: noise enters a velocity, and the covariance of a step is a 2×2 matrix.

With the clock ω = rate · t, the phase of an undamped spring, the forward equation of z = (x, v) is
dz = A z dω + (0, 2 dW), A = [[0, 1], [−1, −2]]: a spring with the friction at which it just does not swing (Dockhorn et
al. 2022). The velocity is in units of √M and starts as N(0, γ), so that z → N(0, I). Every matrix acts on the pair of x
and v, and alike on each coordinate of x.

Given x_0, z is Gaussian: z = m x_0 + L ε with ε (B, 2, *D). What z says about x_0 is one number a coordinate, so an
ordinary denoiser serves (`PhaseSpace`). `gddim` is the DDIM of this process (Zhang, Tao & Chen 2023).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from minidiff import arguments
from minidiff.denoiser import DenoiserLike, check_denoiser
from minidiff.noise import Generators, standard_normal
from minidiff.samplers.state import State
from minidiff.times import check_times, pairwise

Gauge = Literal["flow", "cholesky"]


@functools.cache
def _legendre(count: int) -> tuple[Tensor, Tensor]:
    nodes, weights = np.polynomial.legendre.leggauss(count)
    return torch.from_numpy(nodes), torch.from_numpy(weights)


def _matrix(rows: list[list[Tensor]]) -> Tensor:
    return torch.stack([torch.stack(row, -1) for row in rows], -2)


@dataclass(frozen=True)
class CriticallyDamped:
    """The process; rate is ω at t = 1, gamma the variance of the first velocity.

    The published setting M⁻¹ = 4, Γ = 1, β = 4, γ = 0.04 (Dockhorn et al. 2022) is rate = 8, gamma = 0.04. Methods take
    t of any shape in [0, 1] in float64 and return one more axis (2,) for a vector, (2, 2) for a matrix, in closed form
    but for `angle`, a quadrature. Raises ValueError unless rate > 0 and gamma > 0.
    """

    rate: float = 8.0
    gamma: float = 0.04

    def __post_init__(self) -> None:
        """Check the parameters: without any first velocity the flow spins without end as t → 0."""
        arguments.real("rate", self.rate, 1e-6)
        arguments.real("gamma", self.gamma, 1e-9)

    def transition(self, t: Tensor, s: Tensor | float = 0.0) -> Tensor:
        """e^{A (ω_t − ω_s)} = e^{−ω} [[1 + ω, ω], [−ω, 1 − ω]]: how the mean moves, in either direction of time."""
        omega = self.rate * (t - s)
        return torch.exp(-omega)[..., None, None] * _matrix([[1 + omega, omega], [-omega, 1 - omega]])

    def mean(self, t: Tensor) -> Tensor:
        """m = e^{−ω} (1 + ω, −ω): E[z | x_0] = m x_0."""
        return self.transition(t)[..., 0]

    def covariance(self, t: Tensor) -> Tensor:
        """Σ = I − e^{Aω} diag(1, 1 − γ) e^{Aᵀω}, the covariance of z given x_0, without cancellation at t = 0."""
        omega = self.rate * t
        decay = torch.exp(-2 * omega)
        kick = self.gamma * decay
        xx = torch.special.gammainc(torch.full_like(omega, 3.0), 2 * omega) + kick * omega**2
        xv = 2 * omega**2 * decay + kick * omega * (1 - omega)
        vv = -torch.expm1(-2 * omega) + 2 * omega * (1 - omega) * decay + kick * (1 - omega) ** 2
        return _matrix([[xx, xv], [xv, vv]])

    def cholesky(self, t: Tensor) -> Tensor:
        """Lower triangular L with L Lᵀ = Σ, the limit [[0, 0], [√γ, 0]] at t = 0."""
        covariance = self.covariance(t)
        xx, xv = covariance[..., 0, 0], covariance[..., 0, 1]
        first = xx.sqrt()
        below = torch.where(t > 0, xv / first, math.sqrt(self.gamma))
        last = torch.where(t > 0, (torch.linalg.det(covariance) / xx).clamp(min=0).sqrt(), 0.0)
        return _matrix([[first, torch.zeros_like(first)], [below, last]])

    def angle(self, t: Tensor) -> Tensor:
        """θ = −∫_0^ω L_vv/L_xx dω, by which the flow turns the noise against Cholesky's axes; the shape of t.

        The integrand grows like ω^{−1/2} as ω → 0, so the quadrature runs in √ω.
        """
        nodes, weights = _legendre(64)
        end = (self.rate * t).sqrt()
        root = (end[..., None] * (1 + nodes) / 2).clamp(min=1e-12)
        factor = self.cholesky(root**2 / self.rate)
        return -(2 * root * factor[..., 1, 1] / factor[..., 0, 0] * weights).sum(-1) * end / 2

    def flow(self, t: Tensor, s: Tensor) -> Tensor:
        """Φ = R_t R_s⁻¹ for dR/dω = (A + ½ G Gᵀ Σ⁻¹) R: where the probability flow takes noise from s > 0 to t."""
        turn = self.angle(t) - self.angle(s)
        spin = _matrix([[turn.cos(), -turn.sin()], [turn.sin(), turn.cos()]])
        return self.cholesky(t) @ spin @ torch.linalg.inv(self.cholesky(s))

    def lam(self, t: Tensor) -> Tensor:
        """½ log mᵀ Σ⁻¹ m: half the log signal-to-noise ratio of what z says about x_0; +∞ at t = 0, the shape of t."""
        whitened = self._whitened(t)
        return torch.where(t > 0, whitened.square().sum(-1).log() / 2, math.inf)

    def time(self, lam: Tensor) -> Tensor:
        """The inverse of `lam` for values of at least λ_1, by bisection; 0 at λ = ∞. Raises ValueError below λ_1."""
        least = float(self.lam(torch.ones((), dtype=torch.float64)))
        if not bool((lam >= least - 1e-9).all()):
            raise ValueError(f"λ must be at least {least:g}, that of t = 1, got values from {float(lam.min()):g}")
        low, high = torch.zeros_like(lam), torch.ones_like(lam)
        for _ in range(54):
            middle = (low + high) / 2
            too_early = self.lam(middle) > lam
            low, high = torch.where(too_early, middle, low), torch.where(too_early, high, middle)
        return torch.where(lam == math.inf, 0.0, high)

    def _whitened(self, t: Tensor) -> Tensor:
        """L⁻¹ m, for t > 0 (elsewhere finite and of no use)."""
        factor = self.cholesky(t.clamp(min=1e-12))
        return torch.linalg.solve_triangular(factor, self.mean(t)[..., None], upper=False)[..., 0]

    def summary(self, t: Tensor) -> Tensor:
        """The row h with h · z = x_0 + noise of variance e^{−2λ}: h = Σ⁻¹ m/(mᵀ Σ⁻¹ m), and (1, 0) at t = 0; (…, 2)."""
        factor, whitened = self.cholesky(t.clamp(min=1e-12)), self._whitened(t)
        row = torch.linalg.solve_triangular(factor.mT, whitened[..., None], upper=True)[..., 0]
        row = row / whitened.square().sum(-1, keepdim=True)
        return torch.where((t > 0)[..., None], row, row.new_tensor([1.0, 0.0]))

    def noise(self, x0: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """z = m x_0 + L ε: x0 (B, *D), eps (B, 2, *D), t (): (B, 2, *D). Raises ValueError for other shapes."""
        arguments.floating("x0", x0)
        if eps.shape != (len(x0), 2, *x0.shape[1:]):
            raise ValueError(f"eps must hold an x and a v for each value of x0, got {tuple(eps.shape)}")
        return apply(self.mean(t)[:, None], x0[:, None]) + apply(self.cholesky(t), eps)

    def prior(self, shape: tuple[int, ...], generator: Generators = None, dtype: torch.dtype = torch.float32) -> Tensor:
        """z at t = 1 for data of `shape` (B, *D): N(0, I) of shape (B, 2, *D)."""
        return standard_normal((shape[0], 2, *shape[1:]), generator, dtype)


def apply(matrix: Tensor, z: Tensor) -> Tensor:
    """A matrix (n, k) times the k parts of each z (B, k, *D): (B, n, *D)."""
    return torch.einsum("nk,bk...->bn...", matrix.to(z), z)


class PhaseSpace:
    """E[x_0 | z_t] from an ordinary denoiser: z enters through h · z alone, which is x_0 in noise of variance e^{−2λ}.

    The density of z given x_0 depends on x_0 through mᵀ Σ⁻¹ z, a sufficient statistic. So with the time u at which the
    process of D has the same λ, E[x_0 | z] = D(α_u h · z, u). Raises ValueError for a coupled D.
    """

    def __init__(self, D: DenoiserLike, process: CriticallyDamped) -> None:
        check_denoiser(D)
        if D.coupled:
            raise ValueError("D was trained under a coupling of x0 and eps: its noise is not that of another process")
        self.D = D
        self.process = process

    def __call__(self, z: Tensor, t: Tensor) -> Tensor:
        """x̂_0 (B, *D) for z (B, 2, *D) and a 0-d float64 t; x itself at t = 0.

        Where z has more signal than D's process ever has, or less, D is asked at its own first, or last, time.
        """
        if z.ndim < 2 or z.shape[1] != 2:
            raise ValueError(f"z must have shape (B, 2, *D), got {tuple(z.shape)}")
        if float(t) == 0:
            return z[:, 0]
        seen = apply(self.process.summary(t)[None], z)[:, 0]
        low, high = self.D.process.lam_range
        u = self.D.process.time(self.process.lam(t).clamp(low, high))
        return self.D(seen * float(self.D.process.alpha(u)), u)

    def score(self, z: Tensor, t: Tensor) -> Tensor:
        """∇ log q_t(z) = Σ⁻¹ (m x̂_0 − z), for t > 0; (B, 2, *D)."""
        residual = apply(self.process.mean(t)[:, None], self(z, t)[:, None]) - z
        return apply(torch.cholesky_inverse(self.process.cholesky(t)), residual)

    def velocity(self, z: Tensor, t: Tensor) -> Tensor:
        """dz/dt of the probability flow, rate · (A z − ½ G Gᵀ ∇log q): the score is needed along v only; (B, 2, *D)."""
        x, v = z.unbind(1)
        return self.process.rate * torch.stack([v, -x - 2 * v - 2 * self.score(z, t)[:, 1]], 1)


def gddim(D: PhaseSpace, z: Tensor, times: Tensor, *, order: int = 1, gauge: Gauge = "flow") -> Iterator[State]:
    """Generalised DDIM (Zhang, Tao & Chen 2023): the probability flow, exact where ε̂ = K⁻¹ (z − m x̂_0) is constant.

    z_t = e^{A(ω_t−ω_s)} z_s + ∫ e^{A(ω_t−ω)} ½ G Gᵀ K^{−T} ε̂ dω, with ε̂ a polynomial in ω through its last `order`
    values. gauge "flow" takes K = R of `CriticallyDamped.flow`: at order 1 the step is
    m_t x̂_0 + R_t R_s⁻¹ (z_s − m_s x̂_0), and exact in one step for data at a point. "cholesky" takes K = L, for which
    ε̂ turns along the path and it is not.

    z (B, 2, *D) at times[0]; times: float64 (n + 1,). State.x is z, State.x0 the x̂_0 of the step. One call of D a step.
    Raises TypeError or ValueError for wrong shapes or times, another gauge, and an order other than 1 and 2.
    """
    if not isinstance(D, PhaseSpace):
        raise TypeError(f"D must be a PhaseSpace denoiser, got {type(D).__name__}")
    arguments.finite("z", z)
    if z.ndim < 3 or z.shape[1] != 2:
        raise ValueError(f"z must have shape (B, 2, *D), got {tuple(z.shape)}")
    check_times(times)
    if gauge not in ("flow", "cholesky"):
        raise ValueError(f"gauge must be 'flow' or 'cholesky', got {gauge!r}")
    if order not in (1, 2):
        raise ValueError(f"order must be 1 or 2, got {order}")
    return _gddim(D, z, times, order, gauge)


def _gddim(D: PhaseSpace, z: Tensor, times: Tensor, order: int, gauge: Gauge) -> Iterator[State]:
    process = D.process
    yield State(times[0], z, None)
    known: list[Tensor] = []
    for i, (s, t) in enumerate(pairwise(times)):
        x0 = D(z, s)
        residual = z - apply(process.mean(s)[:, None], x0[:, None])
        known = [apply(torch.linalg.inv(_factor(process, s, gauge)), residual), *known][:order]
        nodes = times[[i - j for j in range(len(known))]]
        # e^{A(ω_t−ω_s)} (m_s x̂_0 + K_s ε̂): its large entries meet those of the first weight in float64, not in z.
        first, *rest = _weights(process, s, t, nodes, gauge)
        first = process.transition(t, s) @ _factor(process, s, gauge) + first
        z = apply(process.mean(t)[:, None], x0[:, None])
        for weight, eps in zip((first, *rest), known, strict=True):
            z = z + apply(weight, eps)
        yield State(t, z, x0)


def _factor(process: CriticallyDamped, t: Tensor, gauge: Gauge) -> Tensor:
    """K with K Kᵀ = Σ; (…, 2, 2)."""
    factor = process.cholesky(t)
    if gauge == "cholesky":
        return factor
    turn = process.angle(t)
    return factor @ _matrix([[turn.cos(), -turn.sin()], [turn.sin(), turn.cos()]])


def _weights(process: CriticallyDamped, s: Tensor, t: Tensor, nodes: Tensor, gauge: Gauge) -> list[Tensor]:
    """∫_s^t e^{A(ω_t−ω)} ½ G Gᵀ K^{−T} ℓ_j dω for the Lagrange polynomials of the nodes, by quadrature in √ω."""
    if gauge == "flow" and len(nodes) == 1:
        return [_factor(process, t, gauge) - process.transition(t, s) @ _factor(process, s, gauge)]
    points, weights = _legendre(64)
    low, high = t.sqrt(), s.sqrt()
    root = (low + high) / 2 + (high - low) / 2 * points
    u = root**2
    jacobian = -process.rate * 2 * root * weights * (high - low) / 2  # from s down to t
    pull = torch.linalg.inv(_factor(process, u, gauge)).mT
    pull = torch.stack([torch.zeros_like(pull[:, 0]), 2 * pull[:, 1]], 1)  # ½ G Gᵀ = diag(0, 2)
    integrand = process.transition(t, u) @ pull
    polynomials = [
        math.prod([(u - other) / (node - other) for k, other in enumerate(nodes) if k != j], start=torch.ones_like(u))
        for j, node in enumerate(nodes)
    ]
    return [(integrand * (jacobian * p)[:, None, None]).sum(0) for p in polynomials]
