"""Checks of the exercises in *One model, five names*."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from minidiff.checks import Answer, CheckFailed, checker, close, expect, increasing, normal, number, pair, uniform

SEEDS = range(5)


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _triple(value: Any) -> tuple[Tensor, Tensor, Tensor]:  # noqa: ANN401
    if not isinstance(value, tuple | list) or len(value) != 3:
        raise CheckFailed(f"the answer must return c_in, c_skip and c_out, got {type(value).__name__}")
    return tuple(number(part, "a coefficient") for part in value)


def _target_scale(c_skip: Tensor | float, alpha: float, sigma: float, s: float) -> Tensor:
    """The standard deviation of x_0 − c_skip x, from the coefficients of x_0 and ε in it."""
    return torch.hypot(torch.as_tensor((1 - alpha * c_skip) * s), torch.as_tensor(c_skip * sigma))


@checker("names-01")
def edm_for_any_process(answer: Answer) -> None:
    """precondition(alpha, sigma, s): c_in, c_skip, c_out."""
    for seed in SEEDS:
        generator = _generator(seed)
        alpha, sigma, s = (uniform(generator, 0.2, 3) for _ in range(3))
        c_in, c_skip, c_out = _triple(answer(alpha, sigma, s))
        variance = c_in**2 * ((alpha * s) ** 2 + sigma**2)
        close(variance, 1.0, "the network's input has variance 1, for any α and σ")
        scale = _target_scale(c_skip, alpha, sigma, s)
        close(scale / c_out, 1.0, "the network's target has variance 1, for any α and σ")
        for step in (-0.01, 0.01):
            expect(_target_scale(c_skip + step, alpha, sigma, s) >= scale, "no other c_skip allows a smaller c_out")
        x0, eps = normal(generator, 2, 50)
        angle = uniform(generator, 0.1, 1.4)
        alpha, sigma = math.cos(angle), math.sin(angle)
        _, c_skip, c_out = _triple(answer(alpha, sigma, 1.0))
        asked = (x0 - c_skip * (alpha * x0 + sigma * eps)) / c_out
        close(asked, sigma * x0 - alpha * eps, "for α² + σ² = 1 and s = 1 the network is asked for −v")
        c_in, c_skip, c_out = _triple(answer(1.0, s, s))
        half = math.sqrt(0.5)
        for got, published in ((c_in, half / s), (c_skip, 0.5), (c_out, s * half)):
            close(got, published, "at α = 1, with as much noise as data, they are the published values")
        for alpha, sigma in ((1.0, 0.0), (0.0, 1.0)):
            _, _, c_out = _triple(answer(alpha, sigma, s))
            close(c_out, s * sigma, "the coefficients are finite at both ends and c_out goes from 0 to s")


@checker("names-02")
def the_table_as_code(answer: Answer) -> None:
    """both(name, value, x, alpha, sigma, alpha_rate, sigma_rate): (x̂_0, ε̂)."""
    what = "the picture and the noise"
    for seed in SEEDS:
        generator = _generator(seed)
        x0, eps = normal(generator, 2, 7)
        alpha, sigma, sigma_rate = (uniform(generator, 0.2, 2) for _ in range(3))
        alpha_rate = -uniform(generator, 0.2, 2)
        values = {
            "x0": lambda a, s, da, ds, x0=x0, eps=eps: x0,
            "eps": lambda a, s, da, ds, x0=x0, eps=eps: eps,
            "v": lambda a, s, da, ds, x0=x0, eps=eps: a * eps - s * x0,
            "score": lambda a, s, da, ds, x0=x0, eps=eps: -eps / s,
            "velocity": lambda a, s, da, ds, x0=x0, eps=eps: da * x0 + ds * eps,
        }
        inside = (alpha, sigma, alpha_rate, sigma_rate)
        cases = [(name, inside) for name in values]
        cases += [(name, (0.0, sigma, alpha_rate, sigma_rate)) for name in ("x0", "v", "velocity")]
        cases += [(name, (alpha, 0.0, alpha_rate, sigma_rate)) for name in ("eps", "v", "velocity")]
        for name, scales in cases:
            x = scales[0] * x0 + scales[1] * eps
            got = pair(answer(name, values[name](*scales), x, *scales), what)
            where = "" if scales == inside else " at an end of the process"
            close(scales[0] * got[0] + scales[1] * got[1], x, f"from {name}{where}, α x̂_0 + σ ε̂ is x")
            close(got[0], x0, f"from {name}{where} follows the picture, for any α and σ")
            close(got[1], eps, f"from {name}{where} follows the noise, for any α and σ")


@checker("names-03")
def min_snr_in_three_forms(answer: Answer) -> None:
    """min_snr(alpha, sigma, gamma, on): the factor of the squared error of x0, eps or v."""
    for seed in SEEDS:
        generator = _generator(seed)
        for _ in range(4):
            alpha, sigma, gamma = (uniform(generator, 0.1, 4) for _ in range(3))
            x0, guess, eps = normal(generator, 3, 9)
            x = alpha * x0 + sigma * eps
            eps_hat = (x - alpha * guess) / sigma
            errors = {"x0": x0 - guess, "eps": eps - eps_hat}
            errors["v"] = alpha * errors["eps"] - sigma * errors["x0"]
            losses = {
                on: number(answer(alpha, sigma, gamma, on), "a factor") * error.square().sum()
                for on, error in errors.items()
            }
            on_x0 = number(answer(alpha, sigma, gamma, "x0"), "a factor")
            expect(on_x0 <= gamma * (1 + 1e-12), "the factor on x0 never exceeds γ")
            close(losses["eps"], losses["x0"], "the forms on eps and on x0 are one loss, for any α and σ")
            close(losses["v"], losses["x0"], "the forms on v and on x0 are one loss, for any α and σ")
            close(answer(alpha, sigma, 1e9, "eps"), 1.0, "for large γ it is the plain loss on eps")
        for alpha, sigma in ((0.0, 1.3), (1.3, 0.0)):
            for on in ("x0", "eps", "v"):
                close(
                    answer(alpha, sigma, gamma, on),
                    answer(alpha or 1e-9, sigma or 1e-9, gamma, on),
                    "every form has its limit at both ends",
                    rtol=1e-6,
                )


@checker("names-04")
def edm_by_dice(answer: Answer) -> None:
    """eps_times(lam, m, c, s): the density of λ for which the plain loss on ε is EDM's."""
    for seed in SEEDS:
        generator = _generator(seed)
        m, c, s = (uniform(generator, 0.3, 1.5) for _ in range(3))
        lam = torch.linspace(m - 2 * c**2 - 9 * c, m + 9 * c, 8001, dtype=torch.float64)
        density = number(answer(lam, m, c, s), "the density")
        expect(density.shape == lam.shape and bool((density >= 0).all()), "it gives a density at every λ")
        close(torch.trapezoid(density, lam), 1.0, "the density integrates to 1", rtol=1e-6)
        drawn = torch.exp(-(((lam - m) / c) ** 2) / 2)
        asked = (torch.exp(2 * lam) + s**-2) * torch.exp(-2 * lam) * drawn  # weight on x_0, turned to ε, times density
        at = slice(3000, 6001, 500)
        ratio = density[at] / asked[at]
        close(ratio / ratio[0], torch.ones_like(ratio), "density over effective weight is the same at every λ")


