"""Checks of the exercises in *Flow matching and rectified flow*."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from minidiff.checks import Answer, CheckFailed, checker, close, expect, increasing, normal, number, pair, uniform
from minidiff.denoiser import Prediction, convert
from minidiff.process import RectifiedFlow

SEEDS = range(5)


@checker("flow-01")
def rectified_without_score(answer: Answer) -> None:
    """rectified(x, t, s): the denoiser, the velocity and the true score for x_0 = s ε on the straight line."""
    line = torch.linspace(-12, 12, 4001, dtype=torch.float64)
    for seed in SEEDS:
        generator = torch.Generator().manual_seed(seed)
        s, t = uniform(generator, 0.3, 3), uniform(generator, 0.1, 0.9)
        eps = normal(generator, 7, 1)
        x = (1 - t) * s * eps + t * eps

        def values(x: Tensor, t: float, s: float = s) -> list[Tensor]:
            got = answer(x, t, s)
            if not isinstance(got, list | tuple) or len(got) != 3:
                raise CheckFailed(f"the answer must return denoiser, velocity and score, got {type(got).__name__}")
            return [number(value, what) for value, what in zip(got, ("D", "the velocity", "the score"), strict=True)]

        denoised, velocity, score = values(x, t)
        close(denoised, s * eps, "the denoiser returns the x_0 that belongs to x")
        earlier = t * uniform(generator, 0.1, 0.9)
        there = (1 - earlier) * s * eps + earlier * eps
        close(x + (earlier - t) * velocity, there, "one Euler step is exact, from any time to any other")
        clock = torch.tensor(t, dtype=torch.float64)
        names: tuple[Prediction, ...] = ("eps", "v")
        for name in names:
            by_x0 = convert(denoised, x, clock, RectifiedFlow(), "x0", name)
            by_velocity = convert(velocity, x, clock, RectifiedFlow(), "velocity", name)
            close(by_x0, by_velocity, f"denoiser and velocity convert to the same {name}")
        _continuity(values, line, t, s)
        std = float(((1 - t) * s * eps + t * eps).norm() / eps.norm())
        close(score, -x / std**2, "the score is the derivative of the logarithm of the density of x_t")
        lie = convert(denoised, x, clock, RectifiedFlow(), "x0", "score")
        expect((score - lie).abs().max() > 1e-3, "the true score is not what the conversion calls the score")
        close(values(eps, 1.0)[2], -eps, "at t = 1 the score is that of the noise")


def _continuity(values: Answer, line: Tensor, t: float, s: float) -> None:
    """∂p/∂t + ∂(pu)/∂x = 0 by differences, p the density of ((1 − t) s + t) ε."""

    def density(t: float) -> Tensor:
        std = (1 - t) * s + t
        return torch.exp(-(line**2) / (2 * std**2)) / (math.sqrt(2 * math.pi) * std)

    slope = (density(t + 1e-5) - density(t - 1e-5)) / 2e-5
    current = density(t) * values(line[:, None], t)[1][:, 0]
    outflow = torch.gradient(current, spacing=float(line[1] - line[0]))[0]
    error = (slope + outflow).abs().max() / (slope.abs().max() + 1e-3)
    expect(error < 2e-3, "density and velocity obey the continuity equation")


@checker("flow-02")
def euler_on_a_gaussian(answer: Answer) -> None:
    """euler_std(s, times): the standard deviation that Euler's method makes from N(0, 1)."""
    for seed in SEEDS:
        generator = torch.Generator().manual_seed(seed)
        s = uniform(generator, 0.3, 3)
        inner = torch.rand(6, generator=generator, dtype=torch.float64).sort(descending=True).values
        grid = [1.0, *inner.tolist(), 0.0]
        state = 1.0
        for now, then in itertools.pairwise(grid):
            variance = (1 - now) ** 2 * s**2 + now**2
            denoised = (1 - now) * s**2 / variance * state  # the Wiener filter
            noise = now / variance * state
            state = state + (then - now) * (noise - denoised)
        close(answer(s, grid), state, "each step follows ε̂ − x̂_0 of the Wiener filter")
        close(answer(s, [1.0, 0.0]), 0.0, "one step returns the mean of the data")
        errors = [abs(float(number(answer(s, [1 - i / n for i in range(n + 1)]), "it")) - s) for n in (200, 400)]
        expect(1.8 < errors[0] / errors[1] < 2.2, "twice the steps have half the error")


