"""Checks of the exercises in *Memorise or generalise*."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from minidiff.checks import Answer, checker, close, expect, number, pair, uniform
from minidiff.checks import normal as normals
from minidiff.metrics import copy_rate

SEEDS = range(4)


def _curvature(m: Tensor, covariance: Tensor, r: float) -> float:
    """The second derivative along m, at 0, of the log density of two clusters at ±m with noise r, by autograd."""
    v = covariance + r**2 * torch.eye(len(m), dtype=torch.float64)
    a = torch.zeros((), dtype=torch.float64, requires_grad=True)

    def log_density(a: Tensor) -> Tensor:
        away = [(a * m - c) @ torch.linalg.solve(v, a * m - c) for c in (m, -m)]
        return torch.logsumexp(-torch.stack(away) / 2, 0)

    (slope,) = torch.autograd.grad(log_density(a), a, create_graph=True)
    return float(torch.autograd.grad(slope, a)[0])


@checker("memory-01")
def crooked_class(answer: Answer) -> None:
    """speciation(m, C): the r at which one hill becomes two."""
    what = "the ratio r_S"
    for seed in SEEDS:
        generator = torch.Generator().manual_seed(seed)
        s = uniform(generator, 0.2, 1.0)
        m, root = normals(generator, 3), normals(generator, 3, 3)
        m = m * (1.5 * s / m.norm())
        eye = torch.eye(3, dtype=torch.float64)
        close(answer(m, s**2 * eye), math.sqrt(1.25) * s, "for a round class r_S² = |m|² − s²", rtol=1e-6)
        covariance = root @ root.T / 3 + 0.05 * eye
        inside = float(m @ torch.linalg.solve(covariance, m))
        wide = m * math.sqrt(2.5 / inside)
        r = float(number(answer(wide, covariance), what))
        expect(r > 0, "two classes that are apart without noise split at some r > 0")
        expect(
            _curvature(wide, covariance, 0.99 * r) > 0 > _curvature(wide, covariance, 1.01 * r),
            "the curvature along m changes sign at r_S, also for a class that is not round",
        )
        near = m * math.sqrt(0.9 / inside)
        close(answer(near, covariance), 0.0, "classes that are one hill without noise never split")
        turn, _ = torch.linalg.qr(normals(generator, 3, 3))
        close(
            answer(turn @ wide, turn @ covariance @ turn.T), r, "turning the space leaves r_S alone", rtol=1e-6, atol=0
        )


@checker("memory-02")
def when_to_stop(answer: Answer) -> None:
    """stop(seen, true, r): the time at which the loss on fresh data is smallest along one direction."""
    for seed in SEEDS:
        generator = torch.Generator().manual_seed(seed)
        true, r = uniform(generator, 0.3, 3), uniform(generator, 0.3, 2)
        seen = true * uniform(generator, 1.05, 2)
        for under in (true, 0.7 * true):
            value = answer(under, true, r)
            try:
                never = float(value) == math.inf
            except (TypeError, ValueError, RuntimeError):
                never = False
            expect(never, "a direction whose variance is not overestimated never turns")
        best = float(number(answer(seen, true, r), "the time"))
        expect(best > 0, "training begins at time 0")
        # The flow by small explicit steps: w moves towards its own target, the loss is that on fresh data.
        steps = 20_000
        w, step, losses = 0.0, 2 * best / steps, []
        for _ in range(steps):
            w += step * (seen - w * (seen + r**2))
            losses.append((1 - w) ** 2 * true + r**2 * w**2)
        least = min(range(steps), key=losses.__getitem__) + 1
        expect(abs(least * step / best - 1) < 1e-2, "along the flow, the loss on fresh data is smallest at that time")
        close(
            answer(4 * seen, 4 * true, 2 * r),
            best / 4,
            "pictures and noise twice as large turn four times as early",
            rtol=1e-6,
        )


def _copier(y: Tensor, known: Tensor, r: float) -> Tensor:
    return (-torch.cdist(y, known).square() / (2 * r**2)).softmax(1) @ known


@checker("memory-03")
def with_a_window(answer: Answer) -> None:
    """local_denoiser(y, data, r, radius): each sample from its window alone."""
    for seed in SEEDS:
        generator = torch.Generator().manual_seed(seed)
        known, y, r = normals(generator, 7, 6), normals(generator, 4, 6), uniform(generator, 0.3, 1.5)
        close(answer(y, known, r, 5), _copier(y, known, r), "a window over everything gives the copier")
        single = torch.stack([_copier(y[:, [p]], known[:, [p]], r)[:, 0] for p in range(6)], 1)
        close(answer(y, known, r, 0), single, "a window of one sample gives the copier of each sample alone")
        made = number(answer(y, known, r, 1), "the answer")
        expect(made.shape == y.shape, "the answer has the shape of y")
        moved = y.clone()
        moved[:, 5] += 1.0
        change = (number(answer(moved, known, r, 1), "the answer") - made).abs()
        expect((change[:, :4] < 1e-12).all(), "what lies outside the window has no influence")
        expect((change[:, 4:] > 0).any(0).all(), "what lies in the window has an influence, also at its edge")
        pairs = _copier(y[:, :2], known[:, :2], r)[:, 0]
        close(made[:, 0], pairs, "at the ends the window is cut, not filled")
        expect(number(answer(y, known, 1e-3, 1), "the answer").isfinite().all(), "it stays finite for little noise")


@checker("memory-04")
def bias_of_twins(answer: Answer) -> None:
    """parts(first, second, truth): squared bias and variance, summed over coordinates, without bias."""
    what = "the squared bias and the variance"
    for seed in SEEDS:
        generator = torch.Generator().manual_seed(seed)
        rows, d = 20_000, 3
        truth, bias = normals(generator, rows, d), normals(generator, rows, d)  # a bias of its own at each input
        wanted = float(bias.square().sum(1).mean())
        spread = uniform(generator, 0.3, 1)
        first, second = (truth + bias + spread * normals(generator, rows, d) for _ in range(2))
        got = pair(answer(first, second, truth), what)
        expect(got[0].ndim == got[1].ndim == 0, "both are numbers")
        expect(
            abs(float(got[0]) - wanted) < 0.08 * (1 + wanted),
            "the first is |mean − truth|², unbiased whatever the variance",
        )
        expect(abs(float(got[1]) / (d * spread**2) - 1) < 0.05, "the second is the variance of one training")
        same = pair(answer(truth + bias, truth + bias, truth), what)
        close(same[0], wanted, "twins that agree have all their error in the bias")
        close(same[1], 0.0, "twins that agree have no variance")


@checker("memory-05")
def hidden_copies(answer: Answer) -> None:
    """hiding(training): the noise from which half of all copies escape the copy rate."""
    for seed in SEEDS:
        generator = torch.Generator().manual_seed(seed)
        d = 2000
        training = uniform(generator, 0.3, 3) * normals(generator, 40, d)
        s = float(number(answer(training), "the noise"))
        expect(s > 0, "the noise is positive")
        noise = normals(generator, 40, d)
        for factor, share, which in ((0.97, 1, "more"), (1.03, -1, "less")):
            rate = copy_rate(training + factor * s * noise, training)
            side = "below" if share > 0 else "above"
            expect(share * (rate - 0.5) > 0, f"with noise just {side} it {which} than half of the copies are counted")
        close(answer(3 * training), 3 * s, "pictures three times as large hide three times the noise", rtol=1e-6)
        close(answer(training + 5.0), s, "a constant added to all pictures changes nothing", rtol=1e-6)
