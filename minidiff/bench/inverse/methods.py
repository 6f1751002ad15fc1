"""The methods that are compared, all at the same number of calls of the denoiser for a sample."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from minidiff import times
from minidiff.denoiser import DenoiserLike
from minidiff.inverse import (
    DDNM,
    DPS,
    TMPD,
    EmpiricalPosterior,
    LinearOperator,
    PiGDM,
    averaged_log_likelihood,
    dps_sampler,
    gaussian_log_likelihood,
    isotropic_variance,
    repaint,
    twisted,
)
from minidiff.process import RectifiedFlow
from minidiff.samplers import State, ancestral, last

CALLS = 40  # of D for each sample, whatever the method

# (D, x, A, y, s, generator) to samples and their weights, which sum to 1
Draw = Callable[[DenoiserLike, Tensor, LinearOperator, Tensor, float, torch.Generator], tuple[Tensor, Tensor]]


def grid(steps: int | None = None) -> Tensor:
    """Times of a log-SNR grid from r = 80 to 0.02 and then to 0, `steps` steps in all (default CALLS)."""
    return times.log_snr(RectifiedFlow(), steps or CALLS, r_max=80.0, r_min=0.02, zero=True)


def _alone(sampler: Callable[..., Iterator[State]]) -> Draw:
    """Samples that know nothing of each other, and so weigh the same."""

    def draw(
        D: DenoiserLike, x: Tensor, A: LinearOperator, y: Tensor, s: float, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        made = last(sampler(D, x, A, y, s, generator))
        return made, torch.full((len(x),), 1 / len(x), dtype=torch.float64)

    return draw


def _guided(make: Callable[..., DenoiserLike]) -> Draw:
    return _alone(lambda D, x, A, y, s, generator: ancestral(make(D, A, y, s), x, grid(), generator=generator))


def _as_run(step: float) -> Draw:
    return _alone(lambda D, x, A, y, s, generator: dps_sampler(D, x, grid(), A, y, step=step, generator=generator))


def _repaint(repeats: int) -> Draw:
    def sampler(
        D: DenoiserLike, x: Tensor, A: LinearOperator, y: Tensor, s: float, generator: torch.Generator
    ) -> Iterator[State]:
        return repaint(D, x, grid(CALLS // repeats), A, y, repeats=repeats, generator=generator)

    return _alone(sampler)


def _particles(averaged: bool) -> Draw:
    def draw(
        D: DenoiserLike, x: Tensor, A: LinearOperator, y: Tensor, s: float, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        twist = averaged_log_likelihood(A, y, s, isotropic_variance(D)) if averaged else None
        likelihood = gaussian_log_likelihood(A, y, s)
        made = twisted(D, x[None], grid(), likelihood, log_twist=twist, generator=generator)
        return made.x[0], made.log_weights[0].softmax(0)

    return draw


METHODS: dict[str, Draw] = {
    "prior, y ignored": _guided(lambda D, A, y, s: D),
    "exact posterior": _guided(lambda D, A, y, s: EmpiricalPosterior(D, A, y, s)),
    "DPS": _guided(DPS),
    "DPS as run, 0.1": _as_run(0.1),
    "DPS as run, 0.3": _as_run(0.3),
    "DPS as run, 1": _as_run(1.0),
    "ΠGDM": _guided(PiGDM),
    "TMPD, rows": _guided(lambda D, A, y, s: TMPD(D, A, y, s, covariance="rows")),
    "TMPD": _guided(TMPD),
    "DDNM": _guided(lambda D, A, y, s: DDNM(D, A, y)),
    "RePaint": _repaint(1),
    "RePaint, 4 times": _repaint(4),
    "SMC, DPS's twist": _particles(False),
    "SMC, averaged twist": _particles(True),
}
