"""Samplers: generators over states from noise to data.

Every method maps (D, x, times) to the states at those times: the first is (times[0], x, None), each later one holds the
prediction x̂_0 that made its step. Nothing is hidden: a multistep method's history is a local variable, so two calls
give the same answer. Coefficients are computed once on the whole grid, in float64, as Python floats. Samplers leave the
grad mode alone; `sample` runs without gradients.
"""

from minidiff.samplers.adaptive import adaptive
from minidiff.samplers.adaptive_sde import adaptive_sde
from minidiff.samplers.churn import edm, restart
from minidiff.samplers.default import angle_grid, sample
from minidiff.samplers.exponential import exponential
from minidiff.samplers.inversion import invert, slerp
from minidiff.samplers.invertible import bdia
from minidiff.samplers.langevin import annealed_langevin, langevin
from minidiff.samplers.parallel import Sweep, parareal, picard
from minidiff.samplers.posterior import ancestral, ddim
from minidiff.samplers.predictor_corrector import predictor_corrector
from minidiff.samplers.published import deis, dpmpp_2m, dpmpp_3m, pndm, unipc
from minidiff.samplers.reverse_variance import ReverseSteps, reverse_gaussian, reverse_steps
from minidiff.samplers.richardson import local_richardson, richardson
from minidiff.samplers.runge_kutta import euler, heun
from minidiff.samplers.selection import Found, best_of, expected_best, search_noise
from minidiff.samplers.singlestep import dpm_solver, dpmpp_2s
from minidiff.samplers.spectrum import calibrated_angle, spectral_angle, spectral_error
from minidiff.samplers.speculative import Speculation, overlap, speculative
from minidiff.samplers.state import State, last, path
from minidiff.samplers.steering import Steered, effective_sample_size, steered
from minidiff.samplers.stochastic import euler_maruyama, sa_solver
from minidiff.samplers.stochastic_dpm import dpmpp_2m_sde, dpmpp_sde
from minidiff.samplers.taylor import taylor
from minidiff.samplers.truncation import late_start, squared_errors

__all__ = [
    "Found",
    "ReverseSteps",
    "Speculation",
    "State",
    "Steered",
    "Sweep",
    "adaptive",
    "adaptive_sde",
    "ancestral",
    "angle_grid",
    "annealed_langevin",
    "bdia",
    "best_of",
    "calibrated_angle",
    "ddim",
    "deis",
    "dpm_solver",
    "dpmpp_2m",
    "dpmpp_2m_sde",
    "dpmpp_2s",
    "dpmpp_3m",
    "dpmpp_sde",
    "edm",
    "effective_sample_size",
    "euler",
    "euler_maruyama",
    "expected_best",
    "exponential",
    "heun",
    "invert",
    "langevin",
    "last",
    "late_start",
    "local_richardson",
    "overlap",
    "parareal",
    "path",
    "picard",
    "pndm",
    "predictor_corrector",
    "restart",
    "reverse_gaussian",
    "reverse_steps",
    "richardson",
    "sa_solver",
    "sample",
    "search_noise",
    "slerp",
    "spectral_angle",
    "spectral_error",
    "speculative",
    "squared_errors",
    "steered",
    "taylor",
    "unipc",
]
