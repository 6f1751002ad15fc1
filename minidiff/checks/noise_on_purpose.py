"""Checks of the exercises in *Noise on purpose*."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import torch
from torch import Tensor

from minidiff import samplers
from minidiff.affine_law import affine_law
from minidiff.analytic import Gaussian, GaussianMixture
from minidiff.checks import Answer, checker, close, expect, increasing, number, uniform
from minidiff.process import EDM, CosineVP, LinearVP

SEEDS = range(3)
F64 = torch.float64


@checker("noise-01")
def noise_level_of_ddim(answer: Answer) -> None:
    """tau_of_eta(eta, h): the τ whose step of length h is DDIM's with η."""
    for seed in SEEDS:
        generator = torch.Generator().manual_seed(seed)
        h, eta = uniform(generator, 0.05, 2), uniform(generator, 0.1, 0.95)
        close(answer(1.0, h), 1.0, "η = 1 is τ = 1 for every step")
        close(answer(0.0, h), 0.0, "η = 0 is τ = 0")
        short = number(answer(eta, 1e-6), "τ")
        close(short, eta, "for short steps the two are the same", rtol=1e-5)
        tau = float(number(answer(eta, h), "τ"))
        process = CosineVP()
        grid = process.time(torch.tensor([-0.3, -0.3 + h], dtype=F64))
        D = GaussianMixture(process, torch.ones(2), torch.tensor([[-1.0], [1.0]], dtype=F64), stds=0.4)
        x = torch.randn(4, 1, generator=generator, dtype=F64)
        ends = [
            samplers.last(step)
            for step in (
                samplers.ddim(D, x, grid, eta=eta, generator=torch.Generator().manual_seed(1)),
                samplers.sa_solver(
                    D, x, grid, tau=tau, order=1, corrector=False, generator=torch.Generator().manual_seed(1)
                ),
            )
        ]
        close(ends[0], ends[1], "the package's two samplers make the same step", rtol=1e-7, atol=1e-9)
    increasing([-float(number(answer(0.8, h), "τ")) for h in (0.1, 1.0, 5.0, 20.0)], "τ falls as the steps grow")


@checker("noise-02")
def loops_of_restart(answer: Answer) -> None:
    """loops(c, r_a, r_b, factor): how many loops leave at most `factor` of a shift."""
    for seed in SEEDS:
        generator = torch.Generator().manual_seed(seed)
        c, r_b = uniform(generator, 0.2, 2), uniform(generator, 0.05, 0.5)
        r_a = r_b * uniform(generator, 3, 10)
        D = Gaussian(EDM(), torch.zeros(1, dtype=F64), std=c)
        top, bottom = EDM().time(-torch.tensor([r_a, r_b], dtype=F64).log())
        once = float(D.flow(torch.ones(1, 1, dtype=F64), top, bottom))
        for factor in (0.9, 0.3, 0.02):
            count = float(number(answer(c, r_a, r_b, factor), "the number of loops"))
            expect(count == int(count) and count >= 1, "it is a whole number of loops, at least one")
            expect(once**count <= factor, "after that many loops no more than the part asked for is left")
            expect(once ** (count - 1) > factor, "one loop fewer would not be enough")


@checker("noise-03")
def corrector_step(answer: Answer) -> None:
    """corrector(D, x, t, snr, steps, draw): Langevin with ε = (2 snr σ)²."""
    for seed, process in enumerate((LinearVP(), EDM(), CosineVP())):
        generator = torch.Generator().manual_seed(seed)
        D = GaussianMixture(process, torch.ones(2), torch.tensor([[-1.0, 0.2], [1.0, 0.5]], dtype=F64), stds=0.4)
        t = torch.tensor(uniform(generator, 0.3, 0.8), dtype=F64)
        x = torch.randn(5, 2, generator=generator, dtype=F64)
        snr, sigma = uniform(generator, 0.05, 0.5), float(process.sigma(t))
        step = (2 * snr * sigma) ** 2
        still = answer(D, x, t, snr, 1, lambda x=x: torch.zeros_like(x))
        close(still, x + step / 2 * D.score(x, t), "without noise one update moves by ε/2 times the score", rtol=1e-7)
        drawn = itertools.count()

        def ones(x: Tensor = x, drawn: Iterator[int] = drawn) -> Tensor:
            next(drawn)
            return torch.ones_like(x)

        kicked = answer(D, x, t, snr, 1, ones)
        close(kicked - still, torch.full_like(x, math.sqrt(step)), "the noise of one update is √ε z")
        answer(D, x, t, snr, 3, ones)
        expect(next(drawn) == 4, "each update draws its own noise")
        noise = torch.Generator().manual_seed(7)
        ours = samplers.last(samplers.langevin(D, x, t, step=step, steps=3, generator=torch.Generator().manual_seed(7)))
        theirs = answer(D, x, t, snr, 3, lambda x=x, noise=noise: torch.randn(x.shape, generator=noise, dtype=F64))
        close(theirs, ours, "several updates are the package's Langevin", rtol=1e-7, atol=1e-9)


