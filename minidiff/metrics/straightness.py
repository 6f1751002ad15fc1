"""How straight a path of states is."""

from __future__ import annotations

import torch
from torch import Tensor

from minidiff.arguments import finite


def straightness(path: Tensor, times: Tensor) -> Tensor:
    """∫ |dx/dt − (x_end − x_start)/T|² dt of each path, the mean over coordinates; 0 iff straight at constant speed.

    path: (n + 1, B, *D), the states of a sampler at `times` (n + 1,), strictly monotone, over a span T; the path is
    taken as linear between its states, which a fine grid makes true. The value is Σ |Δx|²/Δt − |x_end − x_start|²/T,
    written as a sum of squares; (B,) in float64. Divide by `transport_cost` for a number without units.
    Raises ValueError for shapes that do not fit and for times that are not strictly monotone.
    Source: Liu et al. 2023, section 2.2, S(Z).
    """
    finite("path", path)
    finite("times", times)
    if path.ndim < 3 or times.ndim != 1 or len(times) != len(path) or len(times) < 2:
        raise ValueError(
            f"path must be (n + 1, B, *D) with times (n + 1,), n ≥ 1, got {tuple(path.shape)} and {tuple(times.shape)}"
        )
    steps = times.double().diff()
    if not (bool((steps > 0).all()) or bool((steps < 0).all())):
        raise ValueError("times must be strictly increasing or strictly decreasing")
    x = path.double().flatten(2)
    width = steps.to(x.device)[:, None, None]
    mean_velocity = (x[-1] - x[0]) / float(steps.sum())
    return (width.abs() * (torch.diff(x, dim=0) / width - mean_velocity).square()).sum(0).mean(1)
