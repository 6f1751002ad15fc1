"""Start late: from an estimate that is noised to t < 1, and how late a start a prior can bear."""

from __future__ import annotations

import torch
from torch import Tensor

from minidiff import arguments
from minidiff.denoiser import DenoiserLike, check_denoiser
from minidiff.noise import Generators, standard_normal


def late_start(D: DenoiserLike, x0: Tensor, t: float, generator: Generators = None) -> Tensor:
    """x_t = α_t x_0 + σ_t ε for estimates x0 (B, *D): where a sampler that starts at t < 1 begins.

    If x0 has the law of the data, x_t has that of the forward process, and nothing is lost by leaving out the steps
    above t (Lyu et al. 2022; Zheng et al. 2023; for estimates, Chung et al. 2022). t in (0, 1].
    """
    check_denoiser(D)
    arguments.finite("x0", x0)
    arguments.real("t", t, 1e-12, 1.0)
    eps = standard_normal(x0.shape, generator, x0.dtype, x0.device)
    return D.process.noise(x0, torch.tensor(t, dtype=torch.float64), eps)


@torch.no_grad()
def squared_errors(D: DenoiserLike, x0: Tensor, times: Tensor, generator: Generators = None) -> Tensor:
    """E‖x_0 − D(x_t, t)‖² at each of the times (n,), estimated on data x0 (B, *D) with one noise each; (n,) float64.

    Where the errors of two denoisers cross, the chain of the one should give way to the prior of the other: the budget
    of a start at t changes with t at the rate ½ (−SNR′) (E‖x_0 − D̂‖² − E‖x_0 − D_π‖²). Pass generators with the same
    seed to compare two denoisers on the same noise.
    """
    check_denoiser(D)
    arguments.finite("x0", x0)
    arguments.finite("times", times)
    errors = []
    for t in times.double().unbind():
        eps = standard_normal(x0.shape, generator, x0.dtype, x0.device)
        error = x0 - D(D.process.noise(x0, t, eps), t)
        errors.append(error.double().flatten(1).square().sum(1).mean())
    return torch.stack(errors)
