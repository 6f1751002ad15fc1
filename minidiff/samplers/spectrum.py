"""Where the default sampler should work: by the spectrum of the data, and by paths of the denoiser itself."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from minidiff import arguments
from minidiff.denoiser import Angle, DenoiserLike
from minidiff.process import Process, TrigFlow
from minidiff.samplers.default import sample

CALLS = (4, 5, 6, 8)
POWERS = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
FACTORS = tuple(2 ** (j / 2) for j in range(-4, 15))  # of the root mean square: from ¼ to 128
MIDDLES = tuple(2 ** (-j / 2) for j in range(5))  # of the scale: from 1 down to ¼


class Axes:
    """The exact denoiser of Gaussian data along its principal axes: D = α s² x/(α² s² + σ²), a row for each axis."""

    coupled = False

    def __init__(self, process: Process, stds: Tensor) -> None:
        self.process, self.stds = process, stds
        self.sigma_data = float(stds.square().mean().sqrt())

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """x̂_0 of x (axes, 1)."""
        alpha, sigma = self.process.alpha(t), self.process.sigma(t)
        signal = alpha * self.stds[:, None].square()
        return signal * x / (alpha * signal + sigma**2)


def spectral_error(stds: Tensor, angle: Angle | None, nfe: int) -> float:
    """The path error of `sample` with nfe calls on Gaussian data with standard deviations `stds` (n,) along its axes.

    √(Σ_j (ŝ_j − s_j)²/Σ_j s_j²) with ŝ_j what the sampler makes of the axis j: exact, since every step is linear.
    """
    made = sample(Axes(TrigFlow(), stds), torch.ones_like(stds)[:, None], nfe, angle)[:, 0]
    return float((made - stds).norm() / stds.norm())


def spectral_angle(stds: Tensor, calls: Sequence[int] = CALLS) -> Angle:
    """The angle for which `sample` has the least path error on Gaussian data with this spectrum.

    stds: standard deviations of the data along their principal axes (n,), the roots of the eigenvalues of their
    covariance. What is least is the mean logarithm of `spectral_error` over `calls`: first on a table of scales and
    powers with the middle at the scale, then, with that scale, on one of middles and powers. Real data are no Gaussian;
    their spectrum still says over which noise levels structure appears. Raises ValueError unless stds (n,) is finite,
    not negative, and not all zero.
    """
    arguments.finite("stds", stds)
    if stds.ndim != 1 or bool((stds < 0).any()) or not bool((stds > 0).any()):
        raise ValueError(f"stds must be (n,) with values ≥ 0, not all 0, got {stds.tolist()!r:.80}")
    stds = stds.double()
    rms = float(stds.square().mean().sqrt())

    def least(angles: list[Angle]) -> Angle:
        return min(angles, key=lambda angle: sum(math.log(spectral_error(stds, angle, n)) for n in calls))

    scale = least([Angle(rms * factor, power) for factor in FACTORS for power in POWERS]).scale
    return least([Angle(scale, power, scale * middle) for middle in MIDDLES for power in POWERS])


def calibrated_angle(
    D: DenoiserLike, x: Tensor, end: Tensor, angles: Sequence[Angle], calls: Sequence[int] = CALLS
) -> Angle:
    """The one of `angles` with which `sample` ends nearest to `end` over the numbers of calls: a search by trial.

    x: (B, *D) at t = 1. end: (B, *D), where the probability-flow ODE of D takes it, such as a run with a hundred calls.
    What is least is the mean logarithm over `calls` of the root mean square distance. It costs sum(calls) calls on B
    samples for each angle, once in the life of a network. Raises ValueError without angles or calls, or where x and end
    differ in shape, and what `sample` raises.
    """
    arguments.same_shape("end", end, "x", x)
    if not angles or not calls:
        raise ValueError(f"angles and calls must not be empty, got {len(angles)} angles and {len(calls)} calls")

    def error(angle: Angle) -> float:
        return sum(math.log(float((sample(D, x, n, angle) - end).square().mean())) for n in calls)

    return min(angles, key=error)
