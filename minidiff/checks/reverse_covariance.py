"""Checks of the exercises in *The covariance of a step*."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from minidiff.checks import Answer, checker, close, expect, increasing, normal, number, pair, uniform

SEEDS = range(4)


def _scales(generator: torch.Generator) -> tuple[float, float, float, float]:
    """α_s, σ_s, α_t, σ_t of some process, not variance-preserving, with more signal at t."""
    alpha_s, sigma_s, alpha_t = (uniform(generator, 0.3, 2) for _ in range(3))
    return alpha_s, sigma_s, alpha_t, sigma_s * alpha_t / alpha_s / uniform(generator, 1.2, 4)


@checker("variance-01")
def best_variance(answer: Answer) -> None:
    """best(alpha_s, sigma_s, alpha_t, sigma_t, eta, std): what makes the law of x_t exact on Gaussians."""
    for seed in SEEDS:
        generator = torch.Generator().manual_seed(seed)
        scales = alpha_s, sigma_s, alpha_t, sigma_t = _scales(generator)
        std = uniform(generator, 0.2, 3)
        for eta in (0.0, uniform(generator, 0.1, 0.9), 1.0):
            extra = (eta * sigma_t) ** 2 * (1 - (alpha_s * sigma_t / (alpha_t * sigma_s)) ** 2)
            keep = math.sqrt(sigma_t**2 - extra) / sigma_s  # of x_s; the rest of α_t comes from x_0
            together = keep * alpha_s * std**2 + (alpha_t - keep * alpha_s) * std**2
            seen, aimed = (alpha_s * std) ** 2 + sigma_s**2, (alpha_t * std) ** 2 + sigma_t**2
            cross = alpha_s * together + keep * sigma_s**2  # Cov(x_s, x_t) of the joint Gaussian
            exact = aimed - cross**2 / seen
            close(answer(*scales, eta, std), exact, "it is the conditional variance of x_t in the joint Gaussian")
            close(answer(*scales, eta, 0.0), extra, "for data at a point only the noise of the step is left")
            close(answer(alpha_s, sigma_s, alpha_t, 0.0, eta, std), (alpha_t * std * sigma_s) ** 2 / seen, "σ_t = 0")
        close(answer(0.0, *scales[1:], 1.0, std), aimed, "from pure noise the whole variance has to come back")


@checker("variance-02")
def variance_bounds(answer: Answer) -> None:
    """bounds(snr_s, snr_t, width): the best that can be said of v* at η = 1."""
    what = "the lower and the upper bound"
    z = torch.linspace(-9, 9, 2001, dtype=torch.float64)
    weights = torch.softmax(-(z**2) / 2, 0)
    for seed in SEEDS:
        generator = torch.Generator().manual_seed(seed)
        snr_s = uniform(generator, 0.05, 5)
        snr_t = snr_s * uniform(generator, 1.2, 8)
        least = (1 - snr_s / snr_t) / (1 + snr_t)
        wide = 1e3
        lower, upper = pair(answer(snr_s, snr_t, wide), what)
        close(lower, least, "the lower bound is attained by data at a point")
        close(upper, (1 - snr_s / snr_t) / (1 + snr_s), "without the width the upper bound is attained by a Gaussian")
        for width in (0.3, 1.0, 2.0, 5.0):
            lower, upper = pair(answer(snr_s, snr_t, width), what)
            half = min(1.0, width / 2)  # two points at ±half keep to all facts
            guess = half * torch.tanh(half * math.sqrt(snr_s) * (half * math.sqrt(snr_s) + z))
            error = half**2 - float((weights * guess**2).sum())
            inside = least + snr_t / (1 + snr_t) * (1 - snr_s / snr_t) ** 2 * error
            expect(lower <= inside + 1e-9 and inside <= upper + 1e-9, "two points lie between the bounds")
            linear = half**2 / (1 + snr_s * half**2)
            best = least + snr_t / (1 + snr_t) * (1 - snr_s / snr_t) ** 2 * linear
            expect(upper <= best + 1e-9, "no better linear guess gives a better upper bound")
        increasing([pair(answer(snr_s, snr_t, w), what)[1] for w in (0.2, 0.5, 1.0, 1.9)], "a wider range allows more")


@checker("variance-03")
def analytic_variance(answer: Answer) -> None:
    """analytic(scores, alpha_s, sigma_s, alpha_t, sigma_t): Analytic-DPM's variance from a sample of scores."""
    for seed in SEEDS:
        generator = torch.Generator().manual_seed(seed)
        scales = alpha_s, sigma_s, alpha_t, sigma_t = _scales(generator)
        std = uniform(generator, 0.3, 2)
        seen, aimed = (alpha_s * std) ** 2 + sigma_s**2, (alpha_t * std) ** 2 + sigma_t**2
        x = normal(generator, 500, 3)
        x = x / x.square().mean().sqrt() * math.sqrt(seen)  # so that the sample has the exact second moment
        exact = aimed - (alpha_s / alpha_t * aimed) ** 2 / seen
        close(answer(-x / seen, *scales), exact, "on Gaussian data it is the conditional variance of x_t")
        least = sigma_t**2 * (1 - (alpha_s * sigma_t / (alpha_t * sigma_s)) ** 2)
        close(answer(3 * x / sigma_s**2, *scales), least, "scores that are too large leave the least variance")
        flat = (sigma_s**2 - (alpha_s / alpha_t * sigma_t) ** 2) * (alpha_t / alpha_s) ** 2
        close(answer(0 * x, *scales), flat, "scores of zero leave the variance of data that say nothing")


