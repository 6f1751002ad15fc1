"""Checks of the exercises in *Sampling is solving an ODE*."""

from __future__ import annotations

import math

import torch

from minidiff.checks import Answer, checker, close, expect, increasing, normal, number, pair, uniform
from minidiff.process import CosineVP, LinearVP, RectifiedFlow, TrigFlow

SEEDS = range(5)
F64 = torch.float64


@checker("solve-01")
def reused_noise(answer: Answer) -> None:
    """coefficients(alpha_s, sigma_s, alpha_t, sigma_t, c): the a and b of a step with the right marginal."""
    what = "the coefficients a and b"
    for seed in SEEDS:
        generator = torch.Generator().manual_seed(seed)
        alpha_s, sigma_s, alpha_t, sigma_t, x_0 = (uniform(generator, 0.2, 2) for _ in range(5))
        for share in (0.0, 0.3, 0.8, 1.0):
            c = share * sigma_t
            a, b = pair(answer(alpha_s, sigma_s, alpha_t, sigma_t, c), what)
            expect(a >= 0, "a is not negative")
            # The two moments of a x_s + b x_0 + c z, from the joint covariance of (x_s, z) given x_0.
            row = torch.tensor([float(a), c], dtype=F64)
            covariance = torch.diag(torch.tensor([sigma_s**2, 1.0], dtype=F64))
            close(row @ covariance @ row, sigma_t**2, "given x_0 the variance of x_t is σ_t²")
            close(a * alpha_s * x_0 + b * x_0, alpha_t * x_0, "given x_0 the mean of x_t is α_t x_0")
        close(answer(alpha_s, sigma_s, alpha_t, sigma_t, sigma_t)[0], 0.0, "with c = σ_t nothing of x_s is used")


@checker("solve-02")
def step_from_a_velocity(answer: Answer) -> None:
    """ddim_step(x, u, process, s, t): α_t x̂_0 + σ_t ε̂ from the velocity u at s."""
    for process in (RectifiedFlow(), CosineVP(), LinearVP(), TrigFlow(0.5)):
        generator = torch.Generator().manual_seed(0)
        x0, eps = normal(generator, 3, 2), normal(generator, 3, 2)
        s, t = torch.tensor(0.7, dtype=F64), torch.tensor(0.3, dtype=F64)
        x = process.alpha(s) * x0 + process.sigma(s) * eps
        u = torch.func.jvp(lambda r: process.alpha(r) * x0 + process.sigma(r) * eps, (s,), (torch.ones_like(s),))[1]  # noqa: B023
        there = process.alpha(t) * x0 + process.sigma(t) * eps
        close(answer(x, u, process, s, t), there, "with the true velocity the step stays on the line of x_0 and ε")
        close(answer(x, u, process, s, s), x, "a step of length zero changes nothing")
        there = answer(x, u, process, s, torch.zeros((), dtype=F64))
        close(there, float(process.alpha(torch.zeros((), dtype=F64))) * x0, "a step to t = 0 ends at the picture")
    u = normal(generator, 3, 2)
    close(
        answer(x, u, RectifiedFlow(), s, t), x + (t - s) * u, "on the straight line it is Euler's step, whatever u is"
    )


@checker("solve-03")
def order_without_truth(answer: Answer) -> None:
    """observed_order(solve, n): the order from runs with n, 2n and 4n steps."""
    for seed in SEEDS:
        generator = torch.Generator().manual_seed(seed)
        end, first, second = (normal(generator, 4, 3) for _ in range(3))
        for order in (1, 2, 3):
            asked = []

            def solve(n: int, order: int = order, asked: list[int] = asked) -> torch.Tensor:
                asked.append(n)
                return end + first * n**-order + 0.1 * second * n ** -(order + 1)  # noqa: B023

            got = float(number(answer(solve, 40), "the order"))
            expect(abs(got - order) < 0.05, "a method of a known order is found out, whatever its constant is")
            expect(sorted(set(asked)) == [40, 80, 160], "it runs n, 2n and 4n steps and nothing else")

        def decay(n: int) -> torch.Tensor:
            return torch.tensor([(1 - 1 / n) ** n, (1 - 2 / n) ** n], dtype=F64)

        expect(abs(float(number(answer(decay, 64), "the order")) - 1) < 0.1, "Euler's method has order one")


def _contraction(theta_t: float, theta_s: float) -> float:
    """The slope of the iteration on N(0, 1) with α = 1, from the formula of the step."""
    r_t, r_s = math.tan(theta_t), math.tan(theta_s)
    return (1 - r_s / r_t) / (1 + r_s**2)


@checker("solve-04")
def iterated_round_trip(answer: Answer) -> None:
    """round_trip(theta_t, theta_s, k): one step up with k iterations, and down."""
    for seed in SEEDS:
        generator = torch.Generator().manual_seed(seed)
        theta_t = uniform(generator, 0.1, 0.8)
        theta_s = theta_t + uniform(generator, 0.05, 0.6)
        r_t, r_s = math.tan(theta_t), math.tan(theta_s)
        for k in range(6):
            y = r_s / r_t + (1 - r_s / r_t) / (1 + r_t**2)  # from y_t = 1, with D = y/(1 + r²)
            for _ in range(k):
                y = r_s / r_t + (1 - r_s / r_t) / (1 + r_s**2) * y
            back = r_t / r_s * y + (1 - r_t / r_s) * y / (1 + r_s**2)
            what = "without iterations both ways shrink alike" if k == 0 else "it is the trip computed step by step"
            close(answer(theta_t, theta_s, k), back, what)
        close(answer(theta_t, theta_t, 3), 1.0, "a step of no angle returns everything")


@checker("solve-05")
def weights_for_any_grids(answer: Answer) -> None:
    """weights(p, multiples): the sum loses as many powers as possible."""
    for multiples in ((1, 2), (1, 2, 4), (1, 2, 3), (2, 3, 7), (1,)):
        for p in (1, 2, 3):
            w = number(answer(p, multiples), "the weights")
            expect(w.shape == (len(multiples),), "there is one weight for each run")
            close(w.sum(), 1.0, "the weights add up to one, so that the limit is kept", rtol=1e-6)
            m = torch.tensor(multiples, dtype=F64)
            for q in range(p, p + len(multiples) - 1):
                left = float((w * m**q).sum() / (w.abs() * m**q).sum())
                expect(abs(left) < 1e-9, "the powers from h^p on cancel, as many as possible")
    close(answer(2, (1, 2)), torch.tensor([4 / 3, -1 / 3], dtype=F64), "two grids of a method of order two are known")


@checker("solve-06")
def longest_contracting_step(answer: Answer) -> None:
    """longest(theta_t): up to which angle the fixed-point iteration converges."""
    for theta_t in (0.01, 0.05, 0.12, 0.25, 0.32):
        end = float(number(answer(theta_t), "the angle"))
        expect(theta_t < end <= math.pi / 2 + 1e-12, "the angle lies between θ_t and π/2")
        within = [theta_t + share * (end - theta_t) for share in (0.2, 0.5, 0.9, 0.999)]
        slopes = [abs(_contraction(theta_t, theta)) for theta in within]
        expect(max(slopes) < 1, "below the angle the iteration contracts")
        expect(abs(_contraction(theta_t, end + 1e-4)) > 1, "just above the angle it does not")
    for theta_t in (0.36, 0.8, 1.4):
        close(answer(theta_t), math.pi / 2, "with enough noise in x_t every step contracts")
    increasing([answer(theta) for theta in (0.05, 0.1, 0.2, 0.3)], "more noise allows a longer step")
