"""Rescaled guidance: the contrast of the guided picture brought back to that of the conditional one."""

from __future__ import annotations

import torch
from torch import Tensor

from minidiff import arguments
from minidiff.guidance.scale import Guided, Scale, require_guided


def rescaled(guided: Guided, phi: float = 0.7) -> Guided:
    """(1 − φ) x̂ + φ x̂ · std(x̂_1)/std(x̂) for the guided x̂ and the positive x̂_1 (Lin et al. 2024, eq. 14–16).

    std is over all values of a sample. φ = 0 changes nothing, φ = 1 makes the two stds equal. The paper applies it to
    the output of the network, v; here it acts on x̂_0, whose contrast is what w inflates. A sample of one value alone
    has no std; a constant x̂ stays as it is. `guided`: of `cfg`, `autoguidance` or `projected`. Two calls, or one where
    w = 1. Raises TypeError for what is not `Guided`, ValueError for φ outside [0, 1], and at the call for samples of
    one value.
    """
    require_guided(guided, "rescaled")
    arguments.real("phi", phi, 0.0, 1.0)

    def rule(x1: Tensor, x0: Tensor, w: Scale) -> Tensor:
        x = guided.rule(x1, x0, w)
        if x[0].numel() < 2:
            raise ValueError(f"a std over the values of a sample needs at least two, got x̂_0 {tuple(x.shape)}")
        wanted, got = x1.flatten(1).std(1), x.flatten(1).std(1)
        ratio = torch.where(got > 0, wanted / got, 1.0)
        return torch.lerp(x, x * arguments.along(ratio, x), phi)

    return guided.with_rule(rule) if phi else guided
