"""Discrete flow matching: tokens that jump in continuous time (Campbell et al. 2024; Gat et al. 2024).

The path mixes data and noise token by token: x_t^i is x_0^i with probability α_t = 1 − t, else a token of the source
law π (all on a mask, uniform, …). Rates of jumps carry the law of x_t back in time; the published papers run time the
other way, with noise at 0.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from minidiff import arguments
from minidiff.apps.discrete.tokens import (
    DiscreteDenoiser,
    categorical,
    check_stochastic,
    check_tokens,
    log_probabilities,
)
from minidiff.noise import Generators
from minidiff.samplers.state import State
from minidiff.times import check_times, pairwise


def mixture_kernel(t: Tensor, source: Tensor, vocabulary: int) -> Tensor:
    """q(x_t^i = v | x_0^i = k) = (1 − t) 1[v = k] + t π(v) for a 0-d t and π = source (V,); (K, V), K = vocabulary ≤ V.

    Raises TypeError or ValueError for a source that is not a law or has fewer than K entries, and for a t that is not
    0-d in [0, 1].
    """
    _check_source(source, vocabulary)
    arguments.floating("t", t)
    if t.ndim:
        raise ValueError(f"t must be 0-d, got shape {tuple(t.shape)}")
    arguments.unit_interval("t", t)
    eye = torch.eye(vocabulary, len(source), dtype=torch.float64, device=source.device)
    return (1 - t.double()) * eye + t.double() * source.double()


def mixture_noise(x0: Tensor, t: Tensor, source: Tensor, vocabulary: int, generator: Generators = None) -> Tensor:
    """Draw x_t: each token of x0 (B, L) kept with probability 1 − t, else drawn from the source; t () or (B,)."""
    check_tokens("x0", x0, vocabulary)
    _check_source(source, vocabulary)
    arguments.time_of_batch(t, x0)
    clean = torch.nn.functional.one_hot(x0, len(source)).double()
    share = t.double().to(x0.device).reshape(-1, 1, 1)
    return categorical((1 - share) * clean + share * source.double().to(x0.device), generator)


def jump_rates(
    D: DiscreteDenoiser, x: Tensor, t: Tensor, source: Tensor, vocabulary: int, churn: float = 0.0
) -> Tensor:
    """Rates, per unit of time towards the data, at which position i of x jumps to v; (B, L, V), each row sums to zero.

    R(x → v at i) = (1 + c)/t · (p(x_0^i = v | x) − 1[v = x^i])
    + c · p(x_0^i = x^i | x)/((1 − t) + t π(x^i)) · (π(v) − 1[v = x^i]),   c = churn ≥ 0.
    The second line undoes noise again, being the forward process run from p(x_0^i | x); for every c the law of
    x_t is that of the path when D is exact. 0 < t ≤ 1, 0-d. Raises ValueError for other t, churn or source.
    Source: Gat et al. 2024, section 3 (velocities and corrector sampling); Campbell et al. 2024, section 3.
    """
    _check_source(source, vocabulary)
    check_tokens("x", x, len(source))
    arguments.real("churn", churn, 0.0)
    arguments.floating("t", t)
    if t.ndim or not 0 < float(t) <= 1:
        raise ValueError(f"t must be a 0-d time in (0, 1], got {t}")
    time = float(t)
    law = source.double().to(x.device)
    p = log_probabilities(D, x, t, vocabulary).exp()
    p = torch.nn.functional.pad(p, (0, len(source) - vocabulary))
    here = torch.nn.functional.one_hot(x, len(source)).double()
    likelihood = (1 - time) + time * law[x][..., None]  # q(x_t^i | x_0^i = x_t^i)
    share = torch.where(likelihood > 0, (p * here).sum(-1, keepdim=True) / likelihood, 0.0)
    return (1 + churn) / time * (p - here) + churn * share * (law - here)


def euler_jumps(
    D: DiscreteDenoiser,
    x: Tensor,
    times: Tensor,
    source: Tensor,
    vocabulary: int,
    *,
    churn: float = 0.0,
    generator: Generators = None,
) -> Iterator[State]:
    """Euler steps: from s to t position i moves to v with probability (s − t) R(x → v at i), all positions at once.

    x (B, L) at times[0], drawn from the source at t = 1; times as for every sampler. Jump probabilities that add to
    more than one, as with churn in a last step to t = 0, are scaled to one. With churn 0 and a mask this is
    `masked.ancestral`. State.x0 is None. Raises at the call for bad times, tokens, source or churn. Source: Gat et al.
    2024, section 2 (sampling by Euler steps).
    """
    _check_source(source, vocabulary)
    check_tokens("x", x, len(source))
    arguments.real("churn", churn, 0.0)
    check_times(times)
    return _euler(D, x, times, source, vocabulary, churn, generator)


def _euler(
    D: DiscreteDenoiser,
    x: Tensor,
    times: Tensor,
    source: Tensor,
    vocabulary: int,
    churn: float,
    generator: Generators,
) -> Iterator[State]:
    yield State(times[0], x, None)
    for s, t in pairwise(times):
        jump = float(s - t) * jump_rates(D, x, s, source, vocabulary, churn)
        jump = jump.scatter(-1, x[..., None], 0.0).clamp_min(0.0)
        jump = jump / jump.sum(-1, keepdim=True).clamp_min(1.0)
        x = categorical(jump.scatter(-1, x[..., None], 1 - jump.sum(-1, keepdim=True)).clamp_min(0.0), generator)
        yield State(t, x, None)


def _check_source(source: Tensor, vocabulary: int) -> None:
    check_stochastic("source", source)
    arguments.positive_integer("vocabulary", vocabulary, at_least=2)
    if source.ndim != 1 or len(source) < vocabulary:
        raise ValueError(f"source must be a law (V,) with V ≥ {vocabulary}, got shape {tuple(source.shape)}")
