"""Checks of the exercises in *Start late, run in parallel, choose*."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from minidiff.analytic import Gaussian
from minidiff.checks import Answer, CheckFailed, checker, close, expect, increasing, number, pair, uniform
from minidiff.process import CosineVP, LinearVP, RectifiedFlow

SEEDS = range(4)


def _budget(time: Tensor, c: float, error: float) -> Tensor:
    """Prior gap and score error of a chain of length `time` on N(0, c²), by integrating the gap's own rate."""
    variance = 1 + (c**2 - 1) * torch.exp(-time)
    law = torch.distributions.Normal(torch.zeros_like(variance), variance.sqrt())
    return torch.distributions.kl_divergence(law, torch.distributions.Normal(0.0, 1.0)) + error**2 * time / 2


@checker("calls-01")
def length_of_diffusion(answer: Answer) -> None:
    """best_time(c, eps): the B that minimises prior gap plus score error."""
    for seed in SEEDS:
        generator = torch.Generator().manual_seed(seed)
        error = uniform(generator, 0.01, 0.5)
        for c in (uniform(generator, 2.5, 5), uniform(generator, 0.05, 0.5)):
            found = number(answer(c, error), "the best time")
            expect(found.ndim == 0 and float(found) >= 0, "the best time is one number, not below zero")
            here = _budget(found, c, error)
            for other in (found * 0.99, found * 1.01, found + 0.5, found * 0):
                expect(here <= _budget(other, c, error) + 1e-12, "no other time has a smaller budget")
        longer = [answer(3.0, error * f) for f in (1.0, 0.5, 0.25)]
        increasing(longer, "a better score deserves a longer chain")
    close(answer(1.0, 0.1), 0.0, "data that look like the noise need no chain")
    close(answer(1.05, 0.5), 0.0, "a score worse than the prior's is of no use: the chain has length zero")


@checker("calls-02")
def reflection_coupling(answer: Answer) -> None:
    """couple(mean, draft_mean, std, z, u): the sample, and whether the draft was kept."""
    for seed in SEEDS:
        generator = torch.Generator().manual_seed(seed)
        n, s = 40_000, uniform(generator, 0.3, 2)
        mean, draft = torch.randn(2, 3, generator=generator, dtype=torch.float64)
        draft = mean + s * (draft - mean) / (draft - mean).norm() * uniform(generator, 0.5, 1.5)
        z = torch.randn(n, 3, generator=generator, dtype=torch.float64)
        u = torch.rand(n, generator=generator, dtype=torch.float64)
        made = answer(mean, draft, s, z, u)
        if not isinstance(made, tuple) or len(made) != 2:
            raise CheckFailed("the answer must return x and kept, two tensors")
        x, kept = number(made[0], "x"), torch.as_tensor(made[1]).bool()
        expect(x.shape == z.shape and kept.shape == u.shape, "x has the shape of z, and kept has one value a row")
        expect(torch.allclose(x[kept], (draft + s * z)[kept]), "where it is kept, x is the draft")
        share = math.erfc(float((mean - draft).norm()) / s / math.sqrt(8))
        error = math.sqrt(share * (1 - share) / n)
        expect(abs(float(kept.double().mean()) - share) < 5 * error, "drafts are kept as often as the overlap allows")
        expect(float((x.mean(0) - mean).abs().max()) < 5 * s / math.sqrt(n), "x has the mean of the target")
        spread = (torch.cov(x.T) - s**2 * torch.eye(3)).abs().max()
        expect(float(spread) < 6 * s**2 * math.sqrt(2 / n), "x has the covariance of the target")
        along = (x - mean) @ (draft - mean) / (draft - mean).norm() / s
        expect(abs(float((along**3).mean())) < 5 * math.sqrt(15 / n), "x is as symmetric as the target")


@checker("calls-03")
def one_sweep(answer: Answer) -> None:
    """sweep(F, G, path): x_{n+1} ← F(n, x_n) + G(n, new x_n) − G(n, x_n)."""
    for seed in SEEDS:
        generator = torch.Generator().manual_seed(seed)
        slopes = torch.rand(8, 2, generator=generator, dtype=torch.float64)
        start = torch.randn(3, generator=generator, dtype=torch.float64)
        asked: list[Tensor] = []

        def fine(n: int, x: Tensor, slopes: Tensor = slopes) -> Tensor:
            return x + 0.5 * torch.sin(slopes[n, 0] * x + n)

        def spied(n: int, x: Tensor, asked: list[Tensor] = asked) -> Tensor:
            asked.append(x.clone())
            return fine(n, x)

        def cheap(n: int, x: Tensor, slopes: Tensor = slopes) -> Tensor:
            return slopes[n, 1] * x

        exact = [start]
        for n in range(8):
            exact.append(fine(n, exact[-1]))
        path = [start, *(torch.randn(3, generator=generator, dtype=torch.float64) for _ in range(8))]
        once = [number(x, "a state") for x in answer(spied, cheap, list(path))]
        expect(len(once) == 9, "a sweep returns as many states as the path has")
        expect(len(asked) == 8, "a sweep asks F once for each step")
        expect(
            all(torch.equal(x, old) for x, old in zip(asked, path, strict=False)),
            "F is asked at the states of the old path alone, so that all can be asked at once",
        )
        close(once[0], start, "the start stays where it is")
        by_hand = [start]
        for n in range(8):
            by_hand.append(fine(n, path[n]) + slopes[n, 1] * (by_hand[n] - path[n]))
        close(torch.stack(once), torch.stack(by_hand), "a linear G adds its slope times what has changed before")
        for k in range(1, 9):
            path = answer(fine, cheap, path)
            close(
                torch.stack(list(path[: k + 1])), torch.stack(exact[: k + 1]), f"after {k} sweeps {k} steps are exact"
            )
        found = answer(fine, fine, [start, *(torch.zeros(3, dtype=torch.float64) for _ in range(8))])
        close(torch.stack(list(found)), torch.stack(exact), "with G = F one sweep is enough")


