r"""Brownian motion on the sphere S² and its reverse, a geodesic random walk (De Bortoli et al. 2022).

Points are unit vectors in space. The heat kernel of variance v per tangent direction depends on the cosine c of the
angle alone, p_v(c) = Σ_l (2l + 1)/(4π) e^{−l(l+1)v/2} P_l(c): −½Δ has the eigenvalues l(l + 1)/2, so the mean vector
decays as e^{−v}, and the law tends to the uniform one, 1/(4π).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import pairwise

import torch
from torch import Tensor

from minidiff import arguments
from minidiff.apps.circle import check_variances
from minidiff.noise import Generators, standard_normal
from minidiff.samplers.state import State

SMALLEST_VARIANCE = 0.02  # below it cancellation in the series reaches the density in float64


def _check_points(name: str, x: Tensor) -> None:
    arguments.finite(name, x)
    if x.ndim != 2 or x.shape[1] != 3:
        raise ValueError(f"{name} must have shape (B, 3), got {tuple(x.shape)}")
    if not len(x):
        raise ValueError(f"{name} must hold at least one point, got shape {tuple(x.shape)}")
    off = float((x.double().norm(dim=1) - 1).abs().max())
    if off > (1e-9 if x.dtype == torch.float64 else 1e-4):
        raise ValueError(f"{name} must be unit vectors, got a length that is off by {off:.3g}")


def tangent(x: Tensor, v: Tensor) -> Tensor:
    """v − ⟨v, x⟩ x: the part of v (B, 3) along the sphere at x (B, 3)."""
    return v - (v * x).sum(-1, keepdim=True) * x


def exponential_map(x: Tensor, v: Tensor) -> Tensor:
    """cos|v| x + (sin|v|/|v|) v: from x (B, 3) along the great circle of the tangent vector v (B, 3), by its length.

    The answer is put back to length one, against rounding. Raises ValueError for points off the sphere, shapes that
    differ, and vectors that are not tangent.
    """
    _check_points("x", x)
    arguments.finite("v", v)
    arguments.same_shape("v", v, "x", x)
    length = v.norm(dim=-1, keepdim=True)
    if bool(((v * x).sum(-1, keepdim=True).abs() > 1e-4 * length + 1e-6).any()):
        raise ValueError("v must be tangent to the sphere at x: take `tangent(x, v)`")
    end = length.cos() * x + torch.sinc(length / math.pi) * v
    return end / end.norm(dim=-1, keepdim=True)


def walk(x: Tensor, variance: float, steps: int = 1, generator: Generators = None) -> Tensor:
    """Brownian motion by `steps` geodesic steps with tangent noise of variance v/steps; (B, 3) → (B, 3).

    Each step multiplies the mean by E cos(√h r), r Rayleigh, where the true motion has e^{−h}. Raises ValueError for
    points off the sphere, v < 0, steps < 1. Source: De Bortoli et al. 2022, algorithm 1.
    """
    _check_points("x", x)
    arguments.real("variance", variance, 0.0)
    arguments.positive_integer("steps", steps)
    for _ in range(steps):
        noise = standard_normal(x.shape, generator, x.dtype, x.device)
        x = exponential_map(x, math.sqrt(variance / steps) * tangent(x, noise))
    return x


def uniform(n: int, generator: Generators = None, dtype: torch.dtype = torch.float32) -> Tensor:
    """n points of the uniform law, (n, 3): normal vectors put to length one. Raises ValueError for n < 1."""
    arguments.positive_integer("n", n)
    x = standard_normal((n, 3), generator, dtype)
    return x / x.norm(dim=1, keepdim=True)


def heat_kernel(cosine: Tensor, variance: float) -> tuple[Tensor, Tensor]:
    """p_v(c) and its derivative in c, each of the shape of the cosines, float64.

    By the recurrences (l + 1) P_{l+1} = (2l + 1) c P_l − l P_{l−1} and P′_{l+1} = P′_{l−1} + (2l + 1) P_l, up to the l
    whose term is below 1e-17. Raises ValueError for cosines outside [−1, 1] and for v < 0.02, where the tail of the
    kernel is lost to cancellation and the flat kernel of the plane is as good.
    """
    arguments.finite("cosine", cosine)
    arguments.real("variance", variance, SMALLEST_VARIANCE)
    c = cosine.double()
    if not bool((c.abs() <= 1 + 1e-9).all()):
        raise ValueError(f"cosine must lie in [-1, 1], got {float(c.min())} … {float(c.max())}")
    c = c.clamp(-1, 1)
    before, now = torch.ones_like(c), c
    slope_before, slope_now = torch.zeros_like(c), torch.ones_like(c)
    density, derivative = torch.ones_like(c), torch.zeros_like(c)
    last = math.ceil(math.sqrt(2 * 50 / variance)) + 1  # e^{−l²v/2} l³ < 1e-17 there
    for degree in range(1, last + 1):
        weight = (2 * degree + 1) * math.exp(-degree * (degree + 1) * variance / 2)
        density, derivative = density + weight * now, derivative + weight * slope_now
        after = ((2 * degree + 1) * c * now - degree * before) / (degree + 1)
        slope_after = slope_before + (2 * degree + 1) * now
        before, now, slope_before, slope_now = now, after, slope_now, slope_after
    return density / (4 * math.pi), derivative / (4 * math.pi)


def score_of_data(data: Tensor, x: Tensor, variance: float) -> Tensor:
    """∇ log Σ_i p_v(⟨x, y_i⟩) on the sphere, for data points y (n, 3), at x (B, 3): tangent vectors (B, 3).

    Where the density is below 1e-9 of its peak, Varadhan's −θ/v towards the nearest point stands for the lost digits.
    Raises ValueError for points off the sphere and for v < 0.02 as `heat_kernel` does.
    """
    _check_points("data", data)
    _check_points("x", x)
    cosine = (x.double() @ data.double().T).clamp(-1, 1)
    density, derivative = heat_kernel(cosine, variance)
    total = density.sum(1, keepdim=True)
    near = total > 1e-9 / (2 * math.pi * variance)  # of the peak; further out the series has lost its digits
    by_series = tangent(x.double(), derivative @ data.double() / torch.where(near, total, 1.0))
    cosine, nearest = cosine.max(1, keepdim=True)
    towards = tangent(x.double(), data.double()[nearest[:, 0]])
    far = cosine.acos() / variance * torch.nn.functional.normalize(towards, dim=1)
    return torch.where(near, by_series, far).to(x.dtype)


def reverse_walk(
    score: Callable[[Tensor, float], Tensor], x: Tensor, variances: Tensor, *, generator: Generators = None
) -> Iterator[State]:
    """Time reversal by geodesic steps along (v − u) score(x, v) + √(v − u) ε, from each variance v to the next, u < v.

    x (B, 3) follows the law at variances[0], uniform for a large one; variances (n + 1,) positive, strictly falling.
    States carry the variance as t. Raises ValueError for other variances or points off the sphere.
    Source: De Bortoli et al. 2022, algorithm 2.
    """
    _check_points("x", x)
    check_variances(variances)
    return _reverse_walk(score, x, variances, generator)


def _reverse_walk(
    score: Callable[[Tensor, float], Tensor], x: Tensor, variances: Tensor, generator: Generators
) -> Iterator[State]:
    yield State(variances[0], x, None)
    for v, u in pairwise(variances):
        h = float(v - u)
        noise = standard_normal(x.shape, generator, x.dtype, x.device)
        slope = score(x, float(v)).to(x.dtype)
        arguments.same_shape("the answer of score", slope, "x", x)
        x = exponential_map(x, tangent(x, h * slope + math.sqrt(h) * noise))
        yield State(u, x, None)
