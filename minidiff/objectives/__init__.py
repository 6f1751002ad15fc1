"""Training losses, one module a kind: `denoising` holds the loss that trains every network here, and its weights."""

from minidiff.objectives.denoising import (
    Weight,
    denoising_loss,
    edm,
    elbo,
    min_snr,
    p2,
    sigmoid,
    simple,
    snr,
    uniform,
    v,
    velocity,
)

__all__ = [
    "Weight",
    "denoising_loss",
    "edm",
    "elbo",
    "min_snr",
    "p2",
    "sigmoid",
    "simple",
    "snr",
    "uniform",
    "v",
    "velocity",
]
