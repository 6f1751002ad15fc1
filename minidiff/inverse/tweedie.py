"""What the guided denoisers share: x̂_0 with products of Cov[x_0 | x_t] and vectors, from one call of D.

Conditioning on y moves Tweedie's formula by a gradient, E[x_0 | x_t, y] = x̂_0 + (σ²/α) ∇ log p(y | x_t). Every method
here guesses p(y | x_t) from x̂_0, so that the gradient passes through D once more: ∇_x = (∂x̂_0/∂x)ᵀ ∇_x̂. And since
(σ²/α) ∂x̂_0/∂x is Cov[x_0 | x_t], the answer is x̂_0 + Cov · g, and the methods differ in g alone.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from minidiff import arguments
from minidiff.denoiser import DenoiserLike, check_denoiser, marginal


def check_prior(D: DenoiserLike, method: str) -> None:
    """Raise TypeError for what is no denoiser, ValueError for a coupled one: Tweedie's formula would not hold."""
    check_denoiser(D)
    if D.coupled:
        raise ValueError(f"{method} needs Tweedie's formula, but D was trained under a coupling of x0 and eps")


def tweedie(D: DenoiserLike, x: Tensor, t: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """x̂_0 = D(x, t) and the function v ↦ (σ²/α) (∂x̂_0/∂x)ᵀ v, which is Cov[x_0 | x_t = x] v for an exact D.

    x, v: (B, *D); t: () or (B,). One call of D, and one backward pass through it for each v (Efron 2011; Robbins 1956).
    Neither result carries gradients. Raises ValueError where α = 0 or σ = 0: at the one end the product is 0/0, at the
    other nothing is left to infer.
    """
    arguments.finite("x", x)
    arguments.time_of_batch(t, x)
    alpha, sigma = marginal(D.process, x, t)
    for name, value in (("α", alpha), ("σ", sigma)):
        if bool((torch.as_tensor(value) == 0).any()):
            raise ValueError(
                f"guidance by Tweedie's formula needs α > 0 and σ > 0, got {name} = 0 at t = {t.flatten().tolist()}: "
                "start a little below it"
            )
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        x0 = D(x, t)
    if x0.shape != x.shape:
        raise ValueError(f"D must return x̂_0 of the shape of x, {tuple(x.shape)}, got {tuple(x0.shape)}")

    def product(v: Tensor) -> Tensor:
        (pulled,) = torch.autograd.grad(x0, x, v.to(x0), retain_graph=True)
        return (sigma * sigma / alpha) * pulled

    return x0.detach(), product
