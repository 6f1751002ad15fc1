"""Checks of the exercises in *Denoising is regression*."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from minidiff.checks import Answer, checker, close, expect, increasing, normal, number, uniform

SEEDS = range(5)


@checker("regression-01")
def plus_or_minus(answer: Answer) -> None:
    """guess(x, a, p, alpha, sigma): the mean of ±a given x, by Bayes' rule with both densities written out."""
    what = "the guess"
    for seed in SEEDS:
        generator = torch.Generator().manual_seed(seed)
        a, alpha, sigma = (uniform(generator, low, 2) for low in (0.5, 0.3, 0.5))
        p = float(torch.rand((), generator=generator, dtype=torch.float64)) * 0.8 + 0.1
        x = normal(generator, 50)
        plus, minus = (
            share * (-((x - sign * alpha * a) ** 2) / (2 * sigma**2)).exp() for share, sign in ((p, 1), (1 - p, -1))
        )
        exact = a * (plus - minus) / (plus + minus)
        close(answer(x, a, p, alpha, sigma), exact, "it is the mean of ±a with the weights of Bayes' rule")
        sharp = number(answer(x, a, p, alpha, 1e-4), what + " for σ = 1e-4")
        close(sharp, a * x.sign(), "with hardly any noise the sign decides", rtol=1e-6)
        close(answer(x, a, p, 0.0, sigma), torch.full_like(x, a * (2 * p - 1)), "without signal it is the mean of ±a")
        mirrored = -number(answer(-x, a, 1 - p, alpha, sigma), what)
        close(mirrored, exact, "changing all signs and exchanging the shares changes the sign of the guess")


@checker("regression-02")
def wrong_noise_level(answer: Answer) -> None:
    """error(v, alpha, sigma, told): a linear gain's error, from the joint covariance of x_0 and x_t."""
    for seed in SEEDS:
        generator = torch.Generator().manual_seed(seed)
        v, alpha, sigma, told = (uniform(generator, 0.3, 3) for _ in range(4))
        joint = torch.tensor([[v, alpha * v], [alpha * v, alpha**2 * v + sigma**2]], dtype=torch.float64)
        believed = torch.tensor([[v, alpha * v], [alpha * v, alpha**2 * v + told**2]], dtype=torch.float64)
        residual = torch.tensor([1.0, -float(believed[0, 1] / believed[1, 1])], dtype=torch.float64)
        close(answer(v, alpha, sigma, told), residual @ joint @ residual, "it is the variance of x_0 minus the guess")
        best = float(torch.linalg.inv(joint)[0, 0].reciprocal())
        close(answer(v, alpha, sigma, sigma), best, "told the truth, the error is the conditional variance of x_0")
        for factor in (0.7, 1.5):
            wrong = float(number(answer(v, alpha, sigma, factor * sigma), "the error"))
            expect(wrong > best, "told anything else, the error is larger")
        close(answer(v, alpha, sigma, 0.0), (sigma / alpha) ** 2, "told that there is no noise, all of it is passed on")
        close(answer(v, alpha, sigma, 1e9), v, "told that there is only noise, the mean is returned")
        close(answer(v, 0.0, sigma, told), v, "without signal the best that can be done is the mean")


@checker("regression-03")
def spike_and_slab(answer: Answer) -> None:
    """shrink(z, p, s, r): the posterior mean under a spike at zero and a slab, by quadrature over the slab."""
    grid = torch.linspace(-40, 40, 16001, dtype=torch.float64)
    for seed in SEEDS:
        generator = torch.Generator().manual_seed(seed)
        s, r = uniform(generator, 0.8, 3), uniform(generator, 0.5, 2)
        p = float(torch.rand((), generator=generator, dtype=torch.float64)) * 0.8 + 0.1
        z = 2 * normal(generator, 12)
        seen = (-((z[:, None] - grid) ** 2) / (2 * r**2)).exp()
        slab = seen * (-(grid**2) / (2 * s**2)).exp() / (s * math.sqrt(2 * math.pi))
        spike = (1 - p) * (-(z**2) / (2 * r**2)).exp()
        mean = p * torch.trapezoid(slab * grid, grid) / (p * torch.trapezoid(slab, grid) + spike)
        close(answer(z, p, s, r), mean, "it is the posterior mean, by quadrature", rtol=1e-6, atol=1e-9)
        linear = z * s**2 / (s**2 + r**2)
        close(answer(z, 1.0, s, r), linear, "without a spike it is Wiener's filter")
        far = torch.tensor([60.0, -60.0], dtype=torch.float64)
        close(answer(far, p, s, r), far * s**2 / (s**2 + r**2), "far out it follows Wiener's filter", rtol=1e-6)
        expect((number(answer(z, p, s, r), "the mean").abs() < linear.abs()).all(), "it shrinks more than the slab's")


