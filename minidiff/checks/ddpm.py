"""Checks of the exercises in *Denoising diffusion probabilistic models*."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from minidiff.checks import Answer, checker, close, expect, increasing, number, pair, uniform

SEEDS = range(5)


def _scales(snr: float) -> tuple[float, float]:
    """(α, σ²) of a variance-preserving chain at a signal-to-noise ratio."""
    return math.sqrt(snr / (1 + snr)), 1 / (1 + snr)


def _curvature_at_zero(a: float, snr_m: float, snr_n: float) -> float:
    """d²/dx² log q(x_m = x | x_n = 0) at x = 0 for data ±a, by Bayes' rule and automatic differentiation."""
    (alpha_m, variance_m), (alpha_n, variance_n) = _scales(snr_m), _scales(snr_n)
    x = torch.zeros((), dtype=torch.float64, requires_grad=True)
    centres = alpha_m * torch.tensor([-a, a], dtype=torch.float64)
    prior = torch.logsumexp(-((x - centres) ** 2) / (2 * variance_m), 0)
    ratio = alpha_n / alpha_m
    log_q = prior - (ratio * x) ** 2 / (2 * (variance_n - ratio**2 * variance_m))
    (slope,) = torch.autograd.grad(log_q, x, create_graph=True)
    return float(torch.autograd.grad(slope, x)[0])


@checker("ddpm-01")
def few_gaussian_steps(answer: Answer) -> None:
    """limit_snr(a, snr_n): where the curvature of log q(x_m | x_n = 0) at 0 changes sign."""
    for seed in SEEDS:
        generator = torch.Generator().manual_seed(seed)
        a, snr_n, k = (uniform(generator, low, high) for low, high in ((0.3, 3), (0.01, 10), (0.5, 2)))
        limit = float(number(answer(a, snr_n), "the limit"))
        expect(limit > snr_n, "a step back leads to a higher signal-to-noise ratio than snr_n")
        for share, sign, what in ((0.99, -1, "one hump just below the limit"), (1.01, 1, "two humps just above it")):
            curvature = _curvature_at_zero(a, snr_n + share * (limit - snr_n), snr_n)
            expect(sign * curvature > 0, f"on a Bayes grid the step back has {what}")
        close(answer(k * a, snr_n / k**2), limit / k**2, "data k times as large need 1/k² of the signal-to-noise ratio")
        increasing([answer(a, snr_n * f) for f in (1, 2, 4)], "the limit increases with snr_n")
        expect(float(number(answer(a, 0.0), "the limit at snr_n = 0")) > 0, "from pure noise some step is possible")


