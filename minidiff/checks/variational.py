"""Checks of the exercises in *From the ELBO to variational diffusion*."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from minidiff.checks import Answer, checker, close, expect, increasing, number, pair, uniform

SEEDS = range(5)


def _best_diagonal_elbo(W: Tensor, s: float, x: Tensor) -> Tensor:
    """The ELBO of x = W z + s n at the best N(mean, diag v), found by Newton steps on each log v."""
    k = W.shape[1]
    mean = torch.linalg.solve(W.T @ W + s**2 * torch.eye(k, dtype=W.dtype), W.T @ x)
    log_v = torch.zeros(k, dtype=W.dtype)

    def elbo(log_v: Tensor) -> Tensor:
        v = log_v.exp()
        error = (x - W @ mean).square().sum() + (W.square().sum(0) * v).sum()
        likelihood = -error / (2 * s**2) - len(x) / 2 * math.log(2 * math.pi * s**2)
        prior = -(mean.square() + v).sum() / 2 - k / 2 * math.log(2 * math.pi)
        return likelihood + prior + (log_v.sum() + k * math.log(2 * math.pi * math.e)) / 2

    for _ in range(60):
        slope = torch.autograd.functional.jacobian(elbo, log_v)
        curvature = torch.autograd.functional.hessian(elbo, log_v).diagonal()
        log_v = log_v - (slope / curvature).clamp(-1, 1)  # the ELBO is concave in each log v
    return elbo(log_v)


@checker("variational-01")
def mean_field(answer: Answer) -> None:
    """gap(W, s): log p(x) − ELBO of the best diagonal Gaussian, for x = W z + s n."""
    for seed in SEEDS:
        generator = torch.Generator().manual_seed(seed)
        d, k = 4, 2 + seed % 2
        W = torch.randn(d, k, generator=generator, dtype=torch.float64)
        s = uniform(generator, 0.3, 2)
        value = number(answer(W, s), "the gap")
        expect(value.shape == (), "the gap is one number, the same for all x")
        axes, _ = torch.linalg.qr(torch.randn(d, d, generator=generator, dtype=torch.float64))
        orthogonal = axes[:, :k] * torch.linspace(0.5, 2, k, dtype=torch.float64)
        close(answer(orthogonal, s), 0.0, "it is zero where the columns of W are orthogonal")
        expect(value > 0, "it is positive where the columns of W are not orthogonal")
        close(answer(axes @ W, s), value, "turning x changes nothing")
        evidence = MultivariateNormal(
            torch.zeros(d, dtype=torch.float64), W @ W.T + s**2 * torch.eye(d, dtype=torch.float64)
        )
        for _ in range(2):
            x = torch.randn(d, generator=generator, dtype=torch.float64)
            loss = evidence.log_prob(x) - _best_diagonal_elbo(W, s, x)
            close(value, loss, "it is log p(x) less the ELBO of the best diagonal encoder", rtol=1e-6)


@checker("variational-02")
def price_of_the_ends(answer: Answer) -> None:
    """price(c, snr_max, snr_min): mean of the continuous bound minus the entropy of N(0, c²)."""
    for seed in SEEDS:
        generator = torch.Generator().manual_seed(seed)
        c, snr_max, snr_min = (uniform(generator, *r) for r in ((0.3, 3), (5, 500), (1e-3, 0.3)))
        value = number(answer(c, snr_max, snr_min), "the price")
        expect(value > 0, "a bound lies above the entropy")
        # The three terms of the bound, and the entropy; the diffusion term by the trapezoidal rule in log SNR.
        alpha2, sigma2 = snr_min / (1 + snr_min), 1 / (1 + snr_min)
        prior = (alpha2 * c**2 + sigma2 - 1 - math.log(sigma2)) / 2
        log_v = torch.linspace(math.log(snr_min), math.log(snr_max), 4001, dtype=torch.float64)
        v = log_v.exp()
        middle = torch.trapezoid(v * c**2 / (1 + c**2 * v), log_v) / 2
        rest = math.log(2 * math.pi * math.e / snr_max) / 2 - math.log(2 * math.pi * math.e * c**2) / 2
        close(value, prior + middle + rest, "it is prior + diffusion + reconstruction − entropy", rtol=1e-5, atol=1e-7)
        increasing(
            [-number(answer(c, snr_max * f, snr_min), "the price") for f in (1, 10, 100)],
            "it falls as the chain comes nearer to the data",
        )
        far = number(answer(c, 1e12, 1e-12), "the price")
        expect(abs(far) < 1e-9, "it vanishes when both ends are far out")
        one = [number(answer(1.0, 1e12, low), "the price") for low in (0.01, 0.1, 1.0)]
        expect(max(abs(x) for x in one) < 1e-9, "data of variance 1 make the noisy end free")


@checker("variational-03")
def equal_information(answer: Answer) -> None:
    """snr(t, c, snr_max, snr_min): the integrand of the continuous bound is the same at every t."""
    for seed in SEEDS:
        generator = torch.Generator().manual_seed(seed)
        c, snr_max, snr_min = (uniform(generator, *r) for r in ((0.3, 3), (5, 500), (1e-3, 0.3)))
        t = torch.linspace(0, 1, 41, dtype=torch.float64)
        ratio = number(answer(t, c, snr_max, snr_min), "the schedule")
        expect(ratio.shape == t.shape, "there is one ratio for each time")
        close(ratio[0], snr_max, "it starts at snr_max")
        close(ratio[-1], snr_min, "it ends at snr_min")
        increasing((-ratio).tolist(), "it falls with t")
        moving = t.clone().requires_grad_()
        (slope,) = torch.autograd.grad(answer(moving, c, snr_max, snr_min).sum(), moving)
        integrand = -slope / 2 * c**2 / (1 + c**2 * ratio)
        close(
            integrand,
            integrand.mean().expand_as(integrand),
            "−½ SNR′ times the exact squared error is the same at every t",
            rtol=1e-9,
        )
        v = torch.linspace(math.log(snr_min), math.log(snr_max), 4001, dtype=torch.float64).exp()
        total = torch.trapezoid(v * c**2 / (1 + c**2 * v), v.log()) / 2
        close(integrand.mean(), total, "the integral is that of any other schedule", rtol=1e-5)


@checker("variational-04")
def finite_chain(answer: Answer) -> None:
    """chain_bound(snr, c, d): the sum of the mean divergences of the steps, for data N(0, c² I)."""
    for seed in SEEDS:
        generator = torch.Generator().manual_seed(seed)
        c, d = uniform(generator, 0.3, 3), 3
        logs = torch.linspace(5, -4, 8, dtype=torch.float64)
        snr = (logs + 0.3 * torch.rand(8, generator=generator, dtype=torch.float64)).exp()
        value = number(answer(snr, c, d), "the bound")
        expect(value.shape == (), "the bound is one number")
        total = 0.0
        for near, far in zip(snr[:-1].tolist(), snr[1:].tolist(), strict=True):
            # E KL between N(m, v) given the data and N(m̂, v), from the joint Gaussian of x_0, x_t and x_s with α = 1.
            variance_t, variance_s = 1 / near, 1 / far
            gain = (variance_s - variance_t) / variance_s  # weight of x_0 in the mean of x_t given x_s and x_0
            step = variance_t * (variance_s - variance_t) / variance_s
            left = c**2 * variance_s / (c**2 + variance_s)  # Var[x_0 | x_s]
            total += d * gain**2 * left / (2 * step)
        close(value, total, "it is the sum of the mean divergences of the steps")
        refined = torch.cat([snr, (snr[:-1] * snr[1:]).sqrt()]).sort(descending=True).values
        expect(float(number(answer(refined, c, d), "the bound")) < float(value), "more steps make it smaller")
        information = d * math.log((1 + c**2 * float(snr[0])) / (1 + c**2 * float(snr[-1]))) / 2
        expect(float(value) > information, "it lies above its limit of infinitely many steps")
        close(answer(snr, c, 2 * d), 2 * value, "twice as many coordinates cost twice as much")


@checker("variational-05")
def low_discrepancy(answer: Answer) -> None:
    """estimate(g, n, generator): the mean of g over n low-discrepancy times."""
    for seed in SEEDS:
        generator = torch.Generator().manual_seed(seed)
        n = 4 + seed
        seen: list[Tensor] = []

        def watched(u: Tensor, seen: list[Tensor] = seen) -> Tensor:
            seen.append(number(u, "the times"))
            return u

        values = [number(answer(watched, n, generator), "the estimate") for _ in range(400)]
        expect(all(v.shape == () for v in values), "the estimate is one number")
        u = torch.stack([x.flatten() for x in seen])
        expect(u.shape == (400, n), "g is asked at n times")
        expect(((u >= 0) & (u < 1)).all(), "times lie in [0, 1)")
        steps = u.sort(1).values.diff(dim=1)
        close(steps, torch.full_like(steps, 1 / n), "neighbouring times are 1/n apart")
        error = float(torch.stack(values).std()) / 20
        expect(abs(float(torch.stack(values).mean()) - 0.5) < 5 * error + 1e-12, "the estimate is unbiased")
        each = u.mean(0)
        expect(((each - 0.5).abs() < 5 * 0.29 / 20).all(), "each of the times alone is uniform")

        def wave(u: Tensor, k: int = n - 1) -> Tensor:
            return torch.cos(2 * math.pi * k * u) + 2

        close(answer(wave, n, generator), 2.0, "a wave whose number n does not divide is integrated exactly")
        twice = [answer(watched, n, torch.Generator().manual_seed(seed)) for _ in range(2)]
        expect(float(twice[0]) == float(twice[1]), "the same generator gives the same estimate")


@checker("variational-06")
def between_two_neighbours(answer: Answer) -> None:
    """sandwiched(below, above, a, b): mean and variance of z_n given z_{n−1} and z_{n+1}."""
    what = "the mean and the variance"
    for seed in SEEDS:
        generator = torch.Generator().manual_seed(seed)
        a, b = uniform(generator, 0.3, 2), uniform(generator, 0.3, 1.5)
        below, above = torch.randn(2, generator=generator, dtype=torch.float64).tolist()
        z = torch.linspace(-20, 20, 20_001, dtype=torch.float64)
        density = torch.exp(-((z - a * below) ** 2 + (above - a * z) ** 2) / (2 * b**2))
        density = density / torch.trapezoid(density, z)
        mean = torch.trapezoid(z * density, z)
        got = pair(answer(below, above, a, b), what)
        close(got[0], mean, "the mean is that of Bayes' rule on a grid", rtol=1e-6, atol=1e-8)
        variance = torch.trapezoid((z - mean) ** 2 * density, z)
        close(got[1], variance, "the variance is that of Bayes' rule on a grid", rtol=1e-6)
        mean, variance = pair(answer(below, above, 0.0, b), what)
        close(mean, 0.0, "without memory the neighbours say nothing about the mean")
        close(variance, b**2, "without memory the neighbours say nothing about the variance")
