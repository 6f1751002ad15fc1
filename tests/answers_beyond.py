"""Answers to the exercises of *Beyond Gaussian noise*: right ones, and wrong ones that the checks must catch."""

import functools
import itertools
import math

import torch

from minidiff.apps import discrete


def posterior(alpha_s, alpha_n, pi, x_n, x_0):
    eye = torch.eye(len(pi), dtype=pi.dtype)
    keep = alpha_n / alpha_s
    joint = (alpha_s * eye[x_0] + (1 - alpha_s) * pi) * (keep * eye[x_n] + (1 - keep) * pi[x_n])
    return joint / joint.sum()


def all_the_way(alpha_s, alpha_n, pi, x_n, x_0):
    """α_n in the place of α_n/α_s."""
    eye = torch.eye(len(pi), dtype=pi.dtype)
    joint = (alpha_s * eye[x_0] + (1 - alpha_s) * pi) * (alpha_n * eye[x_n] + (1 - alpha_n) * pi[x_n])
    return joint / joint.sum()


def not_normalised(alpha_s, alpha_n, pi, x_n, x_0):
    eye = torch.eye(len(pi), dtype=pi.dtype)
    keep = alpha_n / alpha_s
    return (alpha_s * eye[x_0] + (1 - alpha_s) * pi) * (keep * eye[x_n] + (1 - keep) * pi[x_n])


def of_uniform_noise(alpha_s, alpha_n, pi, x_n, x_0):
    return posterior(alpha_s, alpha_n, torch.full_like(pi, 1 / len(pi)), x_n, x_0)


def others(p, alpha, pi, v):
    likelihood = alpha * torch.eye(len(p), dtype=p.dtype)[v] + (1 - alpha) * pi[v]
    return p / likelihood / (p / likelihood).sum()


def once_more(p, alpha, pi, v):
    likelihood = alpha * torch.eye(len(p), dtype=p.dtype)[v] + (1 - alpha) * pi[v]
    return p * likelihood / (p * likelihood).sum()


def without_sum(p, alpha, pi, v):
    return p / (alpha * torch.eye(len(p), dtype=p.dtype)[v] + (1 - alpha) * pi[v])


def dropped(p, alpha, pi, v):
    """The token itself ruled out."""
    q = p.clone()
    q[v] = 0
    return q / q.sum()


def weighted(weight):
    def order_agnostic(cost, length):
        return sum(
            cost(M) * weight(k, length) for k in range(1, length + 1) for M in itertools.combinations(range(length), k)
        )

    return order_agnostic


def by_orders(cost, length):
    """Right, and exponentially dear."""
    orders = list(itertools.permutations(range(length)))
    return sum(cost(tuple(sorted(o[j:]))) / (length - j) for o in orders for j in range(length)) / len(orders)


def best_counts(h, calls):
    length = len(h)

    @functools.cache
    def best(known, left):
        if left == 1:
            return (length - known) * h[known], (length - known,)
        return min(
            (c * h[known] + best(known + c, left - 1)[0], (c, *best(known + c, left - 1)[1]))
            for c in range(1, length - known - left + 2)
        )

    return list(best(0, calls)[1])


def equal_counts(h, calls):
    edges = [round(len(h) * j / calls) for j in range(calls + 1)]
    return [b - a for a, b in itertools.pairwise(edges)]


def greedy(h, calls):
    """One at a time at the start, the rest at once."""
    return [1] * (calls - 1) + [len(h) - calls + 1]


def drawn(p, counts):
    table = discrete.Table(p)
    return discrete.law_of_unmasking(
        lambda x, t: table.masked(x).nan_to_num(nan=0.0, neginf=-torch.inf), table.length, table.vocabulary, counts
    )


def divergence(p, counts):
    return float((p * (p / drawn(p, counts)).log2())[p > 0].sum())


def reversed_divergence(p, counts):
    q = drawn(p, counts)
    return float((q * (q / p.clamp_min(1e-12)).log2())[q > 0].sum())


def in_nats(p, counts):
    return divergence(p, counts) * math.log(2)


def careless(p, counts):
    return float((p * (p / drawn(p, counts)).log2()).sum())


RIGHT = {
    "beyond-01": posterior,
    "beyond-02": others,
    "beyond-03": weighted(lambda k, length: 1 / (k * math.comb(length, k))),
    "beyond-04": lambda counts: float(counts[-1] > 1),
    "beyond-05": best_counts,
    "beyond-06": divergence,
}
# Each wrong answer with a piece of the message that it gets.
WRONG = {
    "beyond-01": [
        (all_the_way, "for any law of the noise"),
        (not_normalised, "for any law of the noise"),
        (of_uniform_noise, "for any law of the noise"),
        (lambda alpha_s, alpha_n, pi, x_n, x_0: 0.5, "the shape must be"),
    ],
    "beyond-02": [
        (once_more, "given the other tokens"),
        (without_sum, "given the other tokens"),
        (dropped, "given the other tokens"),
        (lambda p, alpha, pi, v: p, "given the other tokens"),
    ],
    "beyond-03": [
        (weighted(lambda k, length: 1 / math.comb(length, k)), "mean over all orders"),
        (weighted(lambda k, length: 1 / (length * math.comb(length, k))), "mean over all orders"),
        (by_orders, "each set is evaluated once"),
        (lambda cost, length: cost(()), "none of them empty"),
    ],
    "beyond-04": [
        (lambda counts: counts[-1] - 1.0, "less the entropy"),
        (lambda counts: float(len(counts) == 1), "less the entropy"),
        (lambda counts: float(counts[0] > 1), "less the entropy"),
    ],
    "beyond-05": [
        (equal_counts, "no plan with so many calls costs less"),
        (greedy, "no plan with so many calls costs less"),
        (lambda h, calls: [1] * calls, "sum to the length"),
        (lambda h, calls: [len(h)], "one count for each call"),
    ],
    "beyond-06": [
        (reversed_divergence, "in bits, with p_c listed"),
        (in_nats, "in bits, with p_c listed"),
        (careless, "finite"),
        (lambda p, counts: 0.0, "in bits, with p_c listed"),
    ],
}
