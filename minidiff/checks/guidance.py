"""Checks of the exercises in *Guidance*."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import torch
from torch import Tensor

from minidiff.checks import Answer, checker, close, expect, increasing, normal, number, pair, three, uniform

SEEDS = range(3)


def _gain(rate: Callable[[float], float], end: float = 3e3, steps: int = 1500) -> float:
    """end · ξ(0)/ξ(end) along dξ/dr = r · rate(r) ξ, by Runge and Kutta's rule in log r."""
    r = torch.logspace(-5, math.log10(end), steps + 1, dtype=torch.float64).flip(0).tolist()
    total = 0.0
    for a, b in itertools.pairwise(r):  # log ξ is an integral: the rule is Simpson's
        middle = (a + b) / 2
        total += (b - a) / 6 * (a * rate(a) + 4 * middle * rate(middle) + b * rate(b))
    return end * math.exp(total)


def _rate(r: float, s: float, S: float, w: float) -> float:
    return w / (s**2 + r**2) + (1 - w) / (S**2 + r**2)


@checker("guide-01")
def what_guidance_samples(answer: Answer) -> None:
    """ends(s, tau, w): the stds at the end of CFG's ordinary differential equation, and of the sharpened density."""
    what = "the std at the end of the path and the std of the sharpened density"
    grid = torch.linspace(-15, 15, 6001, dtype=torch.float64)
    for seed in SEEDS:
        generator = torch.Generator().manual_seed(seed)
        s, tau, w = (uniform(generator, low, high) for low, high in ((0.3, 1), (0.5, 1.5), (1.2, 4)))
        S = math.hypot(s, tau)
        for unguided, std, name in ((1.0, s, "w = 1 gives s in both"), (0.0, S, "w = 0 gives S in both")):
            got = pair(answer(s, tau, unguided), what)
            close(got[0], std, name, rtol=1e-6)
            close(got[1], std, name, rtol=1e-6)
        ends, sharp = pair(answer(s, tau, w), what)
        close(
            ends,
            _gain(lambda r, s=s, S=S, w=w: _rate(r, s, S, w)),
            "the first std is that of the path, followed step by step",
            rtol=1e-4,
        )
        p = (-w * grid**2 / (2 * s**2) - (1 - w) * grid**2 / (2 * S**2)).softmax(0)
        close(
            sharp,
            (p @ grid**2).sqrt(),
            "the second std is that of the product of the two densities on a grid",
            rtol=1e-6,
        )
        both = [pair(answer(s, tau, scale), what) for scale in (4.0, 3.0, 2.0, 1.0, 0.5)]
        for i in (0, 1):
            increasing([stds[i] for stds in both], "both stds fall as w grows")


@checker("guide-02")
def the_interval(answer: Answer) -> None:
    """interval_std(s, S, w, low, high): the std at the end of the path if w acts where low < r ≤ high."""
    what = "the std"
    for seed in SEEDS:
        generator = torch.Generator().manual_seed(seed)
        s, tau, w = (uniform(generator, low, high) for low, high in ((0.3, 1), (0.5, 1.5), (1.2, 4)))
        S, low = math.hypot(s, tau), uniform(generator, 0.1, 0.5)
        high = low * uniform(generator, 2, 5)
        close(answer(s, S, 1.0, low, high), s, "with w = 1 the std is s, whatever the interval")
        close(answer(s, S, w, low, low * (1 + 1e-12)), s, "an empty interval leaves s", rtol=1e-6)
        whole = s * (s / S) ** (w - 1)
        close(answer(s, S, w, 0.0, 1e9), whole, "an interval over all noise is guidance without one", rtol=1e-6)
        got = number(answer(s, S, w, low, high), what)
        parts = [(1e-5, low, 1.0), (low, high, w), (high, 3e3, 1.0)]
        log_gain = 0.0
        for a, b, scale in parts:
            r = torch.logspace(math.log10(a), math.log10(b), 4001, dtype=torch.float64)
            log_gain += float(torch.trapezoid(r * (scale / (s**2 + r**2) + (1 - scale) / (S**2 + r**2)), r))
        close(got, 3e3 * math.exp(-log_gain), "the std is that of the path, followed through the interval", rtol=1e-4)
        expect(whole < got < s, "the interval does part of what guidance does")
        rest = s * (number(answer(s, S, w, 0.0, low), what) / s) * (number(answer(s, S, w, high, 1e9), what) / s)
        close(rest * got / s, whole, "three intervals that share all noise multiply to the whole", rtol=1e-6)


@checker("guide-03")
def two_conditions(answer: Answer) -> None:
    """weight(delta_a, delta_b, u, v): log G of a step towards p_a^u p_b^v p_0^{1−u−v}, one value a row."""
    for seed in SEEDS:
        generator = torch.Generator().manual_seed(seed)
        a, b, z = normal(generator, 3, 4, 5)
        u, v = uniform(generator, 0.5, 3), uniform(generator, 0.3, 2)
        centre = u * a + v * b

        def log_kernel(point: Tensor, mean: Tensor) -> Tensor:
            return -((point - mean) ** 2).sum(1) / 2

        point = centre + z
        wanted = u * log_kernel(point, a) + v * log_kernel(point, b)
        wanted = wanted + (1 - u - v) * log_kernel(point, torch.zeros_like(a)) - log_kernel(point, centre)
        got = answer(a, b, u, v)
        close(
            answer(a, b, u, 0.0),
            u * (u - 1) / 2 * a.square().sum(1),
            "without the second condition the weight is that of the chapter",
        )
        close(answer(a, b, 1.0, 0.0), torch.zeros(4), "one condition at its own scale needs no weight")
        close(got, answer(b, a, v, u), "the two conditions may change places")
        close(answer(a, a, u, v), answer(a, b, u + v, 0.0), "the same condition twice is one condition at scale u + v")
        close(got, wanted, "kernel_a^u kernel_b^v kernel_0^(1−u−v) / kernel_moved = G, wherever the particle went")


