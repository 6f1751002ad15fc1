"""The exponential moving average of a network's weights: what is sampled from after training."""

from __future__ import annotations

import copy

import torch
from torch import nn

from minidiff.arguments import real


class EMA:
    """Bias-corrected exponential moving average θ̄ of the parameters of `module`.

    After n updates, at parameters θ_1 … θ_n, θ̄_n = (1 − d)/(1 − d^n) · Σ_k d^{n−k} θ_k, which is the recursion
    θ̄_n = θ̄_{n−1} + (1 − d)/(1 − d^n) · (θ_n − θ̄_{n−1}).
    The weights sum to 1 at every n: the starting point θ_0 has none, and a short run is averaged over itself. Buffers
    are copied, not averaged.

    `module` (of the average; the argument is `source`) is a copy in evaluation mode whose parameters need no gradient.
    decay: d ∈ [0, 1). Raises ValueError outside.
    Source: Kingma & Ba 2015, section 3 (the correction); Ho et al. 2020, appendix B (the use, with d = 0.9999).
    """

    def __init__(self, module: nn.Module, decay: float = 0.999) -> None:
        real("decay", decay, 0)
        if decay >= 1:
            raise ValueError(f"decay must be in [0, 1), got {decay}")
        self.source, self.decay, self.updates = module, decay, 0
        self.module = copy.deepcopy(module).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self) -> None:
        """Take the parameters of the source into the average, and copy its buffers."""
        self.updates += 1
        weight = (1 - self.decay) / (1 - self.decay**self.updates)
        for mean, parameter in zip(self.module.parameters(), self.source.parameters(), strict=True):
            mean.lerp_(parameter, weight)
        for mean, buffer in zip(self.module.buffers(), self.source.buffers(), strict=True):
            mean.copy_(buffer)
