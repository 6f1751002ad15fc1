"""Checks of the exercises in *A diffusion model in five minutes*."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from minidiff.analytic import GaussianMixture
from minidiff.checks import Answer, checker, close, expect, increasing, normal, number, pair, uniform
from minidiff.metrics import CountCalls, frechet_distance
from minidiff.process import RectifiedFlow
from minidiff.samplers import sample

SEEDS = range(5)


def _posterior_mean(x: Tensor, t: float, m: float, s: float) -> Tensor:
    """E[x_0 | x_t = x] for x_0 ~ N(m, s²) by Bayes' rule on a grid of x_0."""
    grid = m + s * torch.linspace(-12, 12, 8001, dtype=torch.float64)
    log_density = -((grid - m) ** 2) / (2 * s**2) - (x[:, None] - (1 - t) * grid) ** 2 / (2 * t**2)
    density = (log_density - log_density.amax(1, keepdim=True)).exp()
    return (density * grid).sum(1) / density.sum(1)


@checker("five-01")
def best_guess_for_a_gaussian(answer: Answer) -> None:
    """guess(x, t, m, s): E[x_0 | x_t = x] for x_0 ~ N(m, s²) and x_t = (1 − t) x_0 + t ε."""
    for seed in SEEDS:
        generator = torch.Generator().manual_seed(seed)
        x, m = normal(generator, 5), float(normal(generator, 1))
        t, s = uniform(generator, 0.2, 0.9), uniform(generator, 0.3, 2)
        close(answer(x, t, m, s), _posterior_mean(x, t, m, s), "it is the mean that Bayes' rule gives on a grid", 1e-6)
        close(answer(x, 1.0, m, s), torch.full_like(x, m), "from pure noise the best guess is the mean of the data")
        close(answer(x, 0.0, m, s), x, "without noise the best guess is x itself")
        close(answer(x, t, m, 0.0), torch.full_like(x, m), "if all images are equal the guess is that image")
        low, high = number(answer(torch.tensor([0.0, 1.0]).double(), t, m, s), "the guess")
        left_over = (1 - t) * s**2 - (high - low) * ((1 - t) ** 2 * s**2 + t**2)
        expect(abs(left_over) < 1e-9, "the error x_0 − D is uncorrelated with x_t")


@checker("five-02")
def one_step(answer: Answer) -> None:
    """step(x, guess, s, t): from x at time s to time t < s, keeping the noise that the guess implies."""
    for seed in SEEDS:
        generator = torch.Generator().manual_seed(seed)
        image, eps = normal(generator, 3, 1, 2, 2), normal(generator, 3, 1, 2, 2)
        t, s = sorted(uniform(generator, 0.1, 0.95) for _ in range(2))
        x, guess = (1 - s) * image + s * eps, normal(generator, 3, 1, 2, 2)
        close(answer(x, image, s, t), (1 - t) * image + t * eps, "a right guess leads to the right point on the line")
        close(answer(x, guess, s, s), x, "a step of length zero changes nothing")
        close(answer(x, guess, s, 0.0), guess, "a step to time 0 is the guess itself")
        halfway = answer(x, guess, s, (s + t) / 2)
        twice = answer(halfway, guess, (s + t) / 2, t)
        close(twice, answer(x, guess, s, t), "two short steps with one guess are one long step")
        close(answer(eps, guess, 1.0, t), (1 - t) * guess + t * eps, "from pure noise the noise is x")


def _worst(values: Tensor, target: Tensor | float) -> float:
    """How many standard errors the mean of the values is from the target."""
    return float(abs(values.mean() - target) / (values.std() / math.sqrt(len(values))))


def _distances_on_axes(variances: Tensor, n: int, pairs: int, generator: torch.Generator) -> Tensor:
    a, b = (variances.sqrt() * normal(generator, pairs, n, len(variances)) for _ in range(2))
    return torch.tensor([frechet_distance(x, y) for x, y in zip(a, b, strict=True)], dtype=torch.float64)


@checker("five-03")
def bias_of_the_distance(answer: Answer) -> None:
    """bias(variances, n): the term in 1/n of E FD between two samples of n from N(0, diag(variances))."""
    generator = torch.Generator().manual_seed(0)
    for _ in SEEDS:
        n = int(uniform(generator, 100, 1000))
        variances = 0.2 + 2 * torch.rand(4, generator=generator, dtype=torch.float64)
        value = number(answer(variances, n), "the bias")
        expect(value.ndim == 0 and value > 0, "it is one positive number")
        close(answer(variances[:1], n), 3 * variances[0] / n, "in one dimension it is 3 σ²/n")
        close(answer(variances, 2 * n), value / 2, "twice the sample halves it")
        close(answer(3 * variances, n), 3 * value, "variances three times as large make it three times as large")
        close(answer(variances.flip(0), n), value, "the order of the coordinates does not matter")
        still = torch.cat([variances, torch.full((1,), 1e-14, dtype=torch.float64)])
        close(answer(still, n), value, "a coordinate that does not vary adds nothing", rtol=1e-6)
        parts = sum(float(number(answer(v[None], n), "the bias")) for v in variances)
        expect(value > 1.05 * parts, "it exceeds the sum over single coordinates: correlations are estimated too")
    variances = torch.linspace(0.5, 2, 6, dtype=torch.float64)
    measured = _distances_on_axes(variances, 1500, 300, generator)
    what = "it agrees with the mean over 300 pairs of samples in six dimensions"
    expect(_worst(measured, float(number(answer(variances, 1500), "the bias"))) < 4, what)