class _Spy:
    """A conditional denoiser that counts its calls and its rows."""

    def __init__(self) -> None:
        self.calls, self.rows = 0, 0

    def __call__(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        self.calls, self.rows = self.calls + 1, self.rows + len(x)
        expect(t.ndim == 0 or t.shape == x.shape[:1], "t is one number, or one for each row that D gets")
        expect(y is None or y.shape == x.shape[:1], "there is one label for each row that D gets")
        time = t if t.ndim == 0 else t.reshape(-1, *[1] * (x.ndim - 1))
        label = torch.zeros(()) if y is None else (y + 1.0).double().reshape(-1, *[1] * (x.ndim - 1))
        return x * (1 + label) - time * label**2


@checker("guide-04")
def one_call(answer: Answer) -> None:
    """batched(D, x, t, y, null, w): x̂ of CFG in one call of D on twice the rows."""
    for seed in SEEDS:
        generator = torch.Generator().manual_seed(seed)
        x, y = normal(generator, 3, 2, 4), torch.tensor([0, 2, 1])
        w, one = uniform(generator, 1.5, 5), _Spy()
        for t in (torch.tensor(0.3, dtype=torch.float64), torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)):
            plain, spy = _Spy(), _Spy()
            zero = plain(x, t, torch.full((3,), 7))
            wanted = zero + w * (plain(x, t, y) - zero)
            got = answer(spy, x, t, y, 7, w)
            expect(isinstance(got, Tensor), "the answer returns a tensor")
            expect(spy.calls == 1, "D is called once")
            expect(spy.rows == 6, "the one call has twice the rows")
            close(got, wanted, "the result is x̂_0 + w (x̂_1 − x̂_0), for one t and for one t a row")
            close(answer(one, x, t, y, 7, 1.0), plain(x, t, y), "w = 1 gives the conditional prediction")


@checker("guide-05")
def weighted_particles(answer: Answer) -> None:
    """summary(x, log_weights): mean of f over systems of weighted particles, its standard error, and the mean ESS."""
    for seed in SEEDS:
        generator = torch.Generator().manual_seed(seed)
        values, logs = normal(generator, 6, 40), 1.5 * normal(generator, 6, 40)

        what = "the mean, its standard error and the effective number"
        got = three(answer(values, logs), what)
        shifted = three(answer(values, logs + 900 * torch.arange(6.0, dtype=torch.float64)[:, None]), what)
        close(shifted[0], got[0], "a factor on all weights of a system changes nothing, however large")
        close(shifted[2], got[2], "a factor on all weights of a system changes nothing, however large")
        means, sizes = [], []
        for row, log in zip(values.tolist(), logs.tolist(), strict=True):
            weights = [math.exp(v) for v in log]
            means.append(sum(a * b for a, b in zip(weights, row, strict=True)) / sum(weights))
            sizes.append(sum(weights) ** 2 / sum(v * v for v in weights))
        close(got[0], sum(means) / 6, "the first is the mean over systems of the weighted means")
        error = torch.tensor(means, dtype=torch.float64).std() / math.sqrt(6)
        close(got[1], error, "the second is the standard error over systems, which are independent")
        close(got[2], sum(sizes) / 6, "the third is the mean effective number of particles of a system")
        equal = three(answer(values, torch.zeros(6, 40, dtype=torch.float64)), what)
        close(equal[2], 40.0, "equal weights are worth all particles")


@checker("guide-06")
def how_far_to_go(answer: Answer) -> None:
    """best_scale(kappa, phi): the w that leaves the smallest error if the weak error is κ e + φ |e| across."""
    for seed in SEEDS:
        generator = torch.Generator().manual_seed(seed)
        kappa, phi = uniform(generator, 1.2, 5), uniform(generator, 0.1, 2)
        close(answer(kappa, 0.0), kappa / (kappa - 1), "a weak model with the same fault is subtracted exactly")
        close(answer(1.0, phi), 1.0, "a weak model that is no weaker in the same direction teaches nothing")

        def left(w: float, kappa: float = kappa, phi: float = phi) -> float:
            along = 1 - (w - 1) * (kappa - 1)
            return along**2 + ((w - 1) * phi) ** 2

        best = float(number(answer(kappa, phi), "the scale"))
        expect(all(left(best) < left(best + step) for step in (-0.02, 0.02, -0.5, 0.5)), "no other scale leaves less")
        expect(left(best) < 1, "the guided error is smaller than that of the good model alone")
        increasing([answer(kappa, other) for other in (2.0, 1.0, 0.5, 0.0)], "the less is across, the larger the scale")
