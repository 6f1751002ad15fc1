r"""Brownian motion on the circle and its reverse (De Bortoli et al. 2022, for the simplest manifold).

θ_v = θ_0 + √v ε modulo 2π: an angle after Brownian motion of variance v. The heat kernel is the wrapped normal density,
a theta function, and Poisson summation writes it in two ways: a sum over the images θ + 2πk, quick for small v, and a
Fourier series, quick for large v. It solves ∂p/∂v = ½ ∂²p/∂θ² and tends to 1/(2π).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import pairwise

import torch
from torch import Tensor

from minidiff import arguments
from minidiff.noise import Generators, standard_normal
from minidiff.samplers.state import State

# Where the two series take the same number of terms: exp(−(2πk)²/2v) and exp(−k²v/2) are equal at v = 2π.
_SWITCH = 2 * math.pi
_TERMS = 8  # the next one is below exp(−½ · 2π · 7²) ≈ 1e-67 in either series on its side, for |θ| ≤ π


def wrap(theta: Tensor) -> Tensor:
    """The angle in [−π, π) that differs from θ by whole turns."""
    return torch.remainder(theta + math.pi, 2 * math.pi) - math.pi


def _checked(theta: Tensor, variance: Tensor | float) -> tuple[Tensor, Tensor]:
    arguments.finite("theta", theta)
    v = torch.as_tensor(variance, dtype=torch.float64, device=theta.device)
    if not bool((torch.isfinite(v) & (v > 0)).all()):
        raise ValueError(f"variance must be positive and finite, got {variance}")
    return theta.double(), v


def density_by_images(theta: Tensor, variance: Tensor | float, terms: int = 64) -> Tensor:
    """Σ_{|k| ≤ terms} N(θ + 2πk; 0, v), the wrapped normal density as a sum over images; the shape of θ, float64.

    variance is a positive number or broadcasts against θ. Raises ValueError for v ≤ 0, NaN or terms < 1.
    """
    theta, v = _checked(theta, variance)
    arguments.positive_integer("terms", terms)
    k = torch.arange(-terms, terms + 1, dtype=torch.float64, device=theta.device)
    image = wrap(theta)[..., None] + 2 * math.pi * k
    return (-image.square() / (2 * v[..., None])).exp().sum(-1) / (2 * math.pi * v).sqrt()


def density_by_series(theta: Tensor, variance: Tensor | float, terms: int = 64) -> Tensor:
    """(1 + 2 Σ_{n ≤ terms} e^{−n²v/2} cos nθ)/(2π), the same density as a Fourier series; as `density_by_images`."""
    theta, v = _checked(theta, variance)
    arguments.positive_integer("terms", terms)
    n = torch.arange(1, terms + 1, dtype=torch.float64, device=theta.device)
    waves = (-n.square() * v[..., None] / 2).exp() * (n * theta[..., None]).cos()
    return (1 + 2 * waves.sum(-1)) / (2 * math.pi)


def log_density(theta: Tensor, variance: Tensor | float) -> Tensor:
    """log of the wrapped normal density, accurate in its tails, by whichever series is short; float64."""
    theta, v = _checked(theta, variance)
    k = torch.arange(-_TERMS, _TERMS + 1, dtype=torch.float64, device=theta.device)
    image = wrap(theta)[..., None] + 2 * math.pi * k
    by_images = (-image.square() / (2 * v[..., None])).logsumexp(-1) - (2 * math.pi * v).log() / 2
    by_series = density_by_series(theta, v.clamp_min(_SWITCH), _TERMS).log()
    return torch.where(v < _SWITCH, by_images, by_series)


def score(theta: Tensor, variance: Tensor | float) -> Tensor:
    """∂ log p/∂θ of the wrapped normal: periodic, odd, −wrap(θ)/v near 0 and zero at the antipode; float64."""
    theta, v = _checked(theta, variance)
    k = torch.arange(-_TERMS, _TERMS + 1, dtype=torch.float64, device=theta.device)
    image = wrap(theta)[..., None] + 2 * math.pi * k
    weight = (-image.square() / (2 * v[..., None])).softmax(-1)
    by_images = -(weight * image).sum(-1) / v
    wide = v.clamp_min(_SWITCH)
    n = torch.arange(1, _TERMS + 1, dtype=torch.float64, device=theta.device)
    slope = -((-n.square() * wide[..., None] / 2).exp() * n * (n * theta[..., None]).sin()).sum(-1) / math.pi
    return torch.where(v < _SWITCH, by_images, slope / density_by_series(theta, wide, _TERMS))


def score_of_data(data: Tensor, theta: Tensor, variance: float) -> Tensor:
    """Score of the data angles (n,) after Brownian motion of variance v, each equally likely; θ (B,) → (B,).

    Σ_i ρ_i score(θ − θ_i), ρ_i ∝ p(θ − θ_i): the conditional scores averaged over where θ may have come from.
    """
    arguments.finite("data", data)
    arguments.finite("theta", theta)
    if data.ndim != 1 or theta.ndim != 1 or not len(data):
        raise ValueError(f"data and theta must be (n,) and (B,), got {tuple(data.shape)} and {tuple(theta.shape)}")
    apart = theta.double()[:, None] - data.double()
    return (log_density(apart, variance).softmax(1) * score(apart, variance)).sum(1)


def walk(theta: Tensor, variance: float, generator: Generators = None) -> Tensor:
    """θ + √v ε wrapped: Brownian motion of variance v from the angles (B,), exact for any v ≥ 0."""
    arguments.finite("theta", theta)
    arguments.real("variance", variance, 0.0)
    noise = standard_normal(theta.shape, generator, theta.dtype, theta.device)
    return wrap(theta + math.sqrt(variance) * noise)


def reverse_walk(
    score: Callable[[Tensor, float], Tensor], theta: Tensor, variances: Tensor, *, generator: Generators = None
) -> Iterator[State]:
    """Time reversal by steps θ ← wrap(θ + (v − u) score(θ, v) + √(v − u) ε) from each variance v to the next, u < v.

    theta (B,) follows the law at variances[0], uniform for a large one; variances (n + 1,) positive, strictly falling.
    States carry the variance as t. The law at the end is right to first order in the steps. Raises ValueError for other
    variances. Source: De Bortoli et al. 2022, algorithm 2.
    """
    arguments.finite("theta", theta)
    check_variances(variances)
    return _reverse_walk(score, theta, variances, generator)


def _reverse_walk(
    score: Callable[[Tensor, float], Tensor], theta: Tensor, variances: Tensor, generator: Generators
) -> Iterator[State]:
    yield State(variances[0], theta, None)
    for v, u in pairwise(variances):
        slope = score(theta, float(v)).to(theta.dtype)
        arguments.same_shape("the answer of score", slope, "theta", theta)
        theta = walk(theta + float(v - u) * slope, float(v - u), generator)
        yield State(u, theta, None)


def check_variances(variances: Tensor) -> None:
    """Raise ValueError unless variances (n + 1,) are finite, positive and strictly falling, n ≥ 1."""
    arguments.finite("variances", variances)
    if variances.ndim != 1 or len(variances) < 2 or not bool((variances > 0).all() & (variances.diff() < 0).all()):
        raise ValueError(f"variances must be (n + 1,), positive and strictly falling, got {variances.tolist()}")
