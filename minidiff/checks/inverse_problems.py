"""Checks of the exercises in *Inverse problems*."""

from __future__ import annotations

import math

import torch

from minidiff.checks import Answer, checker, close, expect, increasing, normal, number, pair, uniform

SEEDS = range(5)


@checker("inverse-01")
def bayes_on_a_data_set(answer: Answer) -> None:
    """posterior_mean(x, alpha, sigma, data, A, y, s): E[x_0 | x_t = x, y] over the rows of data."""
    for seed in SEEDS:
        generator = torch.Generator().manual_seed(seed)
        data, x, y = normal(generator, 6, 2), normal(generator, 2), normal(generator, 1)
        alpha, sigma, s = (uniform(generator, 0.4, 1.2) for _ in range(3))

        def curved(rows: torch.Tensor) -> torch.Tensor:
            return rows[:, :1] ** 2 + rows[:, 1:].sin()

        near = [torch.distributions.Normal(alpha * row, sigma).log_prob(x).sum() for row in data]
        seen = [torch.distributions.Normal(curved(row[None])[0], s).log_prob(y).sum() for row in data]
        prior = torch.stack(near).softmax(0) @ data
        exact = (torch.stack(near) + torch.stack(seen)).softmax(0) @ data
        blind = answer(x, alpha, sigma, data, lambda rows: 0 * rows[:, :1], y, s)
        close(blind, prior, "an operator that measures nothing gives the prior's denoiser", rtol=1e-6)
        got = answer(x, alpha, sigma, data, curved, y, s)
        close(got, exact, "for an operator that is not linear it is Bayes' rule point by point", rtol=1e-6)
        far = number(answer(x, alpha, 1e-4, data, curved, y, s), "the mean at a small sigma")
        nearest = data[(x - alpha * data).square().sum(1).argmin()]
        close(far, nearest, "as sigma goes to 0 it is the nearest point, without overflow", rtol=1e-6)


@checker("inverse-02")
def too_strong(answer: Answer) -> None:
    """dps_ratio(covariance, a, s): DPS's guidance over the exact one for one measured direction."""
    for seed in SEEDS:
        generator = torch.Generator().manual_seed(seed)
        root, a = normal(generator, 3, 3), normal(generator, 3)
        C, s = root @ root.T + 0.1 * torch.eye(3, dtype=torch.float64), uniform(generator, 0.2, 2)
        ratio = number(answer(C, a, s), "the ratio")
        expect(ratio > 1, "DPS is never too weak")
        posterior = torch.linalg.inv(torch.linalg.inv(C) + torch.outer(a, a) / s**2)
        residual = 1.0
        exact = posterior @ a * residual / s**2
        dps = C @ a * residual / s**2
        close(ratio * exact, dps, "ratio times the exact guidance is that of DPS", rtol=1e-6)


@checker("inverse-03")
def best_spread(answer: Answer) -> None:
    """best_spread(covariance, a): the ϱ² with which ΠGDM is exact for one measured direction."""
    for seed in SEEDS:
        generator = torch.Generator().manual_seed(seed)
        root, a, s = normal(generator, 3, 3), normal(generator, 3), uniform(generator, 0.2, 2)
        C, k = root @ root.T + 0.1 * torch.eye(3, dtype=torch.float64), uniform(generator, 0.3, 3)
        spread = number(answer(C, a), "the spread")
        close(answer(C, k * a), spread, "a measurement in other units needs the same spread", rtol=1e-6)
        identity = k * torch.eye(3, dtype=torch.float64)
        close(answer(identity, a), torch.tensor(k), "for k I it is k", rtol=1e-6)
        exact = torch.linalg.inv(torch.linalg.inv(C) + torch.outer(a, a) / s**2) @ a / s**2
        close(C @ a / (spread * (a @ a) + s**2), exact, "the guidance is that of the joint Gaussian", rtol=1e-6)


@checker("inverse-04")
def floor(answer: Answer) -> None:
    """tv_floor(p, n): E ½ Σ |p̂ − p| for the frequencies of n draws."""
    for seed in SEEDS:
        p = normal(torch.Generator().manual_seed(seed), 5).softmax(0)
        close(answer(p, 1), (p * (1 - p)).sum(), "one draw scores Σ p (1 − p) on average", rtol=1e-6)
        total = torch.zeros((), dtype=torch.float64)
        for q in p.tolist():
            total += sum(math.comb(9, k) * q**k * (1 - q) ** (9 - k) * abs(k / 9 - q) for k in range(10)) / 2
        close(answer(p, 9), total, "for nine draws it is the mean over all counts", rtol=1e-6)
        increasing([-number(answer(p, n), "the floor") for n in (1, 4, 16, 64)], "it decreases with more draws")
    close(answer(torch.tensor([1.0, 0.0], dtype=torch.float64), 3), 0.0, "a certain outcome has no scatter")


@checker("inverse-05")
def purification(answer: Answer) -> None:
    """purify(size, kappa, v): (r, kept), the noise-to-signal ratio that leaves kappa nats, and what is kept."""
    for seed in SEEDS:
        generator = torch.Generator().manual_seed(seed)
        size, kappa, v = uniform(generator, 0.2, 3), uniform(generator, 0.01, 1), uniform(generator, 0.1, 2)
        r, kept = pair(answer(size, kappa, v), "the ratio and the share kept")
        normals = (torch.distributions.Normal(torch.tensor(m, dtype=torch.float64), r) for m in (size, 0.0))
        close(torch.distributions.kl_divergence(*normals), torch.tensor(kappa), "kappa nats survive", rtol=1e-6)
        joint = torch.tensor([[v, v], [v, v + float(r) ** 2]], dtype=torch.float64)
        close(kept, joint[0, 1] / joint[1, 1], "kept is the slope of E[x_0 | x_t] in a joint Gaussian", rtol=1e-6)
