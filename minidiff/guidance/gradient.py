"""Guidance by the gradient of a classifier of noisy data."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from minidiff import arguments
from minidiff.denoiser import Combined, DenoiserLike, marginal

LogProb = Callable[[Tensor, Tensor], Tensor]


class ClassifierGuided(Combined):
    """D(x, t) + w (σ²/α) ∇_x log p(y | x_t = x): see `classifier`."""

    def __init__(self, D: DenoiserLike, log_prob: LogProb, w: float) -> None:
        super().__init__(D)
        if D.coupled:
            raise ValueError("classifier guidance adds to a score, but D was trained under a coupling of x0 and eps")
        arguments.real("w", w)
        if not callable(log_prob):
            raise TypeError(f"log_prob must be a function of (x, t), got {type(log_prob).__name__}")
        self.D, self.log_prob, self.w = D, log_prob, w

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """x̂_0 of the shape of x (B, *D); t () or (B,)."""
        if self.w == 0:
            return self.D(x, t)
        alpha, sigma = marginal(self.process, x, t)
        if alpha == 0 if isinstance(alpha, float) else bool((alpha == 0).any()):
            raise ValueError("at α = 0 the step σ²/α times the gradient is ∞ · 0: start where α > 0")
        with torch.enable_grad():
            point = x.detach().requires_grad_()
            value = self.log_prob(point, t)
            if value.shape != x.shape[:1]:
                raise ValueError(f"log_prob must return one value a row, got {tuple(value.shape)} for {tuple(x.shape)}")
            arguments.finite("log_prob(x, t)", value)
            if not value.requires_grad:
                raise ValueError("log_prob must be differentiable in x: what it returned carries no gradient")
            (gradient,) = torch.autograd.grad(value.sum(), point)
        return self.D(x, t) + self.w * sigma**2 / alpha * gradient


def classifier(D: DenoiserLike, log_prob: LogProb, w: float) -> ClassifierGuided:
    """D(x, t) + w (σ²/α) ∇_x log p(y | x_t): the score plus w times the classifier's (Dhariwal & Nichol 2021, eq. 10).

    D is unconditional, log_prob(x, t) → (B,) the log probability of the wanted classes given noisy x, differentiable in
    x; of an exact D and an exact classifier, w = 1 is exactly the conditional denoiser, by Bayes's rule. One call of D
    and one forward and backward pass of the classifier, none at w = 0. No gradient is carried through the latter.

    Raises ValueError for a coupled D, whose x̂_0 gives no score, a w that is not finite, and at the call for α = 0,
    where the correction is ∞ · 0, and log probabilities that are not finite, of another shape than (B,) or without a
    gradient; TypeError for a log_prob that is no function.
    """
    return ClassifierGuided(D, log_prob, w)
