"""Checks of the exercises in *Where to put the steps*."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from minidiff.analytic import Gaussian
from minidiff.checks import Answer, CheckFailed, checker, close, expect, increasing, number, uniform
from minidiff.denoiser import DenoiserLike
from minidiff.process import EDM
from minidiff.samplers import State

SEEDS = range(4)


def _random(*shape: int, seed: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _factor(radii: Tensor, s: float) -> float:
    """What DDIM's own steps, made on x = 1 with the Wiener filter, leave of the standard deviation."""
    x, exact = 1.0, math.sqrt((s * s + float(radii[-1]) ** 2) / (s * s + float(radii[0]) ** 2))
    for a, b in itertools.pairwise(radii.tolist()):
        x0 = s * s / (s * s + a * a) * x
        x = x0 + b / a * (x - x0)
    return x / exact


@checker("steps-01")
def most_that_is_kept(answer: Answer) -> None:
    """best_factor(r_max, r_min, s, n): the greatest contraction over all grids."""
    for seed in SEEDS:
        generator = torch.Generator().manual_seed(seed)
        s, r_min = uniform(generator, 0.2, 3), uniform(generator, 0.001, 0.1)
        r_max = uniform(generator, 5, 80)
        for n in (1, 2, 7):
            value = float(number(answer(r_max, r_min, s, n), "the factor"))
            expect(0 < value < 1 or n == 1, "the factor lies between 0 and 1")
            for draw in range(30):
                inner = torch.rand(n - 1, generator=generator, dtype=torch.float64).sort(descending=True).values
                if draw % 2:  # near the best grid: equal in some angle
                    even = torch.linspace(1, 0, n + 1, dtype=torch.float64)[1:-1]
                    inner = even + 0.02 * (inner - even)
                ends = torch.atan(torch.tensor([r_max, r_min], dtype=torch.float64) / s)
                theta = torch.cat([ends[:1], ends[1] + (ends[0] - ends[1]) * inner, ends[1:]])
                reached = _factor(s * torch.tan(theta), s)
                expect(reached <= value + 1e-9, "no grid that DDIM runs on keeps more than the best factor")
            even = torch.linspace(*torch.atan(torch.tensor([r_max, r_min]).double() / s).tolist(), n + 1).double()
            radii = s * torch.tan(even)
            expect(value <= _factor(radii, s) + 1e-5, "the best factor is reached by a grid")
        close(answer(2 * r_max, 2 * r_min, 2 * s, 5), float(answer(r_max, r_min, s, 5)), "only ratios r/s matter")
        increasing([answer(r_max, r_min, s, n) for n in (2, 4, 8)], "more steps keep more")
    close(answer(math.inf, 0.0, 0.7, 2), 0.5, "from r = ∞ to r = 0 in two steps the whole angle π/2 is cut in half")


def _brute(cost: Tensor, n: int) -> float:
    last = len(cost) - 1
    paths = ([0, *inner, last] for inner in itertools.combinations(range(1, last), n - 1))
    return min(float(sum(cost[i, j] for i, j in itertools.pairwise(path))) for path in paths)


@checker("steps-02")
def shortest_path(answer: Answer) -> None:
    """cheapest(cost, n): a path of exactly n steps whose cost is that of brute force."""
    for seed in SEEDS:
        cost = _random(8, 8, seed=seed).square()
        cost = torch.where(torch.ones_like(cost, dtype=torch.bool).triu(1), cost, -100.0)
        for n in (1, 2, 4, 7):
            path = answer(cost.clone(), n)
            if not isinstance(path, list | tuple) or not all(isinstance(i, int) for i in path):
                raise CheckFailed(f"the answer must be a list of integers, got {path!r:.80}")
            expect(len(path) == n + 1 and path[0] == 0 and path[-1] == 7, "the path has n steps from 0 to T")
            expect(all(i < j for i, j in itertools.pairwise(path)), "the nodes increase")
            total = float(sum(cost[i, j] for i, j in itertools.pairwise(path)))
            close(total, _brute(cost, n), "its cost is the least of all subsets")


@checker("steps-03")
def equal_shares(answer: Answer) -> None:
    """place(u, m, p, n): nodes for which ∫ M ρ^{−p} is least."""
    u = torch.linspace(1, 5, 4001, dtype=torch.float64)
    for p in (1, 2, 3):
        for seed in SEEDS:
            a, b, k = (4 * _random(3, seed=seed) - 1).tolist()

            def density(x: Tensor, a: float = a, b: float = b, k: float = k) -> Tensor:
                return (a * torch.sin(b * x) - k * x).exp()

            nodes = number(answer(u, density(u), p, 6), "the nodes")
            expect(nodes.shape == (7,), "there are n + 1 nodes")
            close(nodes[[0, -1]], u[[0, -1]], "the ends stay where they are")
            expect((nodes.diff() > 0).all(), "the nodes increase")
            parts = []
            for low, high in itertools.pairwise(nodes.tolist()):
                x = torch.linspace(low, high, 801, dtype=torch.float64)
                parts.append(float(torch.trapezoid(density(x) ** (1 / (p + 1)), x)))
            spread = max(parts) / min(parts) - 1
            expect(spread < 1e-3, "every step makes the same local error M h^{p+1}, to leading order")


