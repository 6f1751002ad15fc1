"""Checks of the exercises in *Score matching*."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from minidiff.analytic import Empirical, GaussianMixture
from minidiff.checks import Answer, checker, close, expect, increasing, number, pair, uniform
from minidiff.process import VE, LinearVP, Process

SEEDS = range(3)
F64 = torch.float64


def _mixture(process: Process, d: int, generator: torch.Generator) -> GaussianMixture:
    weights = 0.2 + torch.rand(3, generator=generator, dtype=F64)
    stds = 0.3 + torch.rand(3, generator=generator, dtype=F64)
    return GaussianMixture(process, weights, torch.randn(3, d, generator=generator, dtype=F64), stds=stds)


@checker("score-01")
def price_of_one_sample(answer: Answer) -> None:
    """target_covariance(D, x, t): the covariance (B, d, d) of −ε/σ given x_t = x."""
    eye = torch.eye(2, dtype=F64)
    for seed, process in itertools.product(SEEDS, (VE(0.001, 10.0), LinearVP())):
        generator = torch.Generator().manual_seed(seed)
        D, t = _mixture(process, 2, generator), torch.tensor(0.3 + 0.15 * seed, dtype=F64)
        alpha, sigma = process.alpha(t), process.sigma(t)
        x = alpha * D.sample(5, generator) + sigma * torch.randn(5, 2, generator=generator, dtype=F64)
        V = number(answer(D, x, t), "the covariance")
        exact = alpha**2 / sigma**4 * D.covariance(x, t)
        close(V, exact, "it is the covariance of the target on a mixture, for any α and σ", rtol=1e-6, atol=1e-8)
        expect((torch.linalg.eigvalsh(V) > -1e-8).all(), "a covariance has no negative eigenvalue")
        early = process.time(torch.tensor(6.0, dtype=F64))
        near = process.sigma(early) ** 2 * number(answer(D, D.sample(3, generator), early), "the covariance")
        close(near, eye.expand(3, 2, 2), "for smooth data and σ → 0 all of ε/σ is unknown", rtol=0, atol=0.01)
        point = Empirical(process, torch.ones(1, 2, dtype=F64))
        close(answer(point, x, t), torch.zeros(5, 2, 2, dtype=F64), "for data of one point nothing is unknown")
    D, t = _mixture(VE(0.1, 3.0), 1, torch.Generator().manual_seed(0)), torch.tensor(0.6, dtype=F64)
    line = torch.linspace(-14, 14, 1401, dtype=F64)[:, None]
    trace = number(answer(D, line, t), "the covariance")[:, 0, 0]
    total = torch.trapezoid(D.log_prob(line, t).exp() * (D.score(line, t)[:, 0] ** 2 + trace), line[:, 0])
    close(total, D.process.sigma(t) ** -2, "E|score|² + E tr V is d/σ²", rtol=1e-6)


def _all_signs(d: int) -> Tensor:
    return torch.tensor(list(itertools.product([-1.0, 1.0], repeat=d)), dtype=F64)


def _gaussian_nodes(d: int) -> tuple[Tensor, Tensor]:
    """Nodes and weights with the moments of N(0, I) up to degree 9 in each coordinate: 5-point Gauss–Hermite."""
    low, high = math.sqrt(5 - math.sqrt(10)), math.sqrt(5 + math.sqrt(10))
    outer, inner = (7 - 2 * math.sqrt(10)) / 60, (7 + 2 * math.sqrt(10)) / 60
    nodes = torch.tensor([-high, -low, 0.0, low, high], dtype=F64)
    weights = torch.tensor([outer, inner, 8 / 15, inner, outer], dtype=F64)
    grid = torch.cartesian_prod(*[torch.arange(5)] * d)
    return nodes[grid], weights[grid].prod(1)


@checker("score-02")
def hutchinson(answer: Answer) -> None:
    """hutchinson_variance(A, kind): the variance of vᵀAv for kind "rademacher" and "gaussian"."""
    for seed in SEEDS:
        A = torch.randn(3, 3, generator=torch.Generator().manual_seed(seed), dtype=F64)
        signs, (nodes, weights) = _all_signs(3), _gaussian_nodes(3)
        for kind, v, w in (("rademacher", signs, torch.full((8,), 1 / 8)), ("gaussian", nodes, weights)):
            values = torch.einsum("ni,ij,nj->n", v, A, v)
            variance = w.double() @ values**2 - (w.double() @ values) ** 2
            close(answer(A, kind), variance, f"it is the variance of vᵀAv over {kind} v, for any square A")
        skew = A - A.T
        close(answer(skew, "gaussian"), 0.0, "an antisymmetric A is estimated without error", atol=1e-9)
        close(answer(A.diagonal().diag(), "rademacher"), 0.0, "Rademacher signs see a diagonal exactly", atol=1e-9)
        increasing([answer(A, kind) for kind in ("rademacher", "gaussian")], "Gaussian directions are the noisier ones")


@checker("score-03")
def gaussian_fit(answer: Answer) -> None:
    """fit_gaussian(x): the mean and the precision at which implicit score matching has its minimum on x (n, d)."""
    for seed in SEEDS:
        generator = torch.Generator().manual_seed(seed)
        mixing = torch.randn(3, 3, generator=generator, dtype=F64)
        x = torch.randn(40, 3, generator=generator, dtype=F64) @ mixing + 2
        mean, precision = (v.clone().requires_grad_() for v in pair(answer(x), "the mean and the precision"))
        expect(mean.shape == (3,) and precision.shape == (3, 3), "the mean has shape (d,), the precision (d, d)")
        s = (mean - x) @ precision.T
        loss = s.square().sum(1).mean() / 2 - precision.trace()
        slopes = torch.autograd.grad(loss, (mean, precision))
        close(slopes[0], torch.zeros(3), "the loss on these samples has no slope in the mean", atol=1e-8)
        scale = float(x.square().mean())
        close(
            slopes[1], torch.zeros(3, 3), "the loss on these samples has no slope in the precision", atol=1e-8 * scale
        )
        close(precision.detach(), precision.detach().T, "the precision is symmetric", rtol=1e-6)


def _truncated(a: float, b: float, x: Tensor) -> tuple[Tensor, Tensor]:
    """A density on [0, 1] that vanishes at neither end, and the derivative of its logarithm."""
    log_p = a * x + b * (3 * x).sin()
    p = log_p.exp()
    return p / torch.trapezoid(p, x), a + 3 * b * (3 * x).cos()


@checker("score-04")
def weighted_loss(answer: Answer) -> None:
    """weighted_ism(x, s, slope): the loss of a score with values s and derivative slope at data x in [0, 1]; (n,)."""
    x = torch.linspace(0, 1, 20_001, dtype=F64)
    for seed in SEEDS:
        generator = torch.Generator().manual_seed(seed)
        p, score = _truncated(uniform(generator, 0.5, 3), uniform(generator, 0.1, 1), x)
        g, costs = x * (1 - x), []
        for k in (0.0, 1.0, 2.5):
            s, slope = k * (2 * x).cos() + 0.3, -2 * k * (2 * x).sin()
            loss = number(answer(x, s, slope), "the loss")
            expect(loss.shape == x.shape, "there is one loss for each sample")
            costs.append((torch.trapezoid(p * loss, x), torch.trapezoid(p * g * (s - score) ** 2, x) / 2))
        for (loss, cost), (other, other_cost) in itertools.pairwise(costs):
            close(
                other - loss,
                other_cost - cost,
                "between two scores the loss differs by half the weighted squared error, whatever p does at the ends",
                rtol=1e-5,
                atol=1e-6,
            )


@checker("score-05")
def best_langevin_step(answer: Answer) -> None:
    """best_step(C): the ε of fastest convergence on N(0, C), and the covariance that the chain then settles at."""
    what = "the step and the covariance"
    for seed in SEEDS:
        root = torch.randn(3, 3, generator=torch.Generator().manual_seed(seed), dtype=F64)
        C = root @ root.T + 0.3 * torch.eye(3, dtype=F64)
        step, covariance = pair(answer(C), what)
        precision, eye = torch.linalg.inv(C), torch.eye(3, dtype=F64)

        def radius(
            step: Tensor,
            eigenvalues: Tensor = torch.linalg.eigvalsh(precision),  # noqa: B008 (of this C)
        ) -> float:
            return float((1 - step / 2 * eigenvalues).abs().max())

        expect(float(step) > 0, "the step is positive")
        expect(radius(step) < 1, "with this step the chain converges")
        expect(
            radius(step) < min(radius(0.999 * step), radius(1.001 * step)),
            "no smaller or larger step forgets the start faster",
        )
        M = eye - step / 2 * precision
        close(covariance, M @ covariance @ M.T + step * eye, "one more step leaves the covariance as it is", rtol=1e-6)
        close(pair(answer(4 * C), what)[0], 4 * step, "the step scales with the variance")


@checker("score-06")
def weigh_the_modes(answer: Answer) -> None:
    """share(D, times, step, steps, n, generator): the share of samples right of 0, and its standard error."""
    what, n, process = "the share and its standard error", 600, VE(0.05, 8.0)
    levels = torch.linspace(1, 0, 16, dtype=F64)
    for weight in (0.25, 0.9):
        means = torch.tensor([[-2.0], [2.0]], dtype=F64)
        D = GaussianMixture(process, torch.tensor([1 - weight, weight], dtype=F64), means, stds=0.3)

        def run(D: GaussianMixture = D) -> tuple[Tensor, Tensor]:
            generator = torch.Generator().manual_seed(3)
            return pair(answer(D, levels, 0.5 * 0.05**2, 16, n, generator), what)

        share, error = run()
        exact = math.sqrt(weight * (1 - weight) / n)
        expect(0.6 < float(error) / exact < 1.6, "the standard error is that of a share among n independent samples")
        expect(abs(float(share) - weight) < 5 * exact + 0.03, "annealing recovers the weight within its error")
        expect(float(run()[0]) == float(share), "the same generator gives the same share")
