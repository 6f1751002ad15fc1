"""Samplers: generators over states from noise to data.

Every method maps (D, x, times) to the states at those times: the first is (times[0], x, None), each later one holds the
prediction x̂_0 that made its step. Nothing is hidden: a multistep method's history is a local variable, so two calls
give the same answer. Coefficients are computed once on the whole grid, in float64, as Python floats. Samplers leave the
grad mode alone; `sample` runs without gradients.
"""

from minidiff.samplers.churn import edm, restart
from minidiff.samplers.default import sample
from minidiff.samplers.exponential import exponential
from minidiff.samplers.langevin import annealed_langevin, langevin
from minidiff.samplers.posterior import ancestral, ddim
from minidiff.samplers.predictor_corrector import predictor_corrector
from minidiff.samplers.published import deis, dpmpp_2m, dpmpp_3m, pndm, unipc
from minidiff.samplers.reverse_variance import ReverseSteps, reverse_gaussian, reverse_steps
from minidiff.samplers.runge_kutta import euler, heun
from minidiff.samplers.singlestep import dpm_solver, dpmpp_2s
from minidiff.samplers.state import State, last, path
from minidiff.samplers.stochastic import euler_maruyama, sa_solver
from minidiff.samplers.stochastic_dpm import dpmpp_2m_sde, dpmpp_sde

__all__ = [
    "ReverseSteps",
    "State",
    "ancestral",
    "annealed_langevin",
    "ddim",
    "deis",
    "dpm_solver",
    "dpmpp_2m",
    "dpmpp_2m_sde",
    "dpmpp_2s",
    "dpmpp_3m",
    "dpmpp_sde",
    "edm",
    "euler",
    "euler_maruyama",
    "exponential",
    "heun",
    "langevin",
    "last",
    "path",
    "pndm",
    "predictor_corrector",
    "restart",
    "reverse_gaussian",
    "reverse_steps",
    "sa_solver",
    "sample",
    "unipc",
]