@checker("flow-03")
def least_loss_of_the_circle(answer: Answer) -> None:
    """least_loss(s): the mean variance of the conditional velocity around its mean, by regression on a grid of t."""
    angle = (torch.arange(2000, dtype=torch.float64) + 0.5) / 2000 * math.pi / 2
    alpha, sigma = angle.cos(), angle.sin()
    for seed in SEEDS:
        s = uniform(torch.Generator().manual_seed(seed), 0.3, 3)
        target = (math.pi / 2) ** 2 * (sigma**2 * s**2 + alpha**2)  # the second moment of α′x_0 + σ′ε
        with_state = math.pi / 2 * (-sigma * alpha * s**2 + alpha * sigma)  # and its covariance with x_t
        left = target - with_state**2 / (alpha**2 * s**2 + sigma**2)
        close(answer(s), left.mean(), "it is what linear regression on x_t leaves, averaged over t", rtol=1e-5)
        close(answer(2 * s), 2 * number(answer(s), "the loss"), "it is in proportion to s", rtol=1e-6)
    expect(number(answer(1.0), "the loss") > math.pi / 2, "the circle has a larger constant than the line")


@checker("flow-04")
def flow_by_quantiles(answer: Answer) -> None:
    """quantile_flow(eps, weights, means, stds): where the flow on a line ends."""
    for seed in SEEDS:
        generator = torch.Generator().manual_seed(seed)
        weights = torch.rand(3, generator=generator, dtype=torch.float64) + 0.2
        weights = weights / weights.sum()
        means, stds = 2 * normal(generator, 3), 0.2 + torch.rand(3, generator=generator, dtype=torch.float64)
        eps = normal(generator, 50).sort().values
        ends = number(answer(eps, weights, means, stds), "the end points")
        expect(ends.shape == eps.shape, "there is one end point for each noise")
        increasing(ends.tolist(), "particles on a line keep their order")
        mass = sum(w * torch.special.ndtr((ends - m) / s) for w, m, s in zip(weights, means, stds, strict=True))
        close(mass, torch.special.ndtr(eps), "as much of the data lies below as of the noise", rtol=0, atol=1e-7)
        one = torch.ones(1, dtype=torch.float64)
        close(answer(eps, one, 0.7 * one, s := stds[:1]), 0.7 + s * eps, "for one Gaussian it is linear", atol=1e-7)
        flipped = number(answer(-eps, weights, -means, stds), "the end points")
        close(flipped, -ends, "mirrored data and noise end in the mirror", rtol=0, atol=1e-7)


@checker("flow-05")
def gaussian_budget(answer: Answer) -> None:
    """budget(s, rho): curvature and constant of a jointly Gaussian coupling."""
    t = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    for seed in SEEDS:
        generator = torch.Generator().manual_seed(seed)
        s = uniform(generator, 0.3, 3)
        rho = 1.7 * float(torch.rand((), generator=generator, dtype=torch.float64)) - 0.85
        curvature, constant = pair(answer(s, rho), "the curvature and the constant")
        cost = 1 + s**2 - 2 * rho * s
        variance = (1 - t) ** 2 * s**2 + t**2 + 2 * t * (1 - t) * rho * s
        together = t - (1 - t) * s**2 + (1 - 2 * t) * rho * s  # the covariance of ε − x_0 with x_t
        close(constant, (cost - together**2 / variance).mean(), "the constant is what regression leaves", rtol=1e-6)
        close(curvature + constant + (1 - s) ** 2, cost, "flow, curvature and constant add up to the cost", rtol=1e-6)
        speed = together / variance.sqrt()  # of the standard deviation, which every particle follows
        close(curvature, (speed - (1 - s)).square().mean(), "the curvature is that of √V_t", rtol=1e-5)
        sorted_pairs = pair(answer(s, 1.0), "the curvature and the constant")
        close(torch.stack(sorted_pairs), torch.zeros(2), "for ρ = 1 both are zero", atol=1e-9)


@checker("flow-06")
def noise_for_linear_variance(answer: Answer) -> None:
    """noise_on_the_way(s, rho, t): γ_t that makes the variance of the interpolant linear."""
    for seed in SEEDS:
        generator = torch.Generator().manual_seed(seed)
        s, t = uniform(generator, 0.3, 3), uniform(generator, 0.05, 0.95)
        rho = 1.8 * float(torch.rand((), generator=generator, dtype=torch.float64)) - 0.9
        gamma = number(answer(s, rho, t), "γ")
        expect(gamma >= 0, "γ is not negative")
        moments = torch.tensor([[s**2, rho * s, 0], [rho * s, 1, 0], [0, 0, 1]], dtype=torch.float64)
        scales = torch.tensor([1 - t, t, float(gamma)], dtype=torch.float64)
        close(scales @ moments @ scales, (1 - t) * s**2 + t, "the variance runs linearly from s² to 1")
        for end in (0.0, 1.0):
            close(answer(s, rho, end), 0.0, "it vanishes at both ends")
        close(answer(1.0, 1.0, t), 0.0, "equal variances, perfectly coupled, need none", atol=1e-7)


