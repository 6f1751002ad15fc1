"""Exact laws and bounds on short strings: every mask, every order, every way in which a sampler can go.

The price of unmasking several tokens at once is thus a number, not an estimate. All costs grow as (K + 1)^L.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from minidiff import arguments
from minidiff.apps.discrete.tokens import DiscreteDenoiser, check_tokens, log_probabilities, of_data
from minidiff.times import check_times

_MOST = 2**14  # strings: a transition matrix has the square of their number


def strings(vocabulary: int, length: int) -> Tensor:
    """All strings of `length` tokens below `vocabulary` in lexicographic order; (vocabulary^length, length) int64.

    Raises ValueError for more than 2^14 of them.
    """
    arguments.positive_integer("vocabulary", vocabulary)
    arguments.positive_integer("length", length)
    if vocabulary**length > _MOST:
        raise ValueError(f"at most {_MOST} strings are listed, got {vocabulary}^{length}")
    return torch.cartesian_prod(*[torch.arange(vocabulary)] * length).reshape(-1, length)


def total_variation(p: Tensor, q: Tensor) -> float:
    """½ Σ |p − q| of two tables of one shape. Raises ValueError for different shapes."""
    arguments.same_shape("p", p, "q", q)
    return float((p.double() - q.double()).abs().sum() / 2)


def order_agnostic_bound(D: DiscreteDenoiser, x0: Tensor, vocabulary: int) -> Tensor:
    """The mean over all orders of Σ_j −log p(x^{o_j} | x^{o_1}, …, x^{o_{j−1}}), summed over all 2^L masks; (B,) nats.

    Σ_M 1/(k C(L, k)) Σ_{i∈M} −log p(x_0^i | x_0 without M) with k = |M|, which is also
    ∫_0^1 (1/m) E Σ_masked −log p dm, the bound of masked diffusion in continuous time, since
    ∫ m^{k−1} (1 − m)^{L−k} dm = 1/(k C(L, k)). With exact conditionals every order gives −log p(x_0).
    Source: Hoogeboom et al. 2022; Shi et al. 2024; Sahoo et al. 2024.
    """
    check_tokens("x0", x0, vocabulary)
    length, total = x0.shape[1], torch.zeros(len(x0), dtype=torch.float64, device=x0.device)
    for row in strings(2, length).bool().to(x0.device):
        k = int(row.sum())
        if k:
            x = x0.masked_fill(row, vocabulary)
            t = torch.tensor(k / length, dtype=torch.float64)
            nll = -of_data(log_probabilities(D, x, t, vocabulary), x0)
            total += nll[:, row].sum(1) / (k * math.comb(length, k))
    return total


def law_of_ancestral(D: DiscreteDenoiser, length: int, vocabulary: int, times: Tensor) -> Tensor:
    """The law (K, …, K) of what `masked.ancestral` returns from a string of masks; times from 1 to 0 as there.

    Raises ValueError for times that do not end at 0, where masks would be left.
    """
    check_times(times)
    if float(times[-1]) != 0:
        raise ValueError(f"times must end at 0, where no mask is left, got {float(times[-1])}")
    law = _all_masked(length, vocabulary)
    for s, t in pairwise(times.tolist()):
        reveal = (s - t) / s
        weights = [[reveal**r * (1 - reveal) ** (m - r) for r in range(m + 1)] for m in range(length + 1)]
        law = law @ _transition(D, length, vocabulary, s, weights)
    return _clean(law, length, vocabulary)


def law_of_unmasking(D: DiscreteDenoiser, length: int, vocabulary: int, counts: Sequence[int]) -> Tensor:
    """The law (K, …, K) of what `masked.unmask` returns in random order, revealing counts[j] tokens at step j.

    Raises ValueError unless counts are ≥ 1 and sum to L.
    """
    check_counts(counts, length)
    law, left = _all_masked(length, vocabulary), length
    for count in counts:
        weights = [[float(r == count) / math.comb(m, r) for r in range(m + 1)] for m in range(length + 1)]
        law = law @ _transition(D, length, vocabulary, left / length, weights)
        left -= count
    return _clean(law, length, vocabulary)


def check_counts(counts: Sequence[int], masked: int) -> None:
    """Raise ValueError unless the counts are at least 1 and sum to the number of masked tokens."""
    for count in counts:
        arguments.positive_integer("counts", count)
    if sum(counts) != masked:
        raise ValueError(f"counts must sum to the {masked} masked tokens of a row, got {list(counts)}")


def _all_masked(length: int, vocabulary: int) -> Tensor:
    law = torch.zeros(len(strings(vocabulary + 1, length)), dtype=torch.float64)
    law[-1] = 1
    return law


def _clean(law: Tensor, length: int, vocabulary: int) -> Tensor:
    """The part of the law that has no mask, as a table."""
    return law.reshape([vocabulary + 1] * length)[(slice(vocabulary),) * length]


def _transition(D: DiscreteDenoiser, length: int, vocabulary: int, t: float, weights: list[list[float]]) -> Tensor:
    """P[x, y] = weights[masked in x][revealed] Π_{i revealed} p(y^i | x), over all strings with masks."""
    x = strings(vocabulary + 1, length)
    log_p = log_probabilities(D, x, torch.tensor(t, dtype=torch.float64), vocabulary)
    hidden = x == vocabulary
    to_mask = hidden[..., None].double()
    stay = torch.nn.functional.one_hot(x, vocabulary + 1).double()
    factor = torch.where(hidden[..., None], torch.cat([log_p.exp(), to_mask], -1), stay)  # (N, L, K + 1)
    matrix = torch.ones(len(x), len(x), dtype=torch.float64)
    for i in range(length):
        matrix *= factor[:, i][:, x[:, i]]
    masked = hidden.sum(1)
    table = torch.zeros(length + 1, length + 1, dtype=torch.float64)
    for m, row in enumerate(weights):
        table[m, : m + 1] = torch.tensor(row, dtype=torch.float64)
    # Where more is masked in y than in x the product is zero already.
    return matrix * table[masked[:, None], (masked[:, None] - masked).clamp_min(0)]