@checker("regression-04")
def two_looks(answer: Answer) -> None:
    """two_looks(D, z1, r1, z2, r2): the guess from both looks, under a finite data set and its two-factor posterior."""
    for seed in SEEDS:
        generator = torch.Generator().manual_seed(seed)
        points = normal(generator, 6, 3)
        r1, r2 = uniform(generator, 0.3, 2), uniform(generator, 0.3, 2)
        x0 = points[torch.randint(6, (20,), generator=generator)]
        z1, z2 = x0 + r1 * normal(generator, 20, 3), x0 + r2 * normal(generator, 20, 3)
        calls = []

        def logits(z: Tensor, r: float, points: Tensor = points) -> Tensor:
            return -((z[:, None] - points).square().sum(2)) / (2 * r**2)

        def denoiser(z: Tensor, r: float, calls: list[float] = calls, points: Tensor = points) -> Tensor:
            calls.append(r)
            return logits(z, r).softmax(1) @ points

        exact = (logits(z1, r1) + logits(z2, r2)).softmax(1) @ points
        close(answer(denoiser, z1, r1, z2, r2), exact, "it is the mean under the posterior given both looks")
        expect(len(calls) == 1, "the denoiser is called once")
        close(answer(denoiser, z2, r2, z1, r1), exact, "the order of the looks does not matter")
        alone = denoiser(z1, r1)
        close(
            answer(denoiser, z1, r1, z2, 1e6), alone, "a look through endless noise adds nothing", rtol=1e-4, atol=1e-4
        )


@checker("regression-05")
def leave_one_out(answer: Answer) -> None:
    """leave_one_out(points, z, r): row i without candidate i, by a loop that takes the point away."""
    for seed in SEEDS:
        generator = torch.Generator().manual_seed(seed)
        points, r = normal(generator, 7, 3), uniform(generator, 0.5, 2)
        z = points + r * normal(generator, 7, 3)
        rows = []
        for i in range(7):
            others = torch.cat([points[:i], points[i + 1 :]])
            weights = (-((z[i] - others).square().sum(1)) / (2 * r**2)).softmax(0)
            rows.append(weights @ others)
        got = answer(points, z, r)
        close(got, torch.stack(rows), "row i is the guess from a data set without point i")
        nearest = (torch.cdist(points, points) + 1e9 * torch.eye(7)).argmin(1)
        close(answer(points, points, 1e-3), points[nearest], "with hardly any noise it is the nearest other point")
        close(answer(points[:2], z[:2], r), points[[1, 0]], "of two points only the other one is left")


@checker("regression-06")
def price_of_sharpness(answer: Answer) -> None:
    """price(k): the error of an average of k posterior samples, by summing over all of them."""
    generator = torch.Generator().manual_seed(0)
    points, p = normal(generator, 3), torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    spread = (p * (points - (p * points).sum()) ** 2).sum()
    averages, shares = torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    for k in range(1, 6):
        averages = ((k - 1) * averages[:, None] + points).flatten() / k
        shares = (shares[:, None] * p).flatten()
        error = (shares[:, None] * p * (averages[:, None] - points) ** 2).sum()
        close(answer(k), error / spread, "it is the mean over all truths and all candidates of a small posterior")
    increasing([-float(number(answer(k), "the price")) for k in (1, 2, 10, 100)], "more candidates cost less")
    close(answer(10**9), 1.0, "endlessly many candidates are the best guess", rtol=1e-6)


def _growth(points: Tensor, r: float, generator: torch.Generator) -> float:
    """By how much one step of EM with two prototypes stretches a tiny separation, after it has found its direction."""
    mean = points.mean(0)
    offset = normal(generator, points.shape[1])
    for _ in range(60):
        offset = 1e-5 * offset / offset.norm()
        energies = torch.stack([(points - mean - sign * offset).square().sum(1) for sign in (1, -1)], 1)
        share = (-energies / (2 * r**2)).softmax(1)
        moved = share.mT @ points / share.sum(0)[:, None]
        offset = (moved[0] - moved[1]) / 2
    return float(offset.norm()) / 1e-5


@checker("regression-07")
def first_split(answer: Answer) -> None:
    """critical(points): where two prototypes beside the mean begin to move apart under EM."""
    for seed in SEEDS:
        generator = torch.Generator().manual_seed(seed)
        points = normal(generator, 40, 3) * torch.tensor([2.0, 0.7, 0.4], dtype=torch.float64)
        points = points @ torch.linalg.qr(normal(generator, 3, 3))[0] + 3 * normal(generator, 3)
        r = float(number(answer(points), "the critical noise"))
        expect(r > 0, "the critical noise is positive")
        expect(_growth(points, 0.99 * r, generator) > 1, "just below it, prototypes near the mean move apart")
        expect(_growth(points, 1.01 * r, generator) < 1, "just above it, they fall back to the mean")
        close(answer(3 * points + 1), 3 * r, "data three times as large split at three times the noise", rtol=1e-6)
