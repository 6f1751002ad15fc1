"""Training losses: `denoising` holds the loss that trains every network here, `score_matching` those that led to it."""

from minidiff.noise import probes
from minidiff.objectives.couplings import (
    Coupling,
    independent,
    optimal_transport,
    paired,
    reflow,
    sort_coupling,
    transport_cost,
)
from minidiff.objectives.denoising import (
    Weight,
    denoising_loss,
    edm,
    elbo,
    likelihood,
    min_snr,
    p2,
    score,
    sigmoid,
    simple,
    snr,
    truncated_snr,
    uniform,
    v,
    velocity,
)
from minidiff.objectives.effective import effective_weight
from minidiff.objectives.flow_matching import conditional_velocity, flow_matching
from minidiff.objectives.hybrid import hybrid_loss, step_kl
from minidiff.objectives.score_matching import Score, dsm, esm, ism, ssm

__all__ = [
    "Coupling",
    "Score",
    "Weight",
    "conditional_velocity",
    "denoising_loss",
    "dsm",
    "edm",
    "effective_weight",
    "elbo",
    "esm",
    "flow_matching",
    "hybrid_loss",
    "independent",
    "ism",
    "likelihood",
    "min_snr",
    "optimal_transport",
    "p2",
    "paired",
    "probes",
    "reflow",
    "score",
    "sigmoid",
    "simple",
    "snr",
    "sort_coupling",
    "ssm",
    "step_kl",
    "transport_cost",
    "truncated_snr",
    "uniform",
    "v",
    "velocity",
]
