"""Checks of the exercises in *The benchmark*."""

from __future__ import annotations

import math

import torch

from minidiff.checks import Answer, checker, close, expect, increasing, normal, number, pair, uniform
from minidiff.metrics import frechet_distance

SEEDS = range(5)


@checker("bench-01")
def path_error_of_a_sampler(answer: Answer) -> None:
    """errors(x, reference, sigma_data): the rms and the median over samples of the path error."""
    what = "the rms and the median"
    for seed in SEEDS:
        generator = torch.Generator().manual_seed(seed)
        x, reference = normal(generator, 9, 2, 3), normal(generator, 9, 2, 3)
        each = torch.stack([(a - b).pow(2).sum() / 6 for a, b in zip(x, reference, strict=True)]).sqrt()
        rms, median = pair(answer(x, reference, 1.0), what)
        close(rms, each.pow(2).sum().div(9).sqrt(), "the rms is that of the nine errors, one a sample")
        close(median, each.sort().values[4], "the median is the fifth of nine errors in their order")
        for c in (3.0, 0.2):
            scaled = pair(answer(c * x, c * reference, c), what)
            close(scaled[0], rms, "in other units, with σ_data in the same units, nothing changes")
        turned = pair(answer(x.transpose(1, 2), reference.transpose(1, 2), 1.0), what)
        close(turned[0], rms, "the order of the coordinates does not matter")
        far = x.clone()
        far[int(each.argmax())] += 100
        wrong = pair(answer(far, reference, 1.0), what)
        expect(wrong[0] > 10, "one lost sample is seen in the rms")
        close(wrong[1], median, "one lost sample is not seen in the median")
        close(answer(x, x, 1.0), torch.zeros(2), "a sampler that is exact has no error")


@checker("bench-02")
def paired_difference(answer: Answer) -> None:
    """paired(a, b): the mean of the differences over seeds and its standard error."""
    what = "the mean difference and its standard error"
    for seed in SEEDS:
        generator = torch.Generator().manual_seed(seed)
        a, b, shared = normal(generator, 7), 0.3 * normal(generator, 7), 50 * normal(generator, 7)
        d = [float(x - y) for x, y in zip(a, b, strict=True)]
        mean = sum(d) / 7
        error = math.sqrt(sum((x - mean) ** 2 for x in d) / 6 / 7)
        got = pair(answer(a, b), what)
        close(got[0], mean, "the mean difference is the mean over seeds of a − b")
        close(got[1], error, "the standard error comes from the scatter of the differences, with n − 1")
        noisy = pair(answer(a + shared, b + shared), what)
        close(noisy[1], error, "what a seed adds to both does not count", rtol=1e-6)
        close(pair(answer(b, a), what)[0], -mean, "exchanging the two changes the sign")
        close(answer(a, a - 2), torch.tensor([2.0, 0.0]).double(), "a constant difference has no error")


@checker("bench-03")
def cut_ends(answer: Answer) -> None:
    """cut_error(mu, s, r_max, r_min): the path error of an exact solver on a grid whose ends are cut."""
    nodes = torch.linspace(-9, 9, 4001, dtype=torch.float64)
    weight = torch.exp(-nodes.square() / 2)
    weight = weight / weight.sum()
    for seed in SEEDS:
        generator = torch.Generator().manual_seed(seed)
        s, r_max, r_min = uniform(generator, 0.3, 2), uniform(generator, 2, 20), uniform(generator, 0.01, 0.5)
        mu = uniform(generator, 0.1, 2)
        # The flow of N(μ, s²) keeps quantiles: y at r is μ + √(s² + r²) z, with z the same along the path.
        z = (r_max * nodes - mu) / math.sqrt(s**2 + r_max**2)
        end, exact = mu + math.sqrt(s**2 + r_min**2) * z, mu + s * nodes
        rms = float((weight * (end - exact).square()).sum().sqrt()) / s
        what = "the path error"
        close(answer(mu, s, r_max, r_min), rms, "it is the rms over the noise, in units of s", rtol=1e-6)
        close(answer(-mu, s, r_max, r_min), rms, "the sign of the mean does not matter", rtol=1e-6)
        close(answer(mu, s, 1e9, 0.0), 0.0, "nothing is cut, nothing is lost", atol=1e-6)
        late = [-float(number(answer(mu, s, r, 0.0), what)) for r in (5, 20, 80)]
        increasing(late, "a start further out costs less")
        early = [float(number(answer(mu, s, 1e6, r), what)) for r in (0.1, 0.4, 1.0)]
        increasing(early, "an end further out costs more")


