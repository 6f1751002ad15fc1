"""Projected guidance: only what guidance changes across the conditional prediction, not what stretches it."""

from __future__ import annotations

import torch
from torch import Tensor

from minidiff import arguments
from minidiff.guidance.scale import Guided, Scale, require_guided


def projected(guided: Guided, eta: float = 0.0, radius: float | None = None) -> Guided:
    """x̂_1 + (w − 1)(Δ_⊥ + η Δ_∥), Δ = x̂_1 − x̂_0 split along and across x̂_1 (APG, Sadat et al. 2025).

    The part along x̂_1, Δ_∥ = (⟨Δ, x̂_1⟩/‖x̂_1‖²) x̂_1, raises contrast and saturates colours. Before, Δ is shortened to
    ‖Δ‖ ≤ radius, if one is given. η = 1 without a radius changes nothing. The paper's third part, a momentum along the
    path, is left out: a denoiser that remembers its last call would not be a function of (x, t).

    `guided`: of `cfg` or `autoguidance`. Two calls, or one where w = 1. Raises TypeError for what is not `Guided`,
    ValueError for an η that is not finite and a radius ≤ 0.
    """
    require_guided(guided, "projected")
    arguments.real("eta", eta)
    if radius is not None:
        arguments.real("radius", radius, 1e-12)

    def rule(x1: Tensor, x0: Tensor, w: Scale) -> Tensor:
        delta = x1 - x0
        if radius is not None:
            delta = delta * arguments.along((radius / _norm(delta)).clamp(max=1), x1)
        share = (delta * x1).flatten(1).sum(1) / _norm(x1).square()
        return guided.rule(x1, x1 - (delta - (1 - eta) * arguments.along(share, x1) * x1), w)

    return guided.with_rule(rule)


def _norm(x: Tensor) -> Tensor:
    """‖x‖ of each row, not 0, so that nothing divided by it is NaN."""
    return x.flatten(1).norm(dim=1).clamp(min=torch.finfo(x.dtype).tiny ** 0.5)
