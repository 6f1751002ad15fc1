"""The angle θ = arctan(r/s) of a process at noise-to-signal ratio r, and its inverse."""

from __future__ import annotations

import torch
from torch import Tensor

from minidiff import arguments
from minidiff.process import Process


def angle(process: Process, t: Tensor, scale: float) -> Tensor:
    """θ_t = arctan(r_t/s) = arctan(e^{−λ_t}/s) in [0, π/2], of the shape of t; s = scale > 0, often σ_data.

    Raises ValueError for t outside [0, 1] and s ≤ 0.
    """
    arguments.unit_interval("t", t)
    arguments.real("scale", scale, 1e-300)
    return torch.atan((-process.lam(t)).exp() / scale)


def time_of_angle(process: Process, theta: Tensor, scale: float) -> Tensor:
    """The t with angle(process, t, scale) = θ: λ = −log(s tan θ).

    Raises ValueError for θ outside the range of the process, and s ≤ 0.
    """
    arguments.real("scale", scale, 1e-300)
    return process.time(-(scale * torch.tan(theta)).log())