def _brightness_kept(b: float, d: int, snr: float) -> float:
    """Spread of the brightness of ODE samples over its true one, from the flow of a joint Gaussian on d pixels."""
    alpha2, variance = snr / (1 + snr), 1 / (1 + snr)
    ones = torch.ones(d, dtype=torch.float64)
    end = alpha2 * b**2 * torch.outer(ones, ones) + variance * torch.eye(d, dtype=torch.float64)
    direction = ones / math.sqrt(d)
    return float(direction @ end @ direction) ** -0.5


@checker("names-05")
def little_enough(answer: Answer) -> None:
    """terminal_snr(b, d, kept): the largest SNR_T that keeps a fraction of the spread of the brightness."""
    for seed in SEEDS:
        generator = _generator(seed)
        b, kept = uniform(generator, 0.4, 2), uniform(generator, 0.4, 0.99)
        for d in (49, 100):
            limit = float(number(answer(b, d, kept), "the limit"))
            expect(limit > 0, "the limit is positive")
            expect(
                abs(_brightness_kept(b, d, limit) - kept) < 1e-8, "at the limit the spread is the fraction asked for"
            )
        increasing([answer(b, d, kept) for d in (10_000, 1000, 100)], "larger pictures need a darker end")
        increasing([answer(b, 1000, k) for k in (0.99, 0.9, 0.5)], "whoever wants less may end earlier")
        for small in (0.05, 0.1):
            expect(float(answer(small, 64, kept)) == math.inf, "where d b² ≤ 1 the spread does not shrink: no limit")


@checker("names-06")
def same_picture_larger(answer: Answer) -> None:
    """time_for(t, size, base): the time of the large picture whose block means look like the small one at t."""
    for base, size in ((4, 8), (4, 12), (8, 8), (8, 4)):
        for t in (0.1, 0.5, 0.8):
            u = float(number(answer(t, size, base), "the time"))
            expect(0 < u < 1, "the time lies in (0, 1)")
            if size >= base:
                block = (size // base) ** 2
                mean = torch.full((block,), 1 / block, dtype=torch.float64)
                noise = float((mean * u).square().sum()) ** 0.5  # of the mean of independent pixels
                close(
                    noise / ((1 - u) * float(mean.sum())), t / (1 - t), "a block mean is as noisy as the small picture"
                )
            close(answer(u, base, size), t, "going back to the small size gives the time back")
        increasing([answer(t, size, base) for t in (0.1, 0.3, 0.9)], "later stays later")
        close(answer(0.0, size, base), 0.0, "t = 0 stays")
        close(answer(1.0, size, base), 1.0, "t = 1 stays")


@checker("names-07")
def best_dice(answer: Answer) -> None:
    """best_density(lam, omega, second): the density of λ with the least noisy gradient."""
    for seed in SEEDS:
        generator = _generator(seed)
        lam = torch.sort(6 * torch.rand(40, generator=generator, dtype=torch.float64) - 3).values
        omega = 0.1 + torch.rand(40, generator=generator, dtype=torch.float64)
        second = torch.exp(normal(generator, 40))
        best = number(answer(lam, omega, second), "the density")
        expect(best.shape == lam.shape and bool((best > 0).all()), "it gives a positive density at every λ")
        close(torch.trapezoid(best, lam), 1.0, "the density integrates to 1 on the grid, even if it is uneven")

        def cost(p: Tensor, lam: Tensor = lam, omega: Tensor = omega, second: Tensor = second) -> Tensor:
            p = p / torch.trapezoid(p, lam)
            return torch.trapezoid(omega**2 / p * second, lam)

        least = cost(best)
        for _ in range(10):
            other = best * torch.exp(0.05 * normal(generator, 40))
            expect(cost(other) >= least * (1 - 1e-12), "no density nearby has a smaller second moment")
        close(answer(lam, 3 * omega, second), best, "a factor in front of the loss changes nothing")