def _bayes_moments(density: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    density = density / torch.trapezoid(density, x)
    mean = torch.trapezoid(x * density, x)
    return mean, torch.trapezoid((x - mean) ** 2 * density, x)


@checker("ddpm-02")
def step_back_of_any_process(answer: Answer) -> None:
    """posterior(x_n, x_0, alpha_m, sigma_m, alpha_n, sigma_n): mean and variance of q(x_m | x_n, x_0)."""
    what = "the mean and the variance"
    for seed in SEEDS:
        generator = torch.Generator().manual_seed(seed)
        alpha_m, sigma_m, alpha_n = (uniform(generator, 0.3, 2) for _ in range(3))
        sigma_n = alpha_n / alpha_m * sigma_m * uniform(generator, 1.1, 3)
        x_n, x_0 = torch.randn(2, generator=generator, dtype=torch.float64).tolist()
        grid = alpha_m * x_0 + sigma_m * torch.linspace(-12, 12, 6001, dtype=torch.float64)
        ratio = alpha_n / alpha_m
        log_density = -((grid - alpha_m * x_0) ** 2) / (2 * sigma_m**2)
        log_density = log_density - (x_n - ratio * grid) ** 2 / (2 * (sigma_n**2 - ratio**2 * sigma_m**2))
        mean, variance = _bayes_moments((log_density - log_density.max()).exp(), grid)
        got = pair(answer(x_n, x_0, alpha_m, sigma_m, alpha_n, sigma_n), what)
        close(got[0], mean, "the mean is that of Bayes' rule on a grid, for any α and σ", rtol=1e-6)
        close(got[1], variance, "the variance is that of Bayes' rule on a grid, for any α and σ", rtol=1e-6)
        mean, variance = pair(answer(x_n, x_0, alpha_m, 0.0, alpha_n, sigma_n), what)
        close(mean, alpha_m * x_0, "at σ_m = 0 the state is the scaled picture")
        close(variance, 0.0, "at σ_m = 0 there is no variance left")
        mean, variance = pair(answer(x_n, x_0, alpha_m, sigma_m, 0.0, sigma_n), what)
        close(mean, alpha_m * x_0, "at α_n = 0 the later state says nothing about the mean")
        close(variance, sigma_m**2, "at α_n = 0 the later state says nothing about the variance")
        mean, _ = pair(answer(1.0, 1.0, 1.0, sigma_m, 1.0, 2 * sigma_m), what)
        close(mean, 1.0, "for α = 1 the mean lies on the line from x_n to x_0")


@checker("ddpm-03")
def upper_variance(answer: Answer) -> None:
    """reverse_variance(c, snr_m, snr_n): the variance of q(x_m | x_n) for data N(0, c²)."""
    for seed in SEEDS:
        generator = torch.Generator().manual_seed(seed)
        snr_n, c = uniform(generator, 0.01, 20), uniform(generator, 0.2, 4)
        snr_m = snr_n * uniform(generator, 1.1, 5)
        (alpha_m, variance_m), (alpha_n, variance_n) = _scales(snr_m), _scales(snr_n)
        beta = variance_n * (1 - snr_n / snr_m)

        spread_m = alpha_m**2 * c**2 + variance_m  # x_m and x_n are jointly Gaussian with these three moments
        together = alpha_n / alpha_m * spread_m
        exact = spread_m - together**2 / (alpha_n**2 * c**2 + variance_n)
        close(answer(c, snr_m, snr_n), exact, "it is the conditional variance of the joint Gaussian of x_m and x_n")
        close(answer(0.0, snr_m, snr_n), beta * variance_m / variance_n, "for data without spread only noise is left")
        close(answer(1.0, snr_m, snr_n), beta, "for data of variance 1 the step back is as random as the step forward")
        increasing([answer(c * f, snr_m, snr_n) for f in (1, 2, 4)], "it increases with the spread of the data")


@checker("ddpm-04")
def shorter_chain(answer: Answer) -> None:
    """shorten(betas, kept): the β of the chain that visits only the steps kept."""
    for seed in SEEDS:
        generator = torch.Generator().manual_seed(seed)
        betas = 0.01 + 0.4 * torch.rand(12, generator=generator, dtype=torch.float64)
        every = list(range(1, 13))
        close(answer(betas, every), betas, "keeping every step changes nothing")
        kept = [*sorted((torch.randperm(11, generator=generator)[:4] + 1).tolist()), 12]
        short = number(answer(betas, kept), "the betas")
        expect(short.shape == (len(kept),), "there is one β for each step kept")
        expect(((short > 0) & (short < 1)).all(), "every β lies between 0 and 1")
        signal, expected = 1.0, []
        for step, beta in enumerate(betas.tolist(), start=1):
            signal *= 1 - beta
            if step in kept:
                expected.append(signal)
        close(
            (1 - short).cumprod(0),
            torch.tensor(expected, dtype=torch.float64),
            "at each step kept α² is that of the long chain",
        )
        close(
            answer(betas, [12]),
            torch.tensor([1 - signal], dtype=torch.float64),
            "one step can do the work of the whole chain",
        )
        expect(float(short.sum()) < float(betas.sum()), "a β is less than the sum of those that it replaces")


@checker("ddpm-05")
def sampled_sum(answer: Answer) -> None:
    """estimate(term, p, draws, generator): the sum of the terms from a sample of them, and its standard error."""
    for seed in SEEDS:
        _sampled_sum(answer, seed)


def _sampled_sum(answer: Answer, seed: int) -> None:
    what, draws, count = "the estimate and its standard error", 4000, 20
    generator, source = (torch.Generator().manual_seed(seed + offset) for offset in (0, 100))
    means = torch.rand(count, generator=generator, dtype=torch.float64) / torch.arange(1, count + 1)

    def quiet(n: Tensor) -> Tensor:
        return means[n]

    def noisy(n: Tensor) -> Tensor:
        return means[n] * (1 + 0.3 * torch.randn(n.shape, generator=source, dtype=torch.float64))

    for p in (torch.full_like(means, 1 / count), (means + means.mean()) / (2 * means.sum())):
        value, error = pair(answer(noisy, p, draws, generator), what)
        exact = math.sqrt(float((1.09 * means**2 / p).sum() - means.sum() ** 2) / draws)
        expect(abs(value - means.sum()) < 5 * exact, "the estimate is unbiased, whatever the probabilities")
        expect(0.8 < error / exact < 1.25, "the standard error is the scatter of the estimate")
    value, error = pair(answer(quiet, means / means.sum(), draws, generator), what)
    close(value, means.sum(), "probabilities in proportion to terms without noise leave no error")
    expect(error < 1e-9, "probabilities in proportion to terms without noise leave no scatter")
    twice = [answer(quiet, p, 50, torch.Generator().manual_seed(seed)) for _ in range(2)]
    expect(pair(twice[0], what)[0] == pair(twice[1], what)[0], "the same generator gives the same estimate")


@checker("ddpm-06")
def mid_grey(answer: Answer) -> None:
    """brightness_std(b, snr, d): what is not known of the brightness after the last step."""
    for seed in SEEDS:
        generator = torch.Generator().manual_seed(seed)
        b, snr = uniform(generator, 0.2, 3), uniform(generator, 1e-3, 3)
        alpha, variance = _scales(snr)
        for d in (1, 2, 7, 40):
            ones = torch.ones(d, dtype=torch.float64)
            seen = alpha**2 * b**2 * torch.outer(ones, ones) + variance * torch.eye(d, dtype=torch.float64)
            left = b**2 - (alpha * b**2) ** 2 * ones @ torch.linalg.solve(seen, ones)
            close(answer(b, snr, d), left.sqrt(), "it is the conditional standard deviation in the joint Gaussian")
        close(answer(b, 0.0, 64), b, "a chain that ends in pure noise tells nothing")
        increasing([-float(number(answer(b, snr, d), "the answer")) for d in (1, 4, 16)], "more pixels tell more")