@checker("variance-04")
def lost_freedom(answer: Answer) -> None:
    """prices(v): nats per pixel lost by a number for each pixel, for each place, and by one for all."""
    for seed in SEEDS:
        generator = torch.Generator().manual_seed(seed)
        pixel, place = normal(generator, 1, 7).exp(), normal(generator, 9, 1).exp()
        both = normal(generator, 9, 7).exp()

        def lost(v: Tensor, used: Tensor) -> Tensor:
            return ((v / used - 1 + (used / v).log()) / 2).mean()  # of a Gaussian with the variance used

        what = "the three prices"
        for v in (both, pixel.expand(9, 7), place.expand(9, 7)):
            got = number(answer(v), what)
            expect(got.shape == (3,), "there are three prices")
            right = torch.stack([lost(v, v.mean(0)), lost(v, v.mean(1, keepdim=True)), lost(v, v.mean())])
            close(got, right, "each is the mean divergence of the best Gaussians of its kind from the exact ones")
            expect(bool((got > -1e-12).all()), "no price is negative")


@checker("variance-05")
def damped_spring(answer: Answer) -> None:
    """covariance(omega, friction, gamma): that of position and velocity given the first position."""
    for seed in SEEDS:
        generator = torch.Generator().manual_seed(seed)
        gamma, friction = uniform(generator, 0.01, 0.8), uniform(generator, 0.3, 6)
        h = 1e-4
        start = torch.diag(torch.tensor([0.0, gamma], dtype=torch.float64))
        close(answer(0.0, friction, gamma), start, "at first only the velocity is random")
        close(answer(80.0, friction, gamma), torch.eye(2), "it ends at the unit matrix", atol=1e-4)
        drift = torch.tensor([[0.0, 1.0], [-1.0, -friction]], dtype=torch.float64)
        for omega in (0.1, 1.0, 3.0):
            before, now, after = (number(answer(omega + k * h, friction, gamma), "the matrix") for k in (-1, 0, 1))
            expect(now.shape == (2, 2), "the answer has shape (2, 2)")
            right = drift @ now + now @ drift.mT + torch.diag(torch.tensor([0.0, 2 * friction], dtype=torch.float64))
            expect(torch.allclose((after - before) / (2 * h), right, atol=1e-6), "it obeys the equation of moments")


@checker("variance-06")
def noise_transport(answer: Answer) -> None:
    """transport(A, noise, covariance, start, stop): how the flow carries the noise."""
    for seed in range(2):
        generator = torch.Generator().manual_seed(seed)
        gamma = uniform(generator, 0.05, 0.8)
        A = torch.tensor([[0.0, 1.0], [-1.0, -2.0]], dtype=torch.float64)
        noise = torch.diag(torch.tensor([0.0, 4.0], dtype=torch.float64))
        left = torch.diag(torch.tensor([1.0, 1.0 - gamma], dtype=torch.float64))

        def covariance(omega: float, A: Tensor = A, left: Tensor = left) -> Tensor:
            unit = torch.eye(2, dtype=torch.float64)
            E = math.exp(-omega) * (unit + omega * (A + unit))  # (A + I)² = 0
            return unit - E @ left @ E.mT

        start, middle, stop = 2.0, 1.3, 0.7
        whole = number(answer(A, noise, covariance, start, stop), "the matrix")
        expect(whole.shape == (2, 2), "the answer has shape (2, 2)")
        carried = whole @ covariance(start) @ whole.mT
        close(carried, covariance(stop), "it takes the covariance of the start to that of the stop", rtol=1e-5)
        h = 1e-3
        small = number(answer(A, noise, covariance, start, start - h), "the matrix")
        rate = A + noise @ torch.linalg.inv(covariance(start - h / 2)) / 2
        expect(
            torch.allclose(small, torch.matrix_exp(-h * rate), atol=1e-6),
            "over a short time it moves with the drift of the flow, rotation included",
        )
        parts = number(answer(A, noise, covariance, middle, stop), "the matrix") @ number(
            answer(A, noise, covariance, start, middle), "the matrix"
        )
        close(parts, whole, "two parts of the way compose to the whole", rtol=1e-5)
