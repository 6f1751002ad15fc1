"""The default: from noise to a sample in exactly as many calls as asked."""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from minidiff import arguments
from minidiff.denoiser import DenoiserLike, check_denoiser
from minidiff.process import Process
from minidiff.samplers.exponential import solve
from minidiff.samplers.state import begin, last
from minidiff.times import cosine_angle

POWER = 0.8  # of r/σ_data inside the grid's angle: steps for scales from a third of σ_data to three times it
ORDER = 4


@torch.no_grad()
def sample(D: DenoiserLike, x: Tensor, nfe: int = 20) -> Tensor:
    """x at t = 1 → the sample at σ = 0, both (B, *D), by exactly `nfe` calls of D and without gradients.

    Along a path on Gaussian data D is proportional to cos θ, θ = arctan(r/σ_data) with r = σ/α, and θ is finite at
    both ends of every process. So D is a polynomial in cos θ through its last four values, integrated exactly and
    corrected (`exponential` with variable="cos"), on the grid of `angle_grid`. The last step carries the polynomial to
    σ = 0, also where the process itself stops at σ(0) > 0. The order grows from 1 with the number of values known, so
    that one call returns D at t = 1 and two calls extrapolate a straight line.

    D.sigma_data sets the scale and nothing else does; a factor of 2 either way costs little. Raises TypeError or
    ValueError unless x is a finite tensor (B, *D), D a denoiser, and nfe an integer of at least 1.
    """
    check_denoiser(D)
    grid = begin(D, x, angle_grid(D.process, nfe, D.sigma_data))
    to_data = dataclasses.replace(grid, sigma=[*grid.sigma[:-1], 0.0], lam=[*grid.lam[:-1], math.inf])
    return last(solve(D, x, to_data, order=ORDER, variable="cos", corrector=True, collocate=False))


def angle_grid(process: Process, nfe: int, sigma_data: float = 1.0) -> Tensor:
    """The times of `sample`: nfe equal steps of u = arctan((r/σ_data)^0.8) from t = 1 to r = 0; float64 (nfe + 1,).

    Equal steps of θ = arctan(r/σ_data) itself are the best for one Gaussian of that scale. Data have structure on many
    scales; the power 0.8 has nearly the least root mean square error over Gaussians whose scales lie evenly, in their
    logarithm, between σ_data/3 and 3 σ_data, for every number of calls (chapter "A better variable"). Where the
    process stops at r(0) > 0 the last node stands for r = 0, and no other lies below r(0).

    Raises ValueError unless nfe ≥ 1 and sigma_data > 0.
    """
    arguments.positive_integer("nfe", nfe)
    arguments.real("sigma_data", sigma_data, 1e-12)
    first = math.atan((math.exp(-process.lam_range[0]) / sigma_data) ** POWER)
    before_last = sigma_data * math.tan(first / nfe) ** (1 / POWER) if nfe > 1 else 0.0
    return cosine_angle(process, nfe, sigma_data=sigma_data, r_max=math.inf, r_min=before_last, zero=True, power=POWER)
