"""Inverse problems: samples of x_0 given a measurement y = A(x_0) + s n, from a denoiser that has never seen A.

Most methods map a denoiser to a denoiser that knows y, and any sampler serves it. Those whose idea is a step of its own
(`repaint`, `twisted`, `dps_sampler`) are samplers. The exact posteriors are denoisers too.
"""

from minidiff.inverse.ddnm import DDNM
from minidiff.inverse.dps import DPS, at_prediction, dps_gaussian, dps_sampler
from minidiff.inverse.editing import sdedit, surviving_kl
from minidiff.inverse.exact import (
    EmpiricalPosterior,
    empirical_log_weights,
    gaussian_log_likelihood,
    linear_gaussian,
)
from minidiff.inverse.image_operators import AveragePool, Blur, Mask
from minidiff.inverse.operators import LinearOperator, Matrix, check_linear
from minidiff.inverse.pigdm import PiGDM, averaged_log_likelihood, isotropic_variance
from minidiff.inverse.repaint import repaint
from minidiff.inverse.structured_noise import (
    paper_factors,
    region_pattern,
    released_factors,
    rotary_code,
    structured_noise,
)
from minidiff.inverse.tmpd import TMPD, tmpd_ref
from minidiff.inverse.tweedie import tweedie
from minidiff.inverse.twisted import twisted

__all__ = [
    "DDNM",
    "DPS",
    "TMPD",
    "AveragePool",
    "Blur",
    "EmpiricalPosterior",
    "LinearOperator",
    "Mask",
    "Matrix",
    "PiGDM",
    "at_prediction",
    "averaged_log_likelihood",
    "check_linear",
    "dps_gaussian",
    "dps_sampler",
    "empirical_log_weights",
    "gaussian_log_likelihood",
    "isotropic_variance",
    "linear_gaussian",
    "paper_factors",
    "region_pattern",
    "released_factors",
    "repaint",
    "rotary_code",
    "sdedit",
    "structured_noise",
    "surviving_kl",
    "tmpd_ref",
    "tweedie",
    "twisted",
]
