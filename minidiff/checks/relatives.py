"""Checks of the exercises in *Five relatives*."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from minidiff.checks import Answer, CheckFailed, checker, close, expect, increasing, normal, number, pair, uniform

SEEDS = range(4)


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _log_normal(x: Tensor, covariance: Tensor) -> Tensor:
    """log N(x; 0, covariance)."""
    law = torch.distributions.MultivariateNormal(torch.zeros(len(x), dtype=torch.float64), covariance)
    return law.log_prob(x)


def _linear_elbo(W: Tensor, s: float, x: Tensor, draws: Tensor) -> Tensor:
    """The ELBO of the best diagonal encoder of x = Wz + sn at x, each draw (B,): coordinate ascent finds it.

    Setting one coordinate of the mean to its best value given the others is Gauss–Seidel on M μ = Wᵀx/s².
    """
    precision = torch.eye(W.shape[1], dtype=torch.float64) + W.T @ W / s**2
    mean, target = torch.zeros(W.shape[1], dtype=torch.float64), W.T @ x / s**2
    for _ in range(400):
        for i in range(len(mean)):
            mean[i] += (target[i] - precision[i] @ mean) / precision[i, i]
    std = precision.diagonal().rsqrt()
    z = mean + std * draws
    log_joint = -((x - z @ W.T).square().sum(1) / s**2 + z.square().sum(1)) / 2 - len(x) * math.log(s)
    log_q = -draws.square().sum(1) / 2 - std.log().sum()
    return log_joint - log_q - len(x) / 2 * math.log(2 * math.pi)


@checker("relatives-01")
def mean_field(answer: Answer) -> None:
    """mean_field(W, s): the gap of the best diagonal encoder, and weights of the same density without one."""
    for seed in SEEDS:
        generator = _generator(seed)
        d, k = 5, 3
        W, s = normal(generator, d, k), uniform(generator, 0.3, 1.5)
        gap, free = _gap_and_weights(answer, W, s)
        expect(gap >= -1e-10, "the gap is not negative")
        covariance = W @ W.T + s**2 * torch.eye(d, dtype=torch.float64)
        draws = normal(generator, 20_000, k)
        for x in (normal(generator, d), 3 * normal(generator, d)):
            parts = _linear_elbo(W, s, x, draws)
            error = 5 * float(parts.std()) / len(draws) ** 0.5
            seen = float(_log_normal(x, covariance) - parts.mean())
            expect(abs(gap - seen) < error, "the gap is log p minus a Monte-Carlo ELBO of the best diagonal encoder")
        rotation = torch.linalg.qr(normal(generator, d, d)).Q
        close(_gap_and_weights(answer, rotation @ W, s)[0], gap, "turning x leaves the gap as it is")
        orthogonal = torch.linalg.qr(normal(generator, d, k)).Q * torch.tensor([2.0, 1.0, 0.5])
        close(_gap_and_weights(answer, orthogonal, s)[0], 0.0, "orthogonal columns have no gap")
        close(free @ free.T, W @ W.T, "the new weights give x the same density", rtol=1e-6, atol=1e-8)
        close(_gap_and_weights(answer, free, s)[0], 0.0, "the new weights have no gap", atol=1e-8)
        correlated = torch.stack([W[:, 0], W[:, 0] + 0.1 * W[:, 1]], 1)
        gaps = [_gap_and_weights(answer, correlated, f * s)[0] for f in (4, 2, 1)]
        increasing(gaps, "less noise makes the gap larger")


def _gap_and_weights(answer: Answer, W: Tensor, s: float) -> tuple[Tensor, Tensor]:
    value = answer(W, s)
    if not isinstance(value, Sequence) or len(value) != 2:
        raise CheckFailed(f"the answer must return the gap and the weights, two values, got {type(value).__name__}")
    gap, free = number(value[0], "the gap"), number(value[1], "the new weights")
    expect(free.shape == W.shape, "the new weights have the shape of W")
    return gap, free


@checker("relatives-02")
def repaired(answer: Answer) -> None:
    """repaired(f, logit, nu): E_p f and KL(p ‖ q) from samples of q and a discriminator's logit."""
    what = "the expectation and the divergence"
    for seed in SEEDS:
        generator = _generator(seed)
        counts = torch.randint(1, 30, (12,), generator=generator)  # a sample in which each value comes as often as in q
        q = counts.double() / counts.sum()
        p = (q.log() + 0.8 * normal(generator, 12)).softmax(0)
        values, nu = normal(generator, 12), uniform(generator, 0.3, 6)
        logit = p.log() - q.log() - math.log(nu)
        rows = torch.arange(12).repeat_interleave(counts)
        mean, divergence = pair(answer(values[rows], logit[rows], nu), what)
        close(mean, (p * values).sum(), "the mean is that under the data")
        close(divergence, (p * (p / q).log()).sum(), "the divergence is that of the data from the samples")
        mean, divergence = pair(answer(values[rows], torch.full_like(logit, -math.log(nu))[rows], nu), what)
        close(mean, (q * values).sum(), "a discriminator that sees no difference changes nothing")
        close(divergence, 0.0, "a discriminator that sees no difference reports none")


