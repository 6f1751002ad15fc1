"""Checks of the exercises in *Other spaces, other corruptions*."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from minidiff.checks import Answer, checker, close, expect, increasing, normal, number, pair, uniform

SEEDS = range(4)


@checker("space-01")
def far_enough(answer: Answer) -> None:
    """enough(tolerance): the variance at which the uniform law is wrong by `tolerance`, relatively."""
    angles = torch.linspace(-math.pi, math.pi, 721, dtype=torch.float64)
    copies = 2 * math.pi * torch.arange(-60, 61, dtype=torch.float64)
    for tolerance in (0.1, 0.03, 0.001, 1e-5):
        v = float(number(answer(tolerance), "the variance"))
        expect(v > 0, "the variance is positive")
        density = (-((angles[:, None] + copies) ** 2) / (2 * v)).exp().sum(1) / math.sqrt(2 * math.pi * v)
        error = float((2 * math.pi * density - 1).abs().max())
        expect(abs(error / tolerance - 1) < 0.01, "the largest relative error, summed over images, is the tolerance")
    increasing([answer(tolerance) for tolerance in (0.1, 0.01, 0.001)], "a smaller tolerance takes a larger variance")


def _points(generator: torch.Generator, n: int) -> Tensor:
    x = normal(generator, n, 3)
    return x / x.norm(dim=1, keepdim=True)


@checker("space-02")
def way_to_a_point(answer: Answer) -> None:
    """logarithm(x, y): the tangent vector that leads from x to y along the shorter arc."""
    for seed in SEEDS:
        generator = torch.Generator().manual_seed(seed)
        x, y = _points(generator, 6), _points(generator, 6)
        w = number(answer(x, y), "the vectors")
        expect(w.shape == (6, 3), "there is one vector of three numbers for each pair of points")
        close((w * x).sum(1), torch.zeros(6), "the vectors are tangent at x")
        length = w.norm(dim=1, keepdim=True)
        close(length.cos() * x + length.sin() * w / length, y, "the great circle of the vector leads to y")
        expect(float(length.max()) <= math.pi + 1e-9, "the way is the shorter one")
        close(answer(x, x), torch.zeros(6, 3), "from x to x there is nothing to go", atol=1e-7)
        side = normal(generator, 6, 3)
        side = side - (side * x).sum(1, keepdim=True) * x
        tiny = 1e-6 * side
        near = tiny.norm(dim=1, keepdim=True).cos() * x + tiny
        near = near / near.norm(dim=1, keepdim=True)
        close(answer(x, near), tiny, "very close points keep their digits", rtol=1e-5, atol=1e-14)


@checker("space-03")
def few_random_orders(answer: Answer) -> None:
    """error_of_average(plain, symmetric, m): the error of the mean over m random orders."""
    orders = [list(o) for o in itertools.permutations(range(3))]
    for seed in SEEDS:
        generator = torch.Generator().manual_seed(seed)
        clean, noisy = normal(generator, 4, 3), normal(generator, 4, 3)
        clean, noisy = (torch.cat([x[:, o] for o in orders]) for x in (clean, noisy))
        weight = normal(generator, 3, 3)
        moved = torch.stack([(noisy[:, o] @ weight).sin()[:, torch.tensor(o).argsort()] for o in orders])  # (6, 24, 3)

        def error(guess: Tensor, clean: Tensor = clean) -> float:
            return float((guess - clean).square().sum(-1).mean())

        plain, symmetric = error(moved[0]), error(moved.mean(0))
        for m in (1, 2, 3):
            chosen = itertools.product(range(6), repeat=m)
            exact = sum(error(moved[list(c)].mean(0)) for c in chosen) / 6**m
            close(answer(plain, symmetric, m), exact, "it is the mean over all choices of m orders, listed one by one")
        close(answer(plain, plain, 5), plain, "where averaging over all orders gains nothing, a few gain nothing")


@checker("space-04")
def memory_of_a_blur(answer: Answer) -> None:
    """end(x0, a, severities, guesses): the amplitude of one wave after the improved sampler."""
    for seed in SEEDS:
        generator = torch.Generator().manual_seed(seed)
        rate, start = uniform(generator, 0.5, 5), uniform(generator, 0.5, 1)
        severities = [start, 0.7 * start, 0.4 * start, 0.1 * start, 0.0]
        x0, *guesses = normal(generator, 5).tolist()

        def fading(s: float, rate: float = rate) -> float:
            return math.exp(-rate * s)

        x = fading(start) * x0
        for guess, (s, t) in zip(guesses, itertools.pairwise(severities), strict=True):
            x = x - fading(s) * guess + fading(t) * guess
        close(answer(x0, fading, severities, guesses), x, "it is what the sampler returns, step by step")
        close(answer(x0, fading, severities, [x0] * 4), x0, "right guesses give the right amplitude")
        edge = 0.5 * start
        decided = answer(x0, lambda s, edge=edge: float(s < edge), severities, guesses)
        close(decided, guesses[1], "for an ideal filter the guess of the step across its edge is final")


@checker("space-05")
def denoiser_of_a_field(answer: Answer) -> None:
    """poisson_denoiser(charges, x, z): the posterior mean of the data under the noise of a Poisson flow."""
    for seed in SEEDS:
        generator = torch.Generator().manual_seed(seed)
        for dim in (1, 2, 3):
            charges, x = normal(generator, 5, dim), normal(generator, 4, dim)
            z = uniform(generator, 0.2, 3)
            apart = x[:, None] - charges
            strength = (apart.square().sum(2) + z**2) ** (-(dim + 1) / 2)
            across, up = (strength[..., None] * apart).sum(1), z * strength.sum(1, keepdim=True)
            got = answer(charges, x, z)
            close((x - number(got, "the means")) / z, across / up, "it gives the slope of the field lines")
        far = answer(charges, x, 1e9)
        close(far, charges.mean(0).expand(4, 3), "far above, it is the mean of the charges", rtol=1e-6)
        wide, at = normal(generator, 6, 1000), normal(generator, 2, 1000)
        for z in (1e-3, 1.0, 1e4):
            got = number(answer(wide, at, z), "the means in a thousand dimensions")
            low, high = wide.min(0).values, wide.max(0).values
            expect(((got >= low - 1e-9) & (got <= high + 1e-9)).all(), "it is a mean of the charges in 1000 dimensions")


@checker("space-06")
def where_lines_begin(answer: Answer) -> None:
    """outside(ratio, n, generator): the exact and the measured share of lines that begin beyond ratio · z."""
    for ratio in (0.3, 1.0, 3.0, 10.0):
        exact, measured = pair(
            answer(ratio, 20_000, torch.Generator().manual_seed(1)), "the exact and the measured share"
        )
        u = torch.linspace(-10, 10, 40_001, dtype=torch.float64)
        bell = (-(u**2) / 2).exp() / math.sqrt(2 * math.pi)
        oracle = torch.trapezoid(bell * (-((ratio * u) ** 2) / 2).exp(), u)  # |g| > ratio |u|, given u
        close(exact, oracle, "the exact share is that of z g/|u| in the plane", rtol=1e-6)
        spread = math.sqrt(float(oracle * (1 - oracle)) / 20_000)
        expect(abs(float(measured - oracle)) < 5 * spread, "the measured share agrees within its standard error")
        draws = 20_000 * float(measured)
        expect(abs(draws - round(draws)) < 0.01, "the second number is measured: a whole number of the n draws")
    again = [answer(1.0, 500, torch.Generator().manual_seed(3))[1] for _ in range(2)]
    expect(again[0] == again[1], "the same generator gives the same share")