@checker("noise-04")
def exact_error_of_one_value(answer: Answer) -> None:
    """end_error(c, lam, tau, n): the relative error of the variance after n steps with one value."""
    process, what = LinearVP(), "the error"
    for c, lam, tau, n in ((0.6, (-2.0, 1.5), 0.0, 5), (1.3, (-1.0, 2.0), 1.0, 8), (0.8, (-2.5, 1.0), 1.7, 6)):
        T = process.time(torch.linspace(*lam, n + 1, dtype=F64))
        D = Gaussian(process, torch.zeros(1, dtype=F64), std=c)

        def run(x: Tensor, g: torch.Generator, D: Gaussian = D, T: Tensor = T, tau: float = tau) -> Tensor:
            return samplers.last(samplers.sa_solver(D, x, T, tau=tau, order=1, corrector=False, generator=g))

        law = affine_law(run, n)
        v = ((process.alpha(T) * c) ** 2 + process.sigma(T) ** 2).tolist()
        expected = law.variance(v[0]) / v[-1] - 1
        found = number(answer(c, lam, tau, n), what)
        expect(found < 0, "a step with one value always loses variance")
        close(found, expected, "it is the relative error that the package's sampler has", rtol=1e-6)
    coarse, fine = (float(number(answer(1.0, (-3.0, 3.0), 1.0, n), what)) for n in (200, 400))
    expect(1.9 < coarse / fine < 2.1, "halving every step halves the error")


@checker("noise-05")
def least_useful_noise(answer: Answer) -> None:
    """worst_noise(omega): the τ² ≥ 0 at which (1 + τ²) ω^{τ²} is largest."""
    grid = torch.linspace(0, 60, 60_001, dtype=F64)
    for omega in (0.05, 0.2, 0.36, 0.38, 0.5, 0.8, 0.95):
        found = float(number(answer(omega), "τ²"))
        expect(found >= 0, "τ² is not negative")
        effect = (1 + grid) * omega**grid
        reached = (1 + found) * omega**found
        expect(reached >= float(effect.max()) - 1e-7, "no other noise makes the error larger")
    expect(float(number(answer(0.3), "τ²")) == 0, "where most of x is noise, no noise at all is the worst choice")
    levels = (0.4, 0.6, 0.8, 0.9)
    increasing([float(number(answer(w), "τ²")) for w in levels], "the worst noise grows with the share of signal")


@checker("noise-06")
def noises_of_one_path(answer: Answer) -> None:
    """path_noises(fractions, h, tau, draws): the integrals of one Brownian path at several places of a step."""
    for seed in SEEDS:
        generator = torch.Generator().manual_seed(seed)
        h, tau = uniform(generator, 0.2, 2), uniform(generator, 0.3, 2)
        inner = torch.rand(2, generator=generator, dtype=F64).sort().values.tolist()
        fractions = [*inner, 1.0]
        rows = torch.eye(3, dtype=F64)
        found = answer(fractions, h, tau, list(rows.unbind(1)))
        expect(
            isinstance(found, list | tuple | torch.Tensor) and len(found) == 3, "there is one noise for each fraction"
        )
        weights = torch.stack([number(n, "a noise") for n in found])
        expect(weights.shape == (3, 3), "a noise has the shape of a draw")
        expect(float(weights[0, 1:].abs().max()) == 0, "the first noise uses only the first draw")
        # Covariances of √2 τ ∫_0^{a h} e^{τ²(u − a h)} dW_u by a sum over a fine path.
        u = (torch.arange(20_000, dtype=F64) + 0.5) / 20_000 * h
        kernels = torch.stack([math.sqrt(2) * tau * (tau**2 * (u - a * h)).exp() * (u < a * h) for a in fractions])
        covariance = kernels @ kernels.T * (h / 20_000)
        mine = weights @ weights.T
        variances = mine.diagonal()
        close(variances, covariance.diagonal(), "each noise has the variance of its integral", rtol=2e-3, atol=1e-3)
        close(mine, covariance, "any two have the covariance of one path", rtol=2e-3, atol=1e-3)
