"""Checks of the exercises in *CausalVAE*."""

from __future__ import annotations

import torch
from torch import Tensor

from minidiff.checks import Answer, checker, close, expect, increasing, normal, number, uniform

SEEDS = range(4)


def _solution(A: Tensor) -> Tensor:
    """C = (I − Aᵀ)⁻¹ of an acyclic A, by its finite series."""
    power = total = torch.eye(len(A), dtype=torch.float64)
    for _ in range(len(A) - 1):
        power = power @ A.mT
        total = total + power
    return total


def _graph(generator: torch.Generator, n: int) -> Tensor:
    """Random weights on a random acyclic graph, its variables shuffled."""
    present = torch.rand(n, n, generator=generator) < 0.7
    order = torch.randperm(n, generator=generator)
    return (torch.triu(normal(generator, n, n), 1) * present)[order][:, order]


@checker("causal-01")
def instrument(answer: Answer) -> None:
    """causal_slope(covariance): the weight of cause → effect, the confounder unseen, from three variables."""
    for seed in SEEDS:
        generator = torch.Generator().manual_seed(seed)
        A = torch.zeros(4, 4, dtype=torch.float64)  # instrument 0, cause 1, effect 2, hidden confounder 3
        A[0, 1], A[3, 1], A[3, 2] = (uniform(generator, 0.3, 2) for _ in range(3))
        for slope in (float(normal(generator)), 0.0):
            A[1, 2] = slope
            noise = torch.diag(torch.tensor([uniform(generator, 0.3, 2) for _ in range(4)], dtype=torch.float64))
            covariance = (_solution(A) @ noise @ _solution(A).mT)[:3, :3]
            close(answer(covariance), slope, "it is the weight of the arrow, whatever the hidden cause does", rtol=1e-6)
            units = torch.tensor([uniform(generator, 0.3, 3) for _ in range(3)], dtype=torch.float64)
            scaled = covariance * torch.outer(units, units)
            expected = slope * units[2] / units[1]
            close(answer(scaled), expected, "it has the units of effect over cause, none of the instrument", rtol=1e-6)


@checker("causal-02")
def hidden_cycle(answer: Answer) -> None:
    """hidden_cycle(n): a graph with a cycle that the polynomial of degree n − 1 cannot see."""
    for n in (2, 3, 5, 8):
        A = number(answer(n), "the matrix")
        expect(A.shape == (n, n), "the matrix is square, of the size asked for")
        # Every arrow counts as 1: a short cycle of tiny weights must not hide in the rounding.
        M = torch.eye(n, dtype=torch.float64) + (A != 0).double() / n
        walks = ((A != 0).double() + torch.eye(n, dtype=torch.float64)).matrix_power(n - 1) > 0
        back = bool(((A != 0) & walks.mT).any())
        expect(back, "the graph has a directed cycle")
        short = float(M.matrix_power(n - 1).trace()) - n
        expect(abs(short) < 1e-9, "the polynomial of degree n − 1 is zero")


@checker("causal-03")
def what_if(answer: Answer) -> None:
    """what_if(A, seen, do): the mean of all variables after `do`, for an individual of whom only some were seen."""
    for seed in SEEDS:
        generator = torch.Generator().manual_seed(seed)
        A, (i, j, k) = _graph(generator, 5), torch.randperm(5, generator=generator)[:3].tolist()
        a, b, v = normal(generator, 3).tolist()
        for seen, do in (({i: a, j: b}, {k: v}), ({i: a, k: b}, {k: v}), ({}, {k: v}), ({i: a}, {})):
            rows = _solution(A)[list(seen)]
            values = torch.tensor(list(seen.values()), dtype=torch.float64)
            eps = torch.linalg.pinv(rows) @ values if seen else torch.zeros(5, dtype=torch.float64)
            cut = A.clone()
            for variable, value in do.items():
                cut[:, variable], eps[variable] = 0, value
            what = {
                (2, 1): "the noise is what the evidence says in the world as it was, and is kept in the new one",
                (0, 1): "for somebody of whom nothing is known it is the mean of the intervention",
                (1, 0): "without an intervention it is the conditional mean",
            }[len(seen), len(do)]
            close(answer(A.clone(), dict(seen), dict(do)), _solution(cut) @ eps, what, rtol=1e-5, atol=1e-5)