@checker("steps-04")
def step_control(answer: Answer) -> None:
    """control(h, error, q): accept and resize."""

    def asked(h: float, error: float, q: int) -> tuple[bool, float]:
        value = answer(h, error, q)
        if not isinstance(value, tuple) or len(value) != 2:
            raise CheckFailed(f"the answer must be (accepted, next_h), got {value!r:.60}")
        return bool(value[0]), float(number(value[1], "the next step"))

    for q in (2, 3, 4):
        for h in (0.01, 0.3):
            for error in (0.3, 0.8, 1.0, 1.4, 5.0):
                accepted, after = asked(h, error, q)
                expect(accepted == (error <= 1), "a step is accepted exactly if its error is at most 1")
                expected = error * (after / h) ** q  # the error of the next step, if E ∝ h^q
                close(expected, 0.9**q, "where E ∝ h^q the next step is 0.9 of the one with the error 1")
            for error, accept, factor in ((0.0, True, 2.0), (1e-12, True, 2.0), (1e9, False, 0.2)):
                accepted, after = asked(h, error, q)
                expect(accepted == accept, "a step is accepted exactly if its error is at most 1")
                close(after, factor * h, "the step changes by a fifth at least and by two at most")
            for error in (math.inf, math.nan):
                accepted, after = asked(h, error, q)
                expect(not accepted, "an error that is infinite or NaN is never accepted")
                close(after, 0.2 * h, "after an infinite or NaN error the step shrinks to a fifth")


@checker("steps-05")
def grid_ranking(answer: Answer) -> None:
    """ranking(D, x, reference, grids, method): names by median path error."""
    D = Gaussian(EDM(), torch.zeros(3, dtype=torch.float64), std=0.5)
    shift = {"near": 0.1, "middle": -0.4, "far": 2.0, "farther": -3.0}
    grids = {name: torch.tensor([1.0, value / 10 + 0.5, 0.0], dtype=torch.float64) for name, value in shift.items()}

    def method(D: DenoiserLike, x: Tensor, grid: Tensor) -> list[State]:
        error = (float(grid[1]) - 0.5) * 10
        by_row = torch.full((len(x), 1), error, dtype=x.dtype)
        if abs(error - 0.1) < 1e-6:
            by_row[0] = 1000.0  # an outlier, which a median forgives and a mean does not
        return iter([State(grid[0], x, None), State(grid[-1], 2 * x + by_row, x)])

    for seed in SEEDS:
        x = torch.randn(9, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        for names in itertools.islice(itertools.permutations(shift), 0, 24, 5):
            found = answer(D, x, 2 * x, {name: grids[name] for name in names}, method)
            expect(isinstance(found, list) and set(found) == set(shift), "every name is in the list, once")
            expect(found[0] != "far" and found[-1] != "near", "the best grid comes first")
            expect(found == ["near", "middle", "far", "farther"], "the order is that of the median path error")


@checker("steps-06")
def equal_information(answer: Answer) -> None:
    """information_grid(snr_noise, snr_data, s, n): nodes of the least bound on N(0, s²)."""
    for seed in SEEDS:
        generator = torch.Generator().manual_seed(seed)
        s, low, high = (uniform(generator, *ends) for ends in ((0.2, 3), (1e-4, 0.1), (20, 1e4)))
        for n in (2, 6):
            nodes = number(answer(low, high, s, n), "the ratios")
            expect(nodes.shape == (n + 1,), "there are n + 1 ratios")
            close(nodes[[0, -1]], torch.tensor([low, high]).double(), "the ends are the two given ratios", rtol=1e-6)
            expect((nodes.diff() > 0).all(), "the ratios increase")

            def cost(snr: Tensor, s: float = s) -> float:
                return float((snr.diff() * s**2 / (1 + s**2 * snr[:-1])).sum() / 2)

            for _ in range(30):
                moved = nodes.clone()
                moved[1:-1] *= (0.05 * (torch.rand(n - 1, generator=generator, dtype=torch.float64) - 0.5)).exp()
                if bool((moved.diff() > 0).all()):
                    expect(cost(moved) >= cost(nodes) - 1e-12, "no other nodes have a smaller bound")


@checker("steps-07")
def what_a_batch_pays(answer: Answer) -> None:
    """expected_calls(p, batch): E max of independent draws, by enumeration."""
    for seed in SEEDS:
        p = _random(5, seed=seed)
        p = p / p.sum()
        for batch in (1, 2, 4):
            exact = sum(
                math.prod(p[k].item() for k in draw) * max(draw) for draw in itertools.product(range(5), repeat=batch)
            )
            what = "it is the mean number of calls" if batch == 1 else "it is the expected maximum over the batch"
            close(answer(p, batch), exact, what)
        increasing([answer(p, batch) for batch in (1, 2, 8, 64)], "larger batches pay more")
