"""Checks of the exercises in *Beyond Gaussian noise*."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from minidiff.apps.discrete import strings
from minidiff.checks import Answer, checker, close, expect, uniform

SEEDS = range(4)


def _law(generator: torch.Generator, *shape: int) -> Tensor:
    p = torch.rand(shape, generator=generator, dtype=torch.float64) ** 2 + 0.05
    return p / p.sum(-1, keepdim=True)


def _kernel(alpha: float, pi: Tensor) -> Tensor:
    """α I + (1 − α) 1πᵀ."""
    return alpha * torch.eye(len(pi), dtype=pi.dtype) + (1 - alpha) * pi


@checker("beyond-01")
def forgetful_posterior(answer: Answer) -> None:
    """posterior(alpha_s, alpha_n, pi, x_n, x_0): the law of the token between its two ends, (V,)."""
    for seed in SEEDS:
        generator = torch.Generator().manual_seed(seed)
        alpha_s = uniform(generator, 0.3, 0.95)
        alpha_n = alpha_s * uniform(generator, 0.2, 0.9)
        mask = torch.tensor([0.0, 0.0, 0.0, 1.0], dtype=torch.float64)
        for pi, what in (
            (_law(generator, 4), "for any law of the noise"),
            (torch.full((4,), 0.25, dtype=torch.float64), "for uniform noise"),
            (mask, "for masks"),
        ):
            start, step = _kernel(alpha_s, pi), _kernel(alpha_n / alpha_s, pi)
            for x_0, x_n in itertools.product(range(3), range(4)):
                joint = start[x_0] * step[:, x_n]
                if float(joint.sum()) == 0:
                    continue
                got = answer(alpha_s, alpha_n, pi, x_n, x_0)
                close(got, joint / joint.sum(), f"it is Bayes' rule with the matrices, {what}", rtol=1e-6, atol=1e-8)
            sure = answer(1.0, alpha_n, pi, 3, 1)
            close(sure, torch.eye(4, dtype=torch.float64)[1], "at α_s = 1 the token is the clean one")


@checker("beyond-02")
def leave_one_out(answer: Answer) -> None:
    """others(p, alpha, pi, v): the law of x_0^i given the other noisy tokens, from that given all; (K,)."""
    for seed in SEEDS:
        generator = torch.Generator().manual_seed(seed)
        alpha, pi = uniform(generator, 0.1, 0.9), _law(generator, 4)
        clean, kernel = _law(generator, 16).reshape(4, 4), _kernel(alpha, pi)
        seen = clean @ kernel  # q(x_0 of the place, noisy token of the other place)
        for v, other in itertools.product(range(4), range(4)):
            without = seen[:, other] / seen[:, other].sum()
            full = kernel[:, v] * without / (kernel[:, v] * without).sum()
            got = answer(full, alpha, pi, v)
            close(
                got, without, "it is the law given the other tokens, from a table of two tokens", rtol=1e-6, atol=1e-8
            )
            close(answer(full, 0.0, pi, v), full, "at α = 0 the token is no evidence")


@checker("beyond-03")
def from_sets_to_orders(answer: Answer) -> None:
    """order_agnostic(cost, length): the weighted sum over all sets, which is the mean over all orders."""
    for length in (1, 2, 3, 4):
        generator = torch.Generator().manual_seed(length)
        cost = {
            M: torch.rand(k, generator=generator, dtype=torch.float64)
            for k in range(1, length + 1)
            for M in itertools.combinations(range(length), k)
        }
        asked: list[tuple[int, ...]] = []

        def of_set(M: tuple[int, ...], cost: dict = cost, asked: list = asked) -> float:
            expect(tuple(M) in cost, "cost is asked for sets of places in increasing order, none of them empty")
            asked.append(tuple(M))
            return float(cost[tuple(M)].sum())

        got = answer(of_set, length)
        orders = list(itertools.permutations(range(length)))
        mean = sum(
            float(cost[left][left.index(order[j])])
            for order in orders
            for j, left in ((j, tuple(sorted(order[j:]))) for j in range(length))
        ) / len(orders)
        close(got, mean, "it is the mean over all orders, listed one by one")
        expect(len(asked) == 2**length - 1, "each set is evaluated once")


@checker("beyond-04")
def price_of_parity(answer: Answer) -> None:
    """price(counts): bits lost on strings of even parity when so many bits are written in each call."""
    for counts in ([1], [2], [1, 1], [3], [2, 1], [1, 2], [1, 1, 1], [4], [3, 1], [2, 2], [1, 3], [1, 2, 1], [4, 1]):
        length = sum(counts)
        even = {tuple(s) for s in strings(2, length).tolist() if sum(s) % 2 == 0}
        lost, orders = 0.0, list(itertools.permutations(range(length)))
        for order in orders[:24]:  # every order gives the same: the law is symmetric
            for x in even:
                known = 0
                for c in counts:
                    for place in order[known : known + c]:
                        seen = order[:known]
                        agree = [s for s in even if all(s[i] == x[i] for i in seen)]
                        right = sum(s[place] == x[place] for s in agree) / len(agree)
                        lost -= math.log2(right) / len(even) / len(orders[:24])
                    known += c
        close(answer(counts), lost - math.log2(len(even)), "it is the cost of writing them, listed, less the entropy")
    close(answer([30, 1]), 0.0, "if the last call writes one bit, nothing is lost")


@checker("beyond-05")
def where_to_spend(answer: Answer) -> None:
    """best_counts(h, calls): the counts of least cost Σ c_j h_{k_j}, by a method that scales."""

    def cost(h: list[float], counts: list[int]) -> float:
        return sum(c * h[sum(counts[:j])] for j, c in enumerate(counts))

    for seed in SEEDS:
        generator = torch.Generator().manual_seed(seed)
        h = torch.rand(9, generator=generator, dtype=torch.float64).sort(descending=True).values.tolist()
        for calls in (1, 2, 4, 9):
            counts = [int(c) for c in answer(list(h), calls)]
            expect(len(counts) == calls, "there is one count for each call")
            expect(sum(counts) == 9 and min(counts) >= 1, "counts are at least 1 and sum to the length")
            plans = (
                (c for c in itertools.product(range(1, 10), repeat=calls) if sum(c) == 9) if calls < 9 else [[1] * 9]
            )
            least = min(cost(h, list(c)) for c in plans)
            close(cost(h, counts), least, "no plan with so many calls costs less")
    steep = [2.0] * 30 + [1.0] * 30
    counts = [int(c) for c in answer(steep, 6)]
    close(cost(steep, counts), 90.0, "on a long string with one step in its curve, a call begins at the step")


def _law_of_plan(p: Tensor, counts: list[int]) -> Tensor:
    """What a sampler with exact conditionals draws: the mean over orders of products of conditionals of blocks."""
    length, total = p.ndim, torch.zeros_like(p)
    orders = list(itertools.permutations(range(length)))
    cells = list(itertools.product(*map(range, p.shape)))
    for order in orders:
        for x in cells:
            probability, known = 1.0, 0
            for c in counts:
                seen = order[:known]
                agree = [s for s in cells if all(s[i] == x[i] for i in seen)]
                mass = sum(float(p[s]) for s in agree)
                for place in order[known : known + c]:
                    probability *= sum(float(p[s]) for s in agree if s[place] == x[place]) / mass
                known += c
            total[x] += probability / len(orders)
    return total


@checker("beyond-06")
def what_is_lost(answer: Answer) -> None:
    """divergence(p, counts): bits by which the strings of a plan miss the table p."""
    for seed in range(2):
        p = _law(torch.Generator().manual_seed(seed), 8).reshape(2, 2, 2)
        for counts in ([3], [1, 2], [2, 1], [1, 1, 1]):
            drawn = _law_of_plan(p, counts)
            exact = float((p * (p / drawn).log2()).sum())
            close(answer(p, counts), exact, "it is KL(p ‖ p_c) in bits, with p_c listed order by order", atol=1e-9)
    even = torch.tensor([0.5, 0.0, 0.0, 0.5], dtype=torch.float64).reshape(2, 2)
    close(answer(even, [2]), 1.0, "two equal bits written at once lose one bit; strings that never occur count nothing")
