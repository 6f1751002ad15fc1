"""Masked diffusion: the absorbing chain in continuous time, which is autoregression in a random order.

At time t each token is masked with probability t (another schedule is this one with its clock changed). The reverse
step from s to t reveals each masked token with probability (s − t)/s, drawn from D. The bound on −log p(x_0) is
∫_0^1 (1/m) E Σ_masked −log p(x_0^i | x_m) dm (Sahoo et al. 2024; Shi et al. 2024; Ou et al. 2024); counting masks in
place of the rate gives order-agnostic autoregression (Uria et al. 2014; Hoogeboom et al. 2022).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor

from minidiff import arguments
from minidiff.apps.discrete.laws import check_counts
from minidiff.apps.discrete.tokens import (
    DiscreteDenoiser,
    categorical,
    check_tokens,
    log_probabilities,
    of_data,
    standard_uniform,
)
from minidiff.noise import Generators
from minidiff.samplers.state import State
from minidiff.times import check_times, pairwise


def mask(x0: Tensor, t: Tensor, vocabulary: int, generator: Generators = None) -> Tensor:
    """x_t: each token of x0 (B, L) becomes the mask, `vocabulary`, with probability t, () or (B,)."""
    check_tokens("x0", x0, vocabulary)
    _check_time(t, x0)
    return x0.masked_fill(standard_uniform(x0.shape, generator, x0.device) < _column(t, x0), vocabulary)


def rate_loss(D: DiscreteDenoiser, x0: Tensor, t: Tensor, vocabulary: int, generator: Generators = None) -> Tensor:
    """(1/t) Σ_masked −log p(x_0^i | x_t) at one draw of the masks; (B,). Its mean over t ~ U(0, 1) is the bound.

    The weight is −α′/(1 − α) for a share α = 1 − t of tokens left; in terms of the rate no schedule is left in it. A
    single mask has probability L t for small t and costs 1/t, so the variance is infinite; that of `count_loss` is not.
    t in (0, 1], () or (B,). Raises ValueError for t = 0 or tokens outside the vocabulary.
    Source: Sahoo et al. 2024, eq. 10; Shi et al. 2024, section 3.
    """
    x = mask(x0, t, vocabulary, generator)
    if not bool((t > 0).all()):
        raise ValueError("t must be above 0: nothing is masked there")
    return _masked_nll(D, x, t, x0, vocabulary) / _column(t, x0)[..., 0]


def count_loss(
    D: DiscreteDenoiser, x0: Tensor, counts: Tensor, vocabulary: int, generator: Generators = None
) -> Tensor:
    """(L/k) Σ_masked −log p(x_0^i | x) with exactly k = counts (B,) masks at random places; (B,).

    For k uniform in 1 … L its mean is that of `rate_loss`, with less variance: only the number of masks matters.
    Raises ValueError for counts outside 1 … L. Source: Hoogeboom et al. 2022, section 2.
    """
    check_tokens("x0", x0, vocabulary)
    length = x0.shape[1]
    if not isinstance(counts, Tensor) or counts.shape != x0.shape[:1] or counts.dtype != torch.int64:
        got = f"{counts.dtype} {tuple(counts.shape)}" if isinstance(counts, Tensor) else type(counts).__name__
        raise ValueError(f"counts must be int64 of shape ({len(x0)},), got {got}")
    if not bool(((counts >= 1) & (counts <= length)).all()):
        raise ValueError(f"counts must lie in 1 … {length}, got {int(counts.min())} … {int(counts.max())}")
    rank = standard_uniform(x0.shape, generator, x0.device).argsort(1).argsort(1)
    x = x0.masked_fill(rank < counts[:, None], vocabulary)
    return _masked_nll(D, x, counts.double() / length, x0, vocabulary) * length / counts


def _masked_nll(D: DiscreteDenoiser, x: Tensor, t: Tensor, x0: Tensor, vocabulary: int) -> Tensor:
    nll = -of_data(log_probabilities(D, x, t, vocabulary), x0)
    return torch.where(x == vocabulary, nll, 0.0).sum(1)


def ancestral(
    D: DiscreteDenoiser, x: Tensor, times: Tensor, vocabulary: int, *, generator: Generators = None
) -> Iterator[State]:
    """The absorbing chain reversed: from s to t reveal each masked token with probability (s − t)/s, drawn from D.

    x (B, L), usually all masks; times as for every sampler, its last may be 0, where no mask is left. Clean tokens stay
    as they are. The tokens revealed in one step are drawn independently: exact as the steps shrink, wrong by a total
    variation that `laws.law_of_ancestral` computes when they do not. State.x0 holds log p(x_0 | x), (B, L, K).
    Raises at the call for times that do not fall within [0, 1] and tokens above the mask.
    """
    check_tokens("x", x, vocabulary + 1)
    check_times(times)
    return _ancestral(D, x, times, vocabulary, generator)


def _ancestral(
    D: DiscreteDenoiser, x: Tensor, times: Tensor, vocabulary: int, generator: Generators
) -> Iterator[State]:
    yield State(times[0], x, None)
    for s, t in pairwise(times):
        log_p = log_probabilities(D, x, s, vocabulary)
        drawn = categorical(log_p.exp(), generator)
        revealed = standard_uniform(x.shape, generator, x.device) < float((s - t) / s)
        x = torch.where((x == vocabulary) & revealed, drawn, x)
        yield State(t, x, log_p)


def unmask(
    D: DiscreteDenoiser,
    x: Tensor,
    counts: Sequence[int],
    vocabulary: int,
    *,
    order: Literal["random", "confident"] = "random",
    generator: Generators = None,
) -> Iterator[State]:
    """Reveal counts[j] masked tokens at step j: at random places, or where the token just drawn is most probable.

    x (B, L) with the same number of masks in every row, which the counts sum to. One token a step in random order
    samples the joint law when D is exact; the confident order (Chang et al. 2022, MaskGIT) does not. State.t is the
    share of tokens still masked. Raises ValueError for other counts, rows or order.
    """
    check_tokens("x", x, vocabulary + 1)
    masks = (x == vocabulary).sum(1)
    if int(masks.min()) != int(masks.max()):
        raise ValueError(f"every row must have the same number of masks, got {int(masks.min())} … {int(masks.max())}")
    check_counts(counts, int(masks[0]))
    if order not in ("random", "confident"):
        raise ValueError(f"order must be 'random' or 'confident', got {order!r}")
    return _unmask(D, x, counts, vocabulary, order, generator)


def _unmask(
    D: DiscreteDenoiser, x: Tensor, counts: Sequence[int], vocabulary: int, order: str, generator: Generators
) -> Iterator[State]:
    left = sum(counts)
    t = torch.tensor(left / x.shape[1], dtype=torch.float64)
    yield State(t, x, None)
    for count in counts:
        log_p = log_probabilities(D, x, t, vocabulary)
        drawn = categorical(log_p.exp(), generator)
        rating = standard_uniform(x.shape, generator, x.device) if order == "random" else of_data(log_p, drawn)
        chosen = rating.masked_fill(x != vocabulary, -torch.inf).topk(count).indices
        x = x.scatter(1, chosen, drawn.gather(1, chosen))
        left -= count
        t = torch.tensor(left / x.shape[1], dtype=torch.float64)
        yield State(t, x, log_p)


def _check_time(t: Tensor, x: Tensor) -> None:
    arguments.time_of_batch(t, x)


def _column(t: Tensor, x: Tensor) -> Tensor:
    """t as (B, 1) or (1, 1) in float64 beside tokens (B, L)."""
    return t.double().to(x.device).reshape(-1, 1)
