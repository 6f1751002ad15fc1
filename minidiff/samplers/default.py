"""The default: from noise to a sample in exactly as many calls as asked."""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from minidiff import arguments
from minidiff.denoiser import DenoiserLike, check_denoiser
from minidiff.samplers.exponential import solve
from minidiff.samplers.state import begin, last
from minidiff.times import cosine_angle

LAST_ANGLE = 0.06  # r/σ_data from which the polynomial in cos θ carries D to σ = 0


@torch.no_grad()
def sample(D: DenoiserLike, x: Tensor, nfe: int = 20) -> Tensor:
    """x at t = 1 → the sample at σ = 0, both (B, *D), by exactly `nfe` calls of D and without gradients.

    Along a path on Gaussian data D is proportional to cos θ, θ = arctan(r/σ_data) with r = σ/α, and θ is finite at
    both ends of every process. So: steps uniform in θ, D a polynomial in cos θ through its last four values, integrated
    exactly and corrected (`exponential` with variable="cos"); at r = 0.06 σ_data the polynomial is carried to σ = 0,
    also where the process itself stops at σ(0) > 0. The order grows from 1 with the number of values known.

    Raises TypeError or ValueError unless x is a finite tensor (B, *D), D a denoiser, and nfe an integer of at least 1.
    """
    arguments.positive_integer("nfe", nfe)
    check_denoiser(D)
    sigma_data = D.sigma_data
    times = cosine_angle(
        D.process, nfe, sigma_data=sigma_data, r_max=math.inf, r_min=LAST_ANGLE * sigma_data, zero=True
    )
    grid = begin(D, x, times)
    to_data = dataclasses.replace(grid, sigma=[*grid.sigma[:-1], 0.0], lam=[*grid.lam[:-1], math.inf])
    return last(solve(D, x, to_data, order=4, variable="cos", corrector=True, collocate=False))
