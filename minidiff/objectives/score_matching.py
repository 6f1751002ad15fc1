"""Score matching: four losses whose common minimiser is the score ∇ log p(x), one value a sample.

A score is any function of a batch x (B, *D) that treats the rows one by one and returns their shape: the gradient of
an energy, a network, or a denoiser at one time, `lambda x: predict(D, x, t, "score")`. Norms and traces are *sums* over
the coordinates of a sample, so that the losses differ by constants and nothing else. All can be differentiated in the
parameters of the score.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from minidiff import arguments

Score = Callable[[Tensor], Tensor]


def esm(score: Score, x: Tensor, target: Tensor) -> Tensor:
    """Explicit score matching: ½ |s(x) − ∇ log p(x)|² (Hyvärinen 2005); (B,).

    x (B, *D) are draws from p and target (B, *D) is ∇ log p there, which is known for toys only. Raises TypeError or
    ValueError unless x and target are finite and of one shape, which s must return.
    """
    arguments.finite("target", target)
    arguments.same_shape("x", x, "target", target)
    return _half_square(_value(score, x) - target)


def ism(score: Score, x: Tensor) -> Tensor:
    """Implicit score matching: tr ∇s(x) + ½ |s(x)|² (Hyvärinen 2005, theorem 1); (B,).

    Its mean is that of `esm` less ½ E|∇ log p|², if p s vanishes at the boundary. The trace is exact: one product with
    the Jacobian for each of the coordinates of x (B, *D), which is what the loss costs. Raises as `esm` does for x.
    """
    value, pull = _differentiable(score, x)
    trace = value.new_zeros(len(x))
    for i in range(x[0].numel()):
        basis = torch.zeros_like(x).flatten(1)
        basis[:, i] = 1
        trace = trace + pull(basis.reshape(x.shape))[0].flatten(1)[:, i]
    return trace + _half_square(value)


def ssm(score: Score, x: Tensor, v: Tensor, *, exact_norm: bool = False) -> Tensor:
    """Sliced score matching: vᵀ ∇s(x) v + ½ (vᵀ s(x))² (Song et al. 2019), or + ½ |s(x)|² instead; (B,).

    v are random directions with E vvᵀ = I, one for each sample (B, *D) or M of them (M, B, *D) over which is averaged:
    see `noise.probes`. With exact_norm=True the norm is not projected, which has less variance (SSM-VR). Each v costs
    one product with the Jacobian, whatever the dimension. Raises as `esm` does for x, and ValueError for another v.
    """
    arguments.finite("v", v)
    if v.shape not in (x.shape, (*v.shape[:1], *x.shape)) or not len(v):
        raise ValueError(f"v must have shape (B, *D) or (M, B, *D) for x {tuple(x.shape)}, got {tuple(v.shape)}")
    value, pull = _differentiable(score, x)
    directions = v[None] if v.ndim == x.ndim else v
    losses = []
    for direction in directions:
        curvature = _dot(pull(direction)[0], direction)
        losses.append(curvature + (0 if exact_norm else _dot(direction, value).square() / 2))
    mean = torch.stack(losses).mean(0)
    return mean + _half_square(value) if exact_norm else mean


def dsm(
    score: Score,
    x0: Tensor,
    eps: Tensor,
    sigma: float | Tensor,
    *,
    alpha: float | Tensor = 1.0,
    control_variate: bool = False,
) -> Tensor:
    """Denoising score matching: ½ |s(x) + ε/σ|² at x = α x_0 + σ ε (Vincent 2011, with α = 1); (B,).

    −ε/σ = ∇ log q(x | x_0), so the minimiser is the score of the *noisy* marginal. Times σ², this is ½ |ε − ε̂|². With
    control_variate=True, ε·s(α x_0)/σ + |ε|²/(2σ²) − d/(2σ²) is subtracted, whose mean is zero: the variance then stays
    finite as σ → 0 (Song & Kingma 2021), at the price of a second call.

    x0, eps (B, *D); sigma > 0 and alpha ≥ 0 are numbers or (B,). Raises TypeError or ValueError for anything else.
    """
    arguments.finite("x0", x0)
    arguments.finite("eps", eps)
    arguments.same_shape("x0", x0, "eps", eps)
    sigma, alpha = _coefficient("sigma", sigma, x0), _coefficient("alpha", alpha, x0)
    if not bool((sigma > 0).all()) or not bool((alpha >= 0).all()):
        raise ValueError(f"sigma must be > 0 and alpha ≥ 0, got at least {float(sigma.min())} and {float(alpha.min())}")
    loss = _half_square(_value(score, alpha * x0 + sigma * eps) + eps / sigma)
    if not control_variate:
        return loss
    scaled = eps / sigma
    mean = x0[0].numel() / (2 * sigma.reshape(-1).square())
    return loss - _dot(scaled, _value(score, alpha * x0)) - _half_square(scaled) + mean


def _value(score: Score, x: Tensor) -> Tensor:
    _check(x)
    value = score(x)
    arguments.same_shape("x", x, "score(x)", value)
    return value


def _differentiable(score: Score, x: Tensor) -> tuple[Tensor, Callable[[Tensor], tuple[Tensor, ...]]]:
    """s(x), and v ↦ vᵀ ∇s(x) row by row."""
    _check(x)
    value, pull = torch.func.vjp(score, x)
    arguments.same_shape("x", x, "score(x)", value)
    return value, pull


def _check(x: Tensor) -> None:
    arguments.finite("x", x)
    if x.ndim < 2:
        raise ValueError(f"x must have a batch axis, (B, *D), got shape {tuple(x.shape)}")


def _coefficient(name: str, value: float | Tensor, x: Tensor) -> Tensor:
    """A number or (B,) as a tensor that multiplies x."""
    value = torch.as_tensor(value, dtype=x.dtype, device=x.device)
    arguments.finite(name, value)
    if value.ndim > 1 or (value.ndim == 1 and len(value) != len(x)):
        raise ValueError(f"{name} must be a number or have shape ({len(x)},), got {tuple(value.shape)}")
    return value.reshape(-1, *[1] * (x.ndim - 1))


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).flatten(1).sum(1)


def _half_square(a: Tensor) -> Tensor:
    return _dot(a, a) / 2