@checker("relatives-03")
def planar(answer: Answer) -> None:
    """planar(x, u, w, b): f(x) = x + u tanh(w·x + b) and log |det ∂f/∂x|."""
    what = "f(x) and its log-determinant"
    for seed in SEEDS:
        generator = _generator(seed)
        for d in (1, 2, 6):
            u, w = normal(generator, 2, d)
            x, b = normal(generator, 7, d), float(normal(generator))
            y, log_det = pair(answer(x, u, w, b), what)
            expected = x + u * torch.tanh(x @ w + b)[:, None]
            close(y, expected, "f(x) is x + u tanh(w·x + b)")
            jacobians = [
                torch.autograd.functional.jacobian(lambda r, u=u, w=w, b=b: r + u * torch.tanh(r @ w + b), row)
                for row in x
            ]
            truth = torch.stack([torch.linalg.slogdet(J).logabsdet for J in jacobians])
            close(log_det, truth, "the log-determinant is that of the Jacobian of f", rtol=1e-7, atol=1e-8)
        w = w - u * (u @ w) / (u @ u)
        close(pair(answer(x, u, w, b), what)[1], torch.zeros(7), "moving along u ⟂ w changes no volume", atol=1e-9)


@checker("relatives-04")
def parallel_price(answer: Answer) -> None:
    """parallel_price(p, groups): what drawing each group of values independently costs, in nats."""
    for seed in SEEDS:
        p = normal(_generator(seed), 3, 2, 3, 2).mul(1.5).flatten().softmax(0).reshape(3, 2, 3, 2)
        for groups in ([[0], [1], [2], [3]], [[0, 1, 2, 3]], [[0, 2], [1, 3]], [[3], [0, 1], [2]], [[1], [0, 2, 3]]):
            law = _grouped(p, groups)
            truth = (p * (p / law).log()).sum()
            close(answer(p, groups), truth, "it is the divergence of p from the law that the groups draw", atol=1e-9)
        factors = [normal(_generator(seed + k), n).softmax(0) for k, n in enumerate(p.shape)]
        independent = torch.einsum("a,b,c,d->abcd", *factors)
        close(answer(independent, [[0, 1, 2, 3]]), 0.0, "independent values may all be drawn at once", atol=1e-9)
        close(answer(p, [[2], [0], [3], [1]]), 0.0, "one value at a time is exact in any order", atol=1e-9)


def _grouped(p: Tensor, groups: list[list[int]]) -> Tensor:
    """The law of a string whose groups are drawn in turn, the values of a group independently given all before."""
    law, before, axes = torch.ones_like(p), set(), set(range(p.ndim))

    def marginal(kept: set[int]) -> Tensor:
        gone = sorted(axes - kept)
        return p.sum(gone, keepdim=True) if gone else p

    for group in groups:
        for i in group:
            law = law * marginal(before | {i}) / marginal(before)
        before = before | set(group)
    return law


@checker("relatives-05")
def largest_variance(answer: Answer) -> None:
    """largest_variance(m, s): up to which v the conditional of two bumps has one hump whatever x_s."""
    for seed in SEEDS:
        generator = _generator(seed)
        s = uniform(generator, 0.2, 1.5)
        m = s * uniform(generator, 1.1, 4)
        limit = float(number(answer(m, s), "the limit"))
        expect(limit > 0, "a small enough step is always possible")
        x = torch.linspace(-2 * m, 2 * m, 4001, dtype=torch.float64, requires_grad=True)
        log_p = torch.logsumexp(torch.stack([-((x - c) ** 2) / (2 * s**2) for c in (-m, m)]), 0)
        (slope,) = torch.autograd.grad(log_p.sum(), x, create_graph=True)
        (curvature,) = torch.autograd.grad(slope.sum(), x)
        for share, sign, what in ((0.99, -1, "one hump just below the limit"), (1.01, 1, "two humps just above it")):
            worst = float((curvature - 1 / (share * limit)).max())
            expect(sign * worst > 0, f"by automatic differentiation on a grid, over all x_s, there is {what}")
        close(answer(3 * m, 3 * s), 9 * limit, "three times as large, nine times the variance")
        for wide in (s, 1.5 * s):
            try:
                value = float(answer(s, wide))
            except (TypeError, ValueError) as error:
                raise CheckFailed("the limit must be a number") from error
            expect(value == math.inf, "bumps that are no farther than their width never have two humps: the limit is ∞")


@checker("relatives-06")
def undominated(answer: Answer) -> None:
    """undominated(rows): the numbers of the rows that no other row beats, smaller being better."""
    for seed in SEEDS:
        generator = _generator(seed)
        for columns in (2, 3):
            rows = torch.randint(0, 6, (14, columns), generator=generator).double().tolist()
            _same(answer(rows), _front(rows), "a row stays unless another is as good in all and better in one")
        rows = [[float(k), float(5 - k)] for k in range(6)]
        _same(answer(rows), list(range(6)), "of a pure exchange all stay")
        _same(answer([[1.0, 1.0], [1.0, 1.0], [2.0, 1.0]]), [0, 1], "equal rows do not beat one another")
        _same(answer([[3.0, 1.0]]), [0], "a single row stays")


def _front(rows: list[list[float]]) -> list[int]:
    def beats(a: list[float], b: list[float]) -> bool:
        return a != b and all(x <= y for x, y in zip(a, b, strict=True))

    return [k for k, row in enumerate(rows) if not any(beats(other, row) for other in rows)]


def _same(value: Any, expected: list[int], what: str) -> None:  # noqa: ANN401
    try:
        got = [int(k) for k in value]
    except (TypeError, ValueError) as error:
        raise CheckFailed(f"the answer must be a list of row numbers, got {type(value).__name__}") from error
    expect(sorted(got) == expected, what)
