"""The default: from noise to a sample in exactly as many calls as asked."""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from minidiff import arguments
from minidiff.denoiser import Angle, DenoiserLike, check_angle, check_denoiser
from minidiff.process import Process
from minidiff.samplers.exponential import solve
from minidiff.samplers.state import begin, last
from minidiff.times import cosine_angle

POWER = 0.8  # of r/σ_data inside the grid's angle: steps for scales from a third of σ_data to three times it
ORDER = 4


@torch.no_grad()
def sample(D: DenoiserLike, x: Tensor, nfe: int = 20, angle: Angle | None = None) -> Tensor:
    """x at t = 1 → the sample at σ = 0, both (B, *D), by exactly `nfe` calls of D and without gradients.

    Along a path on Gaussian data D is proportional to cos θ, θ = arctan(r/σ_data) with r = σ/α, and θ is finite at
    both ends of every process. So D is a polynomial in cos θ through its last four values, integrated exactly and
    corrected (`exponential` with variable="cos"), on the grid of `angle_grid`. The last step carries the polynomial to
    σ = 0, also where the process itself stops at σ(0) > 0. The order grows from 1 with the number of values known, so
    that one call returns D at t = 1 and two calls extrapolate a straight line.

    `angle` is that of the call, or D's own, or (σ_data, 0.8): data with a wide spectrum need another (`spectral_angle`,
    `calibrated_angle`). Raises TypeError or ValueError unless x is a finite tensor (B, *D), D a denoiser, nfe an
    integer of at least 1, and scale and middle of the angle are positive and its power in (0, 1]; ValueError too where
    the sample is not finite, because D was not or half precision overflowed.
    """
    check_denoiser(D)
    angle = getattr(D, "angle", None) if angle is None else angle
    scale, power, middle = check_angle(Angle(D.sigma_data, POWER) if angle is None else angle)
    grid = begin(D, x, angle_grid(D.process, nfe, scale if middle is None else middle, power))
    to_data = dataclasses.replace(grid, sigma=[*grid.sigma[:-1], 0.0], lam=[*grid.lam[:-1], math.inf])
    made = last(solve(D, x, to_data, order=ORDER, variable="cos", corrector=True, collocate=False, scale=scale))
    arguments.finite(f"the sample, made of {nfe} answers of D in {x.dtype},", made)
    return made


def angle_grid(process: Process, nfe: int, scale: float = 1.0, power: float = POWER) -> Tensor:
    """The times of `sample`: nfe equal steps of u = arctan((r/scale)^power) from t = 1 to r = 0; float64 (nfe + 1,).

    Equal steps of θ = arctan(r/s) are the best for one Gaussian of standard deviation s. Data have structure on many
    scales; the power 0.8 has nearly the least root mean square error over Gaussians whose scales lie evenly, in their
    logarithm, between scale/3 and 3 scale, for every number of calls (chapter "A better variable"). Where the
    process stops at r(0) > 0 the last node stands for r = 0, and no other lies below r(0).

    Raises ValueError unless nfe ≥ 1, scale > 0 and 0 < power ≤ 1.
    """
    arguments.positive_integer("nfe", nfe)
    arguments.real("scale", scale, 1e-12)
    arguments.real("power", power, 1e-3, 1.0)
    first = math.atan((math.exp(-process.lam_range[0]) / scale) ** power)
    before_last = scale * math.tan(first / nfe) ** (1 / power) if nfe > 1 else 0.0
    return cosine_angle(process, nfe, sigma_data=scale, r_max=math.inf, r_min=before_last, zero=True, power=power)