@checker("bench-04")
def crossover(answer: Answer) -> None:
    """cheaper_from(calls_a, overhead_a, calls_b, overhead_b): the cost of a call from which on A takes less time."""
    for seed in SEEDS:
        generator = torch.Generator().manual_seed(seed)
        calls_b = int(torch.randint(10, 40, (), generator=generator))
        calls_a = int(torch.randint(2, calls_b, (), generator=generator))
        overhead_b = uniform(generator, 1, 10)
        overhead_a = overhead_b * calls_b / calls_a * uniform(generator, 1.5, 4)
        cost = float(number(answer(calls_a, overhead_a, calls_b, overhead_b), "the cost of a call"))
        expect(cost > 0, "A, with fewer calls and more overhead, does not win for a network that costs nothing")
        for factor, sign in ((0.99, 1), (1.01, -1)):
            seconds_a = calls_a * (factor * cost + overhead_a)
            seconds_b = calls_b * (factor * cost + overhead_b)
            expect(sign * (seconds_a - seconds_b) > 0, "at the crossover both take the same time")
        always = number(answer(calls_a, overhead_b, calls_b, overhead_b), "the cost of a call")
        close(always, 0.0, "with fewer calls and no more overhead A always wins: from 0 on")
        for more in (answer(calls_b, 2 * overhead_b, calls_a, overhead_b), answer(5, 2.0, 5, 1.0)):
            expect(more == math.inf, "with no fewer calls and more overhead A never wins: infinity")
        for own in (1.0, 0.5):
            always = answer(5, own, 5, 1.0)
            expect(always == 0, "with as many calls and no more overhead A is never slower: from 0 on")
        expect(answer(6, 0.1, 5, 1.0) == math.inf, "with more calls A loses for every large c: infinity")


@checker("bench-05")
def fair_difference(answer: Answer) -> None:
    """excess(fd, n, m, floor, sizes): a Fréchet distance without its bias."""
    close(answer(5.0, 100, 100, 3.0, (100, 100)), 2.0, "at the sizes of the floor the floor is subtracted")
    close(answer(5.0, 200, 200, 3.0, (100, 100)), 3.5, "twice as many samples on both sides have half the bias")
    close(answer(7.0, 50, 400, 3.0, (100, 400)), 7 - 3 * 0.0225 / 0.0125, "both sizes add to the bias")
    generator = torch.Generator().manual_seed(0)
    real = [normal(generator, 400, 3) for _ in range(40)]
    floors = [frechet_distance(x[:100], x[100:]) for x in real]
    floor = sum(floors) / len(floors)
    shift = torch.tensor([0.6, 0.0, 0.0], dtype=torch.float64)
    got = []
    for n, m in ((40, 80), (300, 200)):
        fds = [frechet_distance(normal(generator, n, 3) + shift, normal(generator, m, 3)) for _ in range(100)]
        got.append(float(number(answer(sum(fds) / 100, n, m, floor, (100, 300)), "the excess")))
    expect(abs(got[0] - 0.36) < 0.06 and abs(got[1] - 0.36) < 0.04, "a shift of 0.6 costs 0.36, whatever the sizes")


@checker("bench-06")
def winners_curse(answer: Answer) -> None:
    """optimism(k): how far below the truth the least of k equally good scores lies, in standard errors."""
    what = "the optimism"
    close(answer(1), 0.0, "with one grid there is nothing to choose", atol=1e-4)
    z = torch.linspace(-10, 10, 20001, dtype=torch.float64)
    for k in (2, 3, 8, 30):
        # E max = ∫_0^∞ (1 − Φ^k) dz − ∫_{−∞}^0 Φ^k dz.
        power = torch.special.ndtr(z) ** k
        exact = torch.trapezoid(torch.where(z > 0, 1 - power, -power), z)
        close(answer(k), exact, "it is the mean of the largest of k standard normals", rtol=0.02)
    increasing([float(number(answer(k), what)) for k in (2, 4, 8, 16)], "more grids to choose from, more optimism")
