"""Predictor and corrector: a step of any sampler, then Langevin at the new level, where the law should be known."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from minidiff import arguments
from minidiff.denoiser import DenoiserLike
from minidiff.noise import Generators
from minidiff.samplers.langevin import walk
from minidiff.samplers.posterior import ddim
from minidiff.samplers.state import Grid, State, begin, refuse_coupled
from minidiff.times import pairwise


def predictor_corrector(
    D: DenoiserLike,
    x: Tensor,
    times: Tensor,
    *,
    predictor: Callable[[DenoiserLike, Tensor, Tensor], Iterator[State]] = ddim,
    snr: float = 0.16,
    steps: int = 1,
    generator: Generators = None,
) -> Iterator[State]:
    """Predictor–corrector sampling (Song et al. 2021, algorithm 1): `predictor` from s to t, then Langevin at t.

    The corrector is `steps` updates of `langevin` with ε = (2 snr σ_t)²: the published step, 4 (snr ‖z‖/‖ŝ‖)² in our
    convention, with ‖ŝ‖ at its largest root mean square, √d/σ_t, so that it does not depend on the batch. There is none
    where σ_t = 0. snr = 0 leaves the predictor. A stochastic predictor brings its own randomness, such as
    `functools.partial(ancestral, generator=generator)`. The predictor is started anew at each step, so that a multistep
    method is its first step. Calls: those of the predictor, and `steps` more for each step to a σ_t > 0 if snr > 0.

    x: (B, *D) at times[0]; times: float64 (n + 1,), as many states. Raises what `begin` raises, and ValueError for
    snr < 0, for snr ≥ 1, where Langevin diverges, for steps < 1, and for snr > 0 with a coupled denoiser.
    """
    arguments.real("snr", snr, 0.0)
    if snr >= 1:
        raise ValueError(f"snr must be below 1, where Langevin with the step (2 snr σ)² diverges, got {snr}")
    arguments.positive_integer("steps", steps)
    if snr > 0:
        refuse_coupled(D, "predictor_corrector with snr > 0")
    return _run(D, x, begin(D, x, times), predictor, 4 * snr**2, steps, generator)


def _run(
    D: DenoiserLike,
    x: Tensor,
    grid: Grid,
    predictor: Callable[[DenoiserLike, Tensor, Tensor], Iterator[State]],
    gamma: float,
    steps: int,
    generator: Generators,
) -> Iterator[State]:
    state = State(grid.times[0], x, None)
    yield state
    for i, (s, t) in enumerate(pairwise(torch.stack(grid.times)), start=1):
        for made in predictor(D, state.x, torch.stack([s, t])):
            state = made
        if gamma and grid.sigma[i] > 0:
            for made in walk(D, state.x, (t,), [grid.alpha[i]], [grid.sigma[i]], gamma, steps, generator):
                state = made
        yield State(t, state.x, state.x0)
