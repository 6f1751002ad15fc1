"""Checks of the exercises in *A better variable*."""

from __future__ import annotations

import cmath
import itertools
import math

import torch

from minidiff.checks import Answer, checker, close, expect, increasing, number, uniform

SEEDS = range(5)
F64 = torch.float64


@checker("angle-01")
def nearest_singularity(answer: Answer) -> None:
    """distance(lam, sigma_d): to the nearest zero of σ_d² + e^{−2λ}, found by Newton's method from many starts."""
    for seed in SEEDS:
        generator = torch.Generator().manual_seed(seed)
        sigma_d, lam = uniform(generator, 0.2, 5), math.log(uniform(generator, 0.01, 100))
        found = []
        for height in range(-8, 9):
            z = complex(-math.log(sigma_d), height)
            for _ in range(60):
                e = cmath.exp(-2 * z)
                step = (sigma_d**2 + e) / (2 * e)
                z += step / max(1.0, abs(step))  # no step above 1: far to the right the slope of e^{−2λ} is 0
            if abs(sigma_d**2 + cmath.exp(-2 * z)) < 1e-9 * sigma_d**2:
                found.append(abs(z - lam))
        close(answer(lam, sigma_d), min(found), "it is the distance to the nearest zero that Newton's method finds")
        close(answer(lam + 1.3, sigma_d * math.exp(-1.3)), min(found), "only λ + log σ_d matters")
        expect(float(number(answer(lam, sigma_d), "the distance")) >= math.pi / 2 - 1e-12, "it is never below π/2")


@checker("angle-02")
def weights_in_closed_form(answer: Answer) -> None:
    """weights(theta_s, theta_t, thetas): what they do to powers of cos θ, against Simpson's rule in θ."""
    for seed in SEEDS:
        generator = torch.Generator().manual_seed(seed)
        theta_t = uniform(generator, 0.1, 0.5)
        theta_s = theta_t + uniform(generator, 0.2, 0.6)
        for k in (1, 2, 3, 4):
            thetas = [theta_s + 0.15 * j for j in range(k)]
            w = number(answer(theta_s, theta_t, thetas), "the weights")
            expect(w.shape == (k,), "there is one weight for each node")
            theta = torch.linspace(theta_t, theta_s, 4001, dtype=F64)
            simpson = torch.ones(4001, dtype=F64)
            simpson[1:-1:2], simpson[2:-1:2] = 4, 2
            cosines = torch.tensor(thetas, dtype=F64).cos()
            for m in range(k):
                exact = float((simpson * theta.cos() ** m / theta.sin() ** 2).sum()) * (theta_s - theta_t) / 12000
                what = (
                    "the weights add up to 1 − e^{−h}" if not m else "they integrate powers of cos θ below their number"
                )
                close(w @ cosines**m, math.tan(theta_t) * exact, what, rtol=1e-6)


@checker("angle-03")
def shrinking(answer: Answer) -> None:
    """shrink(s, rs): DDIM on N(0, s²), one step at a time in y = x/α."""
    for seed in SEEDS:
        generator = torch.Generator().manual_seed(seed)
        s = uniform(generator, 0.2, 5)
        rs = sorted((uniform(generator, 0.01, 100) for _ in range(6)), reverse=True)
        for ratios in (rs, [*rs, 0.0]):
            y = math.hypot(s, ratios[0])
            for r_s, r_t in itertools.pairwise(ratios):
                y = r_t / r_s * y + (1 - r_t / r_s) * s**2 / (s**2 + r_s**2) * y
            close(answer(s, ratios), y / math.hypot(s, ratios[-1]), "it agrees with DDIM, run step by step")
        close(answer(s, rs[:1]), 1.0, "no step changes nothing")
        close(answer(2 * s, [2 * r for r in rs]), answer(s, rs), "only the ratio of r to s matters")


@checker("angle-04")
def wrong_scale(answer: Answer) -> None:
    """relative_error(sigma_d, theta_1, theta_2): the extrapolated line, with the exact values of D."""
    for seed in SEEDS:
        generator = torch.Generator().manual_seed(seed)
        sigma_d, theta_2 = uniform(generator, 0.3, 3), uniform(generator, 0.1, 0.6)
        theta_1 = theta_2 + uniform(generator, 0.1, 0.8)
        c = torch.tensor([theta_1, theta_2], dtype=F64).cos()
        r = sigma_d * torch.tensor([theta_1, theta_2], dtype=F64).tan()
        size = 1.7 * (1 + r**2).sqrt()  # the path of the sample 1.7
        values = size / (1 + r**2)  # and the Wiener filter on it
        line = torch.linalg.solve(torch.stack([torch.ones_like(c), c], 1), values)
        what = "it is the error of the line through the two values"
        close(answer(sigma_d, theta_1, theta_2), line.sum() / 1.7 - 1, what)
        close(answer(1.0, theta_1, theta_2), 0.0, "the right scale makes no error")


@checker("angle-05")
def free_node(answer: Answer) -> None:
    """amplification(cosines): what a change of the newest value does to the polynomial at c = 1."""
    for seed in SEEDS:
        generator = torch.Generator().manual_seed(seed)
        cosines = (0.02 + 0.9 * torch.rand(4, generator=generator, dtype=F64)).sort(descending=True).values
        for k in (1, 2, 3, 4):
            nodes = torch.cat([cosines[:k], torch.zeros(1, dtype=F64)])
            change = torch.zeros(k + 1, dtype=F64)
            change[0] = 1
            at_one = torch.linalg.solve(torch.stack([nodes**m for m in range(k + 1)], 1), change).sum()
            what = "it is the polynomial through 1 at the newest node and 0 at the others, at c = 1"
            close(answer(cosines[:k].tolist()), at_one, what, rtol=1e-6)
    increasing([answer([c]) for c in (0.5, 0.1, 0.01)], "an earlier first call is amplified more")


@checker("angle-06")
def measured_order(answer: Answer) -> None:
    """order(counts, errors): the least-squares slope."""
    for seed in SEEDS:
        generator = torch.Generator().manual_seed(seed)
        q, size, counts = uniform(generator, 0.5, 5), uniform(generator, 0.01, 10), [10, 15, 40, 90, 200]
        exact = [size * n**-q for n in counts]
        close(answer(counts, exact), q, "errors K N^{−q} have the order q")
        noisy = [e * (1 + 0.3 * math.sin(7 * n + seed)) for e, n in zip(exact, counts, strict=True)]
        x = torch.tensor([[math.log(n), 1.0] for n in counts], dtype=F64)
        y = torch.tensor([[math.log(e)] for e in noisy], dtype=F64)
        slope = -torch.linalg.lstsq(x, y).solution[0, 0]
        close(answer(counts, noisy), slope, "with noise it is the least-squares slope of log error on log N")
        close(answer(counts, [100 * e for e in noisy]), slope, "the size of the errors does not matter")