def _on_the_line(shift: float, ratio: float, pairs: int, generator: torch.Generator) -> Callable[[int], float]:
    """n → the mean of FD over pairs of samples of n from N(0, 1) and N(shift, ratio²)."""

    def fd(n: int) -> float:
        a, b = normal(generator, pairs, n), shift + ratio * normal(generator, pairs, n)
        return float(((a.mean(1) - b.mean(1)) ** 2 + (a.std(1) - b.std(1)) ** 2).mean())

    return fd


@checker("five-04")
def generous_judge(answer: Answer) -> None:
    """verdict(fd, sizes, samples, training): FD at infinite n, and a number that exposes a memoriser."""
    what, sizes = "the distance and the second number", (50, 100, 200, 400)
    generator = torch.Generator().manual_seed(0)
    training = normal(generator, 300, 3)
    fresh = [normal(generator, 300, 3) for _ in range(3)]

    def verdict(fd: Callable[[int], float], samples: Tensor) -> tuple[float, float]:
        distance, second = pair(answer(fd, sizes, samples, training), what)
        return float(distance), float(second)

    for limit, c in ((0.0, 3.0), (0.7, 5.0), (4.0, 0.0)):
        expect(abs(verdict(lambda n: limit + c / n, fresh[0])[0] - limit) < 1e-9, "a bias of exactly c/n is removed")  # noqa: B023
    for shift, ratio in ((0.0, 1.0), (0.5, 1.0), (0.0, 1.4)):
        curves = [_on_the_line(shift, ratio, 40, generator) for _ in range(20)]
        values = torch.tensor([verdict(fd, fresh[0])[0] for fd in curves], dtype=torch.float64)
        name = {(0.0, 1.0): "two samples of one law are at distance 0", (0.5, 1.0): "a shift by δ is at distance δ²"}
        law = name.get((shift, ratio), "spreads σ and σ′ are at distance (σ − σ′)²")
        expect(_worst(values, shift**2 + (ratio - 1) ** 2) < 4, f"{law}, within the standard error")

    def copies() -> Tensor:
        return training[torch.randint(300, (300,), generator=generator)]

    honest = [verdict(lambda n: 3 / n, x)[1] for x in fresh]
    spread = max(honest) - min(honest)
    for memorised in (copies(), copies() + 1e-3 * normal(generator, 300, 3)):
        second = verdict(lambda n: 3 / n, memorised)[1]
        apart = max(min(honest) - second, second - max(honest))
        expect(apart > 3 * spread and apart > 0.05, "the second number sets a memoriser apart from fresh samples")


def _mixture() -> GaussianMixture:
    means = torch.tensor([[1.0, 0.5], [-1.0, 0.3], [0.2, -1.2]], dtype=torch.float64)
    return GaussianMixture(RectifiedFlow(), torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64), means, stds=0.3)


@checker("five-05")
def path_error(answer: Answer) -> None:
    """path_error(D, x, calls, reference): RMS difference of the samples in `calls` and in `reference` calls from x."""
    for seed in range(2):
        generator = torch.Generator().manual_seed(seed)
        x, D = normal(generator, 64, 2), CountCalls(_mixture())
        first = number(answer(D, x, 6, 40), "the error")
        expect(D.calls == 46, "D is called `calls` + `reference` times")
        expect(first.ndim == 0 and first > 0, "it is one positive number")
        oracle = (sample(_mixture(), x, 6) - sample(_mixture(), x, 40)).square().mean().sqrt()
        close(first, oracle, "it is the root of the mean squared difference over images and coordinates")
        close(answer(D, x, 40, 40), 0.0, "with the calls of the reference it is zero")
        close(answer(D, torch.cat([x, x]), 6, 40), first, "twice the same noise gives the same error")
    increasing([answer(D, x, calls, 40) for calls in (20, 10, 5)], "fewer calls make a larger error")


@checker("five-06")
def floor_at_other_sizes(answer: Answer) -> None:
    """expected_distance(floor, half, n, m): the floor, measured between sets of `half`, for fresh sets of n and m."""
    for seed in SEEDS:
        generator = torch.Generator().manual_seed(seed)
        floor, half = uniform(generator, 1, 20), int(uniform(generator, 100, 1000))
        n, m = (int(uniform(generator, 100, 5000)) for _ in range(2))
        value = number(answer(floor, half, n, m), "the distance")
        close(answer(floor, half, half, half), floor, "at the size at which it was measured, the floor is itself")
        close(answer(floor, half, 2 * half, 2 * half), floor / 2, "two sets twice as large are half as far apart")
        close(answer(floor, half, m, n), value, "the two sets play the same part")
        close(answer(floor, half, half, 10**15), floor / 2, "against the law itself one set's error is left")
        close(answer(2 * floor, half, n, m), 2 * value, "it is in proportion to the floor")
        increasing([answer(floor, half, k * n, m) for k in (4, 2, 1)], "smaller sets are further apart")
    a, b = (normal(torch.Generator().manual_seed(k), 20000, 100)[:, : (50, 100)[k]] for k in range(2))
    measured = (a.mean(1) - b.mean(1)) ** 2 + (a.std(1) - b.std(1)) ** 2
    expected = float(number(answer(3 / 1000, 1000, 50, 100), "the distance"))
    expect(abs(float(measured.mean()) / expected - 1) < 0.05, "it agrees with samples of 50 and 100 on the line")
