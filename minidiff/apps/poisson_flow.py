r"""Poisson flow: data as charges on the floor of a space with one more dimension z (Xu et al. 2022).

In dimension N + 1 a unit charge has the field (x, z)/(S_N |(x, z)|^{N+1}), S_N = 2π^{(N+1)/2}/Γ((N+1)/2) the area of
the unit sphere, so that the flux through any surface around it is 1 (Gauss). Field lines carry flux unchanged: followed
from far away down to z = 0 they end on the data, in proportion to the charge.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from minidiff import arguments
from minidiff.noise import Generators, standard_normal
from minidiff.ode import runge_kutta
from minidiff.samplers.state import State


def sphere_area(dim: int) -> float:
    """2π^{d/2}/Γ(d/2), the area of the unit sphere in R^d: 2, 2π, 4π, 2π², …; d ≥ 1."""
    arguments.positive_integer("dim", dim)
    return 2 * math.exp(dim / 2 * math.log(math.pi) - math.lgamma(dim / 2))


class PoissonField:
    """The field of charges weights (n,), summing to one, at data (n, N) on the floor z = 0.

    weights: positive, normalised here, equal by default. Arithmetic is in float64. Raises ValueError for shapes that do
    not fit, NaN, or weights ≤ 0.
    """

    def __init__(self, data: Tensor, weights: Tensor | None = None) -> None:
        arguments.finite("data", data)
        if data.ndim != 2 or not data.numel():
            raise ValueError(f"data must have shape (n, N), got {tuple(data.shape)}")
        weights = torch.ones(len(data)) if weights is None else weights
        arguments.finite("weights", weights)
        if weights.shape != data.shape[:1] or not bool((weights > 0).all()):
            raise ValueError(f"weights must be positive of shape ({len(data)},), got {weights.tolist()[:8]}")
        self.data, self.dim = data.double(), data.shape[1]
        self.weights = weights.double() / weights.double().sum()

    def __call__(self, x: Tensor, z: Tensor | float) -> tuple[Tensor, Tensor]:
        """E_x (B, N) and E_z (B,) = (1/S_N) Σ_i w_i (x − x_i, z)/(|x − x_i|² + z²)^{(N+1)/2} at x (B, N), z () or (B,).

        The power leaves the range of floats in many dimensions; the ratio of the two is in `slope`. Source: Xu et al.
        2022, section 3. Raises ValueError for other shapes, NaN, a point on a charge, or a field that is out of range.
        """
        apart, squared, height = self._distances(x, z)
        density = self.weights.to(x.device) * squared ** (-(self.dim + 1) / 2) / sphere_area(self.dim + 1)
        if not bool((torch.isfinite(density.sum(1)) & (density.sum(1) > 0)).all()):
            raise ValueError(f"the field in {self.dim} dimensions is out of the range of floats here: take `slope`")
        return (density[..., None] * apart).sum(1), height * density.sum(1)

    def slope(self, x: Tensor, z: Tensor | float) -> Tensor:
        """E_x/E_z = Σ_i ρ_i (x − x_i)/z, ρ_i ∝ w_i (|x − x_i|² + z²)^{−(N+1)/2}, by logarithms; (B, N).

        The direction of the field lines, finite wherever z > 0, in any dimension. Raises as the field does, and for
        z ≤ 0.
        """
        apart, squared, height = self._distances(x, z)
        if not bool((height > 0).all()):
            raise ValueError(f"z must be positive, got {z}")
        shares = (self.weights.to(x.device).log() - (self.dim + 1) / 2 * squared.log()).softmax(1)
        return (shares[..., None] * apart).sum(1) / height.reshape(-1, 1)

    def _distances(self, x: Tensor, z: Tensor | float) -> tuple[Tensor, Tensor, Tensor]:
        """x − x_i (B, n, N), |x − x_i|² + z² (B, n) and z, in float64."""
        arguments.finite("x", x)
        if x.ndim != 2 or x.shape[1] != self.dim:
            raise ValueError(f"x must have shape (B, {self.dim}), got {tuple(x.shape)}")
        height = torch.as_tensor(z, dtype=torch.float64, device=x.device)
        if height.shape not in ((), x.shape[:1]) or not bool(torch.isfinite(height).all()):
            raise ValueError(f"z must be finite of shape () or ({len(x)},), got {z}")
        apart = x.double()[:, None] - self.data.to(x.device)  # (B, n, N)
        squared = apart.square().sum(-1) + height.reshape(-1, 1).square()
        if not bool((squared > 0).all()):
            raise ValueError("the field is infinite at a charge: move off the data or above the floor")
        return apart, squared, height


def prior(n: int, dim: int, z: float, generator: Generators = None, dtype: torch.dtype = torch.float64) -> Tensor:
    """Where the flux of a charge at the origin meets the plane at height z: x = z g/|u|; (n, dim).

    With g ~ N(0, I) and u ~ N(0, 1). A Cauchy law with density 2z/(S_N (|x|² + z²)^{(N+1)/2}). Shifted by the data it
    is the exact law at height z; all at the origin it is the prior for z far above the size of the data. Raises
    ValueError for n, dim < 1 or z ≤ 0. Source: Xu et al. 2022, section 3.
    """
    for name, value in (("n", n), ("dim", dim)):
        arguments.positive_integer(name, value)
    arguments.real("z", z, 1e-12)
    noise = standard_normal((n, dim + 1), generator, dtype)
    return z * noise[:, :dim] / noise[:, dim:].abs()


def flow(field: PoissonField, x: Tensor, z_max: float, z_min: float, steps: int) -> Iterator[State]:
    """Follow the field lines dx/dz = E_x/E_z from x (B, N) at z_max to z_min, by RK4 on `steps` equal steps in log z.

    4 evaluations a step. States carry z as t, falling. The arithmetic is in float64. Raises ValueError for
    0 < z_min < z_max violated, steps < 1, or an x of another shape. Source: Xu et al. 2022, section 3.
    """
    arguments.real("z_max", z_max, 1e-12)
    arguments.real("z_min", z_min, 1e-12)
    if not z_min < z_max:
        raise ValueError(f"z_min must be below z_max, got {z_min} and {z_max}")
    arguments.positive_integer("steps", steps)
    field.slope(x, z_max)  # checks x at the call
    scale = math.log(z_max / z_min)
    times = torch.linspace(1, 0, steps + 1, dtype=torch.float64)

    def height(t: Tensor) -> float:
        return z_min * math.exp(scale * float(t))

    def slope(t: Tensor, y: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (scale * height(t) * field.slope(y[0], height(t)),)

    solution = runge_kutta(slope, (x.double(),), times)
    return (
        State(torch.tensor(height(t), dtype=torch.float64), y, None) for t, (y,) in zip(times, solution, strict=True)
    )