@checker("flow-07")
def proportional_fitting(answer: Answer) -> None:
    """fitted(p, q, kernel, sweeps): the joint law after that many sweeps."""
    for seed in SEEDS:
        generator = torch.Generator().manual_seed(seed)
        p, q, kernel = (torch.rand(n, generator=generator, dtype=torch.float64) + 0.1 for n in (5, 4, (5, 4)))
        p, q = p / p.sum(), q / q.sum()
        gaps = []
        for sweeps in (1, 2, 3):
            plan = number(answer(p, q, kernel, sweeps), "the joint law")
            expect(plan.shape == kernel.shape, "the joint law has the shape of the kernel")
            close(plan.sum(0), q, "the columns, set last, are exact after every sweep")
            ratio = (plan / kernel).log()
            mixed = ratio - ratio.mean(0) - ratio.mean(1, keepdim=True) + ratio.mean()
            expect(mixed.abs().max() < 1e-9, "it is the kernel with rescaled rows and columns")
            gaps.append(-float((plan.sum(1) - p).abs().sum()))
        increasing(gaps, "each sweep brings the rows closer")
        first = kernel * (p / kernel.sum(1))[:, None]
        close(answer(p, q, kernel, 1), first * (q / first.sum(0)), "one sweep sets the rows, then the columns")
        close(answer(p, q, kernel, 200).sum(1), p, "in the end the rows are right too", rtol=1e-6)
        tilted = kernel * (0.5 + torch.rand(5, 1, generator=generator, dtype=torch.float64))
        close(answer(p, q, tilted, 3), plan, "a factor of x alone changes nothing")


@checker("flow-08")
def weight_of_logit_normal_times(answer: Answer) -> None:
    """effective_weight(lam, m, s): the factor of |x_0 − x̂_0|² at λ."""
    t = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    lam_of_t = torch.log((1 - t) / t)
    for seed in SEEDS:
        generator = torch.Generator().manual_seed(seed)
        m, s = float(normal(generator)), uniform(generator, 0.4, 1.2)
        lam = torch.linspace(-14, 14, 20_001, dtype=torch.float64)
        weight = number(answer(lam, m, s), "the weight")
        expect(weight.shape == lam.shape, "there is one weight for each λ")
        expect((weight > 0).all(), "the weight is positive")
        density = torch.exp(-((torch.logit(t) - m) ** 2) / (2 * s**2)) / (s * math.sqrt(2 * math.pi) * t * (1 - t))
        for error in (lambda v: torch.sigmoid(-v) ** 2, lambda v: 1 / (torch.cosh(v) ** 2 + v)):
            of_times = (density * error(lam_of_t) / t**2).mean()
            of_noise = torch.trapezoid(weight * error(lam), lam)
            close(of_noise, of_times, "the loss over λ is the loss over t, for any error", rtol=1e-3)


@checker("flow-09")
def saving_of_a_batch(answer: Answer) -> None:
    """saving(x0, eps, batch): the share of the squared distance that assignment saves."""
    for seed in SEEDS:
        generator = torch.Generator().manual_seed(seed)
        x0, eps = 0.7 * normal(generator, 12, 3), normal(generator, 12, 3)
        total = float((x0 - eps).square().sum())
        close(answer(x0, eps, 1), 0.0, "batches of one save nothing", atol=1e-9)
        least = 0.0
        for a, b in zip(x0.split(4), eps.split(4), strict=True):
            orders = itertools.permutations(range(4))
            least += min(float((a - b[list(order)]).square().sum()) for order in orders)
        close(answer(x0, eps, 4), 1 - least / total, "in each batch it is the best of all orders", rtol=1e-6)
        expect(answer(x0, eps, 12) >= answer(x0, eps, 4), "one large batch saves at least as much as three small ones")
        a, b = normal(generator, 60, 1), normal(generator, 60, 1)
        by_sorting = float((a.sort(0).values - b.sort(0).values).square().sum() / (a - b).square().sum())
        close(answer(a, b, 60), 1 - by_sorting, "in one dimension it is what sorting saves", rtol=1e-6)
