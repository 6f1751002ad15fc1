"""What a grid costs DDIM on Gaussian data, exactly, and the grids that cost least.

With data N(0, s_k²) along direction k and θ_k = arctan(r/s_k), a step of DDIM multiplies the normalised component by
cos Δθ_k, where the exact solution multiplies it by 1.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from minidiff import arguments
from minidiff.grids.equidistribute import equidistribute

NEWTON_STEPS = 50


def contraction(radii: Tensor, scale: float) -> Tensor:
    """Π_i cos(θ_{i−1} − θ_i), θ = arctan(r/s): DDIM's standard deviation over the exact one on N(0, s²); a 0-d tensor.

    radii: (n + 1,), strictly decreasing values of r = σ/α, infinity and zero included. Raises ValueError otherwise.
    """
    _check_radii(radii)
    arguments.real("scale", scale, 1e-300)
    return torch.atan(radii / scale).diff().cos().prod()


def contraction_loss(radii: Tensor, scales: Tensor) -> Tensor:
    """−Σ_k Σ_i log cos Δθ_{k,i}: minus the logarithm of the product of the contractions of all scales s_k (K,)."""
    return -torch.atan(radii / scales[:, None]).diff(dim=1).cos().log().sum()


def arc_length_radii(scales: Tensor, n: int, r_max: float, r_min: float, fine: int = 4096) -> Tensor:
    """n steps equal in the length of the curve r ↦ (θ_1, …, θ_K): the optimum of `contraction_loss` as n → ∞; (n + 1,).

    For one scale these are equal steps in θ. Raises ValueError unless 0 < r_min < r_max < ∞ and the scales are > 0.
    """
    _check_problem(scales, n, r_max, r_min)
    log_r = torch.linspace(math.log(r_max), math.log(r_min), fine + 1, dtype=torch.float64)
    theta = torch.atan(log_r.exp() / scales[:, None].double())
    inner = equidistribute(log_r, theta.diff(dim=1).square().sum(0).sqrt(), n).exp()[1:-1]
    return torch.cat([inner.new_tensor([r_max]), inner, inner.new_tensor([r_min])])


def optimal_radii(scales: Tensor, n: int, r_max: float, r_min: float) -> Tensor:
    """The n-step grid that minimises `contraction_loss`, by Newton's method in the inner log r; (n + 1,).

    Starts from `arc_length_radii` and halves a step that would leave the order or raise the loss. Raises ValueError as
    `arc_length_radii` does.
    """
    start = arc_length_radii(scales, n, r_max, r_min)
    ends = start[[0, -1]].log()
    scales = scales.double()

    def loss(inner: Tensor) -> Tensor:
        return contraction_loss(torch.cat([ends[:1], inner, ends[1:]]).exp(), scales)

    inner = start[1:-1].log()
    for _ in range(NEWTON_STEPS if n > 1 else 0):
        slope, curvature = torch.func.grad(loss)(inner), torch.func.hessian(loss)(inner)
        step = -torch.linalg.solve(curvature, slope)
        if float(step @ slope) > 0:  # the Hessian is not positive here: go downhill instead
            step = -slope
        before = float(loss(inner))
        while float(step.abs().max()) > 1e-13:
            after = inner + step
            in_order = bool((torch.cat([ends[:1], after, ends[1:]]).diff() < 0).all())
            if in_order and float(loss(after)) <= before:
                break
            step = step / 2
        inner = inner + step
        if float(step.abs().max()) <= 1e-13:
            break
    return torch.cat([start[:1], inner.exp(), start[-1:]])


def _check_radii(radii: Tensor) -> None:
    arguments.floating("radii", radii)
    if radii.ndim != 1 or len(radii) < 2 or not bool((radii[1:] < radii[:-1]).all()) or float(radii[-1]) < 0:
        raise ValueError(f"radii must be (n + 1,), strictly decreasing and ≥ 0, got {radii.tolist()}")


def _check_problem(scales: Tensor, n: int, r_max: float, r_min: float) -> None:
    arguments.finite("scales", scales)
    arguments.positive_integer("n", n)
    if scales.ndim != 1 or not len(scales) or not bool((scales > 0).all()):
        raise ValueError(f"scales must be (K,) and positive, got {scales.tolist()}")
    arguments.real("r_min", r_min, 1e-300)
    arguments.real("r_max", r_max, 1e-300)
    if not r_min < r_max:
        raise ValueError(f"r_min must be below r_max, got {r_min} and {r_max}")