@checker("causal-04")
def sortability(answer: Answer) -> None:
    """sortability(A, variances): the share of arrows from the smaller variance to the larger, ties one half."""
    chain = torch.diag(torch.ones(3), 1)
    close(answer(chain, torch.tensor([1.0, 2.0, 3.0, 4.0])), 1.0, "variances that grow along all arrows give 1")
    close(answer(chain, torch.tensor([4.0, 3.0, 2.0, 1.0])), 0.0, "variances that fall along all arrows give 0")
    close(answer(chain, torch.ones(4)), 0.5, "equal variances give one half")
    close(answer(-chain, torch.tensor([1.0, 2.0, 1.0, 1.0])), 0.5, "one up, one down and one tie give one half")
    for seed in SEEDS:
        generator = torch.Generator().manual_seed(seed)
        A, variances = _graph(generator, 6), normal(generator, 6).square() + 0.1
        if not bool((A != 0).any()):
            continue
        share = answer(A, variances)
        close(answer(A, 7 * variances), share, "a common change of units changes nothing")
        close(answer(A.mT, variances), 1 - number(share, "the share"), "all arrows turned round give 1 minus that")
        C = _solution(A)
        equal = torch.eye(6, dtype=torch.float64) + (C - torch.eye(6)).square()
        up = [float(equal[j].sum() > equal[i].sum()) for i, j in (A != 0).nonzero().tolist()]
        close(answer(A, equal.sum(1)), sum(up) / len(up), "it is the share of arrows along which the variance grows")


@checker("causal-05")
def weak_arrow(answer: Answer) -> None:
    """shrunken(a0, variance, labels, k): the a with the least (labels + ½) variance (a − a0)² + k/2 log(1 + a²)."""
    for seed in SEEDS:
        generator = torch.Generator().manual_seed(seed)
        a0, variance, labels = (uniform(generator, low, high) for low, high in ((0.3, 2), (0.5, 3), (1, 20)))
        for k in (1.0, 2.0):
            a = float(number(answer(a0, variance, labels, k), "the arrow"))
            expect(0 < a < a0, "the arrow keeps its sign and becomes smaller")
            grid = torch.linspace(-0.2 * a0, 1.2 * a0, 20001, dtype=torch.float64)
            loss = (labels + 0.5) * variance * (grid - a0).square() + k / 2 * torch.log1p(grid.square())
            best = float(grid[loss.argmin()])
            expect(abs(a - best) < 2e-4 * a0, "no other arrow on the checker's grid has a smaller loss")
            close(answer(-a0, variance, labels, k), -a, "an arrow of the other sign shrinks as much", rtol=1e-4)
        increasing([answer(a0, variance, labels * f, 2.0) for f in (1, 3, 9)], "heavier labels bring the arrow back")


@checker("causal-06")
def explained_away(answer: Answer) -> None:
    """collider(a, b, w): the correlation of independent z_1, z_2 ~ N(0, 1) given z_3 = a z_1 + b z_2 + N(0, w)."""
    for seed in SEEDS:
        generator = torch.Generator().manual_seed(seed)
        w, (a, b) = uniform(generator, 0.1, 3), normal(generator, 2).tolist()
        row = torch.tensor([a, b], dtype=torch.float64)
        given = torch.eye(2, dtype=torch.float64) - torch.outer(row, row) / (row @ row + w)
        exact = given[0, 1] / (given[0, 0] * given[1, 1]).sqrt()
        close(answer(a, b, w), exact, "it is the correlation in the conditional Gaussian")
        close(answer(a, 0.0, w), 0.0, "a variable that does not act on the common effect stays independent")
    close(answer(1.0, 1.0, 0.0), -1.0, "without noise one cause determines the other")