@checker("calls-04")
def divergence_of_the_best(answer: Answer) -> None:
    """best_kl(p, n): KL(best of n ‖ p) for a discrete law, outcomes in increasing order of reward."""
    for seed in SEEDS:
        generator = torch.Generator().manual_seed(seed)
        p = 0.1 + torch.rand(4, generator=generator, dtype=torch.float64)
        p = p / p.sum()
        for n in (1, 2, 3):
            law = torch.zeros(4, dtype=torch.float64)
            for draws in torch.cartesian_prod(*[torch.arange(4)] * n).reshape(-1, n):
                law[draws.max()] += p[draws].prod()
            exact = (law * (law / p).log()).sum()
            close(answer(p, n), exact, "it is the divergence that counting all n-tuples of draws gives")
        increasing([answer(p, n) for n in (1, 2, 4, 8)], "it increases with n")
        for n in (2, 5, 30):
            bound = math.log(n) - (n - 1) / n
            expect(float(number(answer(p, n), "it")) < bound, "ties make it smaller than log n − (n − 1)/n")
        close(answer(p, 2000), -p[-1].log(), "in the end only the best outcome is left", rtol=1e-6)
    fine = torch.full((20_000,), 1 / 20_000, dtype=torch.float64)
    close(answer(fine, 7), math.log(7) - 6 / 7, "without ties it is log n − (n − 1)/n", rtol=1e-3)


@checker("calls-05")
def depth_of_a_graph(answer: Answer) -> None:
    """depth(needs): the longest chain of calls that wait for one another."""
    what = "the depth"
    close(answer([[], [0], [1], [2]]), 4, "a chain of n calls is n deep")
    close(answer([[] for _ in range(7)]), 1, "calls that need nothing of one another are one deep")
    close(answer([]), 0, "no calls, no depth")
    close(answer([[], [0], [0], [0], [1, 2, 3]]), 3, "calls that meet again wait for the longest branch")
    close(answer([[], [0], [1], [], [3, 2]]), 4, "a call waits for the deepest of what it needs")
    for seed in SEEDS:
        generator = torch.Generator().manual_seed(seed)
        needs = [[j for j in range(i) if float(torch.rand((), generator=generator)) < 0.15] for i in range(30)]
        reached, rounds = set(), 0
        while len(reached) < 30:  # rounds on a machine with as many workers as one likes
            reached |= {i for i in range(30) if i not in reached and set(needs[i]) <= reached}
            rounds += 1
        close(answer(needs), rounds, "with enough workers it is the number of rounds")
    expect(
        float(number(answer([[i - 1] if i else [] for i in range(3000)]), what)) == 3000, "long chains are no problem"
    )


@checker("calls-06")
def forgetting(answer: Answer) -> None:
    """forget(alpha, sigma, c): what is left of an error of x_0, by the flow and by the reverse chain."""
    what = "the two factors"
    for seed in SEEDS:
        generator = torch.Generator().manual_seed(seed)
        c, t = uniform(generator, 0.2, 2), torch.tensor(uniform(generator, 0.1, 0.9), dtype=torch.float64)
        for process in (LinearVP(), CosineVP(), RectifiedFlow()):
            D = Gaussian(process, torch.zeros(1, dtype=torch.float64), std=c)
            alpha, sigma = float(process.alpha(t)), float(process.sigma(t))
            flow, chain = pair(answer(alpha, sigma, c), what)
            start = torch.tensor([[0.3], [1.3]], dtype=torch.float64) * alpha + 0.4  # the same noise, x_0 off by one
            ends = D.flow(start, t, torch.zeros((), dtype=torch.float64))
            # a variance-preserving data end may keep a little noise
            scale = float(process.alpha(torch.zeros((), dtype=torch.float64)))
            close(flow, (ends[1] - ends[0])[0] / scale, "the flow carries the error as the exact map does", rtol=1e-3)
            means = D(start, t)
            close(chain, (means[1] - means[0])[0], "the chain keeps of it what the posterior mean keeps", rtol=1e-6)
            expect(chain < flow, "the chain forgets more than the flow")
