"""When a model copies: own weights, information and collapse, kernels, and the time scales of training.

Noise is measured by r = σ/α, and noisy data are y = x_0 + r ε: those of every process, divided by α.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from minidiff import arguments


def gaussian_information(variances: Tensor, r: float) -> float:
    """½ Σ_j log(1 + λ_j/r²): what y = x_0 + r ε tells of Gaussian x_0 with the principal variances λ_j, in nats.

    For data of another law with these variances it is an upper bound. variances (d,), none negative; r > 0.
    Raises ValueError for others.
    """
    _variances(variances)
    arguments.real("r", r, 1e-300)
    return float(torch.log1p(variances.double() / r**2).sum() / 2)


def collapse_ratio(variances: Tensor, n: int) -> float:
    """The noise-to-signal ratio r at which `gaussian_information` equals log n, by bisection in log r.

    The exact denoiser of n draws from a Gaussian with principal variances λ_j (d,) begins to know, below this r, which
    of the draws it sees; equal variances s² give r² = s²/(n^{2/d} − 1). Raises ValueError unless n ≥ 2 and some
    variance is positive.
    Source: Biroli et al. 2024 (collapse), in the form that I(x_0; y) = log n.
    """
    _variances(variances)
    arguments.positive_integer("n", n, at_least=2)
    largest = float(variances.max())
    if largest == 0:
        raise ValueError("some variance must be positive, got zeros alone")
    low, high = -350.0, math.log(largest * len(variances)) / 2 + 1  # of log r: all is known; less than log 2 is known
    for _ in range(100):
        middle = (low + high) / 2
        known = gaussian_information(variances, math.exp(middle)) > math.log(n)
        low, high = (middle, high) if known else (low, middle)
    return math.exp((low + high) / 2)


def own_log_weights(points: Tensor, r: float, noise: Tensor) -> Tensor:
    """log p_i(x_i + r ε_i), p_i(y) = exp(−|y − x_i|²/2r²) / Σ_j exp(−|y − x_j|²/2r²); (n,) float64.

    points and noise (n, *D). It is near 0 where the exact denoiser of the points knows which of them it sees. Raises
    ValueError for different shapes, values that are not finite or r ≤ 0.
    """
    arguments.finite("points", points)
    arguments.finite("noise", noise)
    arguments.same_shape("points", points, "noise", noise)
    arguments.real("r", r, 1e-12)
    x = points.double().flatten(1)
    y = x + r * noise.double().flatten(1)
    energies = (y @ x.T - x.square().sum(1) / 2) / r**2
    return energies.log_softmax(1).diagonal()


def relu_kernel(a: Tensor, b: Tensor) -> Tensor:
    """E_w max(w·a, 0) max(w·b, 0), w ~ N(0, I), of rows a (n, d) and b (m, d): (n, m).

    |a| |b| (sin θ + (π − θ) cos θ) / 2π with the angle θ between them: the kernel of infinitely many random features
    of a rectifier; 0 with a row of zeros. Raises ValueError for other shapes and for two dtypes.
    Source: Cho and Saul 2009, the arc-cosine kernel of degree 1, halved.
    """
    arguments.finite("a", a)
    arguments.finite("b", b)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or a.dtype != b.dtype:
        got = f"{tuple(a.shape)} of {a.dtype} and {tuple(b.shape)} of {b.dtype}"
        raise ValueError(f"a and b must be (n, d) and (m, d) of one dtype, got {got}")
    lengths = a.norm(dim=1)[:, None] * b.norm(dim=1)
    cos = (a @ b.T / lengths.clamp(min=torch.finfo(a.dtype).tiny)).clamp(-1, 1)
    angle = torch.arccos(cos)
    return lengths * (angle.sin() + (math.pi - angle) * cos) / (2 * math.pi)


def first_reached(steps: Tensor, values: Tensor, level: float) -> float:
    """The step at which values, measured at `steps`, first reach a level, from above or from below; ∞ if never.

    Linear in log step between the mark before and the mark after; steps[0] if the first value is at the level. Both
    (k,), steps positive and increasing. Raises ValueError for others.
    """
    for name, tensor in (("steps", steps), ("values", values)):
        arguments.finite(name, tensor)
        if tensor.shape != steps.shape or tensor.ndim != 1 or not len(tensor):
            raise ValueError(f"{name} must have one shape (k,) with the steps, got {tuple(tensor.shape)}")
    if float(steps[0]) <= 0 or bool((steps.diff() <= 0).any()):
        raise ValueError(f"steps must be positive and increase, got {steps.tolist()}")
    arguments.real("level", level)
    below = values < level if values[0] < level else values > level
    if bool(below.all()):
        return math.inf
    k = int(below.long().argmin())
    if k == 0:
        return float(steps[0])
    share = float((level - values[k - 1]) / (values[k] - values[k - 1]))
    return float(steps[k - 1]) ** (1 - share) * float(steps[k]) ** share


class TimeScales(NamedTuple):
    """When a level of the held-out loss is reached, when that loss is best, when copies reach a share; ∞ for never."""

    learned: float
    best: float
    copying: float


def time_scales(steps: Tensor, held_out: Tensor, copies: Tensor, level: float, threshold: float = 0.1) -> TimeScales:
    """The times of a training from held-out loss and copy rate measured at `steps`; all (k,).

    The first and the last are `first_reached` for level and threshold, the second is one of the steps. Raises
    ValueError as `first_reached` does.
    """
    learned = first_reached(steps, held_out, level)
    return TimeScales(learned, float(steps[held_out.argmin()]), first_reached(steps, copies, threshold))


def _variances(variances: Tensor) -> None:
    arguments.finite("variances", variances)
    if variances.ndim != 1 or not len(variances) or bool((variances < 0).any()):
        raise ValueError(f"variances must be (d,) and not negative, got {variances!r:.80}")
