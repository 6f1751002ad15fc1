"""Sparse signals: the soft threshold, the posterior mean beside it, and descent whose prior is a denoiser."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from minidiff import arguments


def soft_threshold(z: Tensor, threshold: float) -> Tensor:
    """sign(z) max(|z| − threshold, 0), elementwise: the x that minimises (z − x)²/2 + threshold |x|.

    With threshold = r²/scale it is the most probable x given z = x + r ε under the Laplace prior e^{−|x|/scale}.
    Raises ValueError for a negative threshold.
    """
    arguments.floating("z", z)
    arguments.real("threshold", threshold, 0)
    return z.sign() * (z.abs() - threshold).clamp(min=0)


def laplace_mean(z: Tensor, scale: float, r: float) -> Tensor:
    """E[x | z = x + r ε] under the Laplace prior e^{−|x|/scale}, elementwise, computed in float64.

    With θ = r²/scale the posterior is a mixture of N(z − θ, r²) cut to x > 0 and N(z + θ, r²) cut to x < 0, and
    E[x | z] = p (z − θ) + (1 − p)(z + θ), p/(1 − p) = e^{−2z/scale} Φ((z − θ)/r) / Φ(−(z + θ)/r).
    Raises ValueError unless scale and r are positive.
    """
    arguments.floating("z", z)
    arguments.real("scale", scale, 1e-300)
    arguments.real("r", r, 1e-300)
    u, theta = z.double(), r**2 / scale
    right = torch.special.log_ndtr((u - theta) / r) - u / scale
    left = torch.special.log_ndtr(-(u + theta) / r) + u / scale
    log_odds = right - left
    return (u - theta * torch.tanh(log_odds / 2)).to(z.dtype)


def proximal_gradient(
    gradient: Callable[[Tensor], Tensor],
    denoise: Callable[[Tensor], Tensor],
    x: Tensor,
    *,
    step: float,
    steps: int,
) -> Iterator[Tensor]:
    """x ← denoise(x − step · gradient(x)), yielded `steps` times: proximal gradient descent, or plug and play.

    With the gradient of ½|Ax − b|² and denoise = soft_threshold(·, step · penalty) it is ISTA (Daubechies et al.
    2004), which converges for step ≤ 1/‖AᵀA‖; with a learned denoiser it is plug and play (Venkatakrishnan et al.
    2013). Raises ValueError for a step ≤ 0 or steps < 1, at the call.
    """
    arguments.floating("x", x)
    arguments.real("step", step, 1e-300)
    arguments.positive_integer("steps", steps)

    def walk(x: Tensor) -> Iterator[Tensor]:
        for _ in range(steps):
            x = denoise(x - step * gradient(x))
            yield x

    return walk(x)


def lasso_residual(A: Tensor, b: Tensor, penalty: float, x: Tensor) -> float:
    """How far x is from solving min ½|Ax − b|² + penalty |x|₁: 0 exactly at the solutions.

    The greatest |x − soft_threshold(x + Aᵀ(b − Ax), penalty)|, which vanishes where Aᵀ(b − Ax) is penalty · sign(x)
    on the support of x and at most penalty in size off it, the Karush–Kuhn–Tucker conditions. A (M, D), b (M,), x (D,).
    """
    if A.ndim != 2 or b.shape != A.shape[:1] or x.shape != A.shape[1:]:
        raise ValueError(
            f"A (M, D), b (M,) and x (D,) must fit, got {tuple(A.shape)}, {tuple(b.shape)}, {tuple(x.shape)}"
        )
    return float((x - soft_threshold(x + A.mT @ (b - A @ x), penalty)).abs().max())
