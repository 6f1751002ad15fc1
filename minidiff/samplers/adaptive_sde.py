"""Adaptive steps for the reverse stochastic equation: Euler–Maruyama inside improved Euler."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from minidiff import arguments
from minidiff.denoiser import DenoiserLike
from minidiff.noise import Generators, standard_normal
from minidiff.samplers.adaptive import begin_adaptive
from minidiff.samplers.state import Grid, State, refuse_coupled

SAFETY, EXPONENT = 0.9, 0.9


def adaptive_sde(
    D: DenoiserLike,
    x: Tensor,
    times: Tensor,
    *,
    tau: float = 1.0,
    rtol: float = 0.02,
    atol: float = 0.02,
    first: float = 0.01,
    max_calls: int = 10000,
    generator: Generators = None,
) -> Iterator[State]:
    """The adaptive solver of Jolicoeur-Martineau et al. 2021 for dx = μ(x, t) dt + τ g dW, run backwards.

    μ = f x − (1 + τ²)/2 g² score. An attempt from s to t = s − h with the increment w ~ N(0, h I):
    x′ = x − h μ(x, s) + τ g_s w (Euler–Maruyama), x̃ = x − h μ(x′, t) + τ g_t w, x″ = (x′ + x̃)/2 (improved Euler).
    δ = max(atol, rtol max(|x′|, |x′ of the step before|)) in each coordinate, E = √mean(((x′ − x″)/δ)²) in the worst
    sample. E ≤ 1: go on from x″. In either case h ← 0.9 h E^{−0.9}.

    A rejected increment is kept: the shorter step takes its part of the same Brownian path by the bridge,
    w(h′) | w(h) ~ N(h′/h w, h′ (h − h′)/h I), since drawing a new one would prefer the noise that is easily accepted.
    The law of the samples has a bias of the size of the tolerance, which no test of E bounds.

    x: (B, *D) at times[0]; times: float64 (2,) with α > 0 at the start and σ > 0 at the end. Calls: 2 an accepted step
    and 1 a rejected one, whose D(x, s) is kept. Yields the accepted steps; State.x0 is the prediction at the start of
    the step. Raises what `begin` raises, ValueError for other settings or a coupled denoiser, RuntimeError after
    max_calls.
    """
    refuse_coupled(D, "adaptive_sde")
    grid = begin_adaptive(D, x, times, rtol, atol, first, max_calls)
    if grid.alpha[0] == 0 or grid.sigma[1] == 0:
        raise ValueError(f"times must start where α > 0 and end where σ > 0, got {times.tolist()} for {D.process}")
    arguments.real("tau", tau, 0.0)
    return _adaptive_sde(D, x, grid, tau, (rtol, atol), first, max_calls, generator)


class Brownian:
    """Increments of a Brownian motion from here on, of the shape of `like`; what is drawn and not used is kept."""

    def __init__(self, like: Tensor, generator: Generators) -> None:
        self.like, self.generator = like, generator
        self.kept: list[tuple[float, Tensor]] = []  # lengths and increments, nearest first

    def _normal(self) -> Tensor:
        return standard_normal(self.like.shape, self.generator, self.like.dtype, self.like.device)

    def take(self, h: float) -> Tensor:
        """The increment over the next h."""
        total = torch.zeros_like(self.like)
        while h > 0:
            if not self.kept:
                return total + math.sqrt(h) * self._normal()
            length, increment = self.kept.pop(0)
            if length > h:  # the bridge: a part of a known increment
                part = h / length * increment + math.sqrt(h * (length - h) / length) * self._normal()
                self.kept.insert(0, (length - h, increment - part))
                return total + part
            total, h = total + increment, h - length
        return total

    def give_back(self, h: float, increment: Tensor) -> None:
        """Put an increment over h back in front."""
        self.kept.insert(0, (h, increment))


def _adaptive_sde(
    D: DenoiserLike,
    x: Tensor,
    grid: Grid,
    tau: float,
    tolerances: tuple[float, float],
    first: float,
    max_calls: int,
    generator: Generators,
) -> Iterator[State]:
    s, end = grid.times
    yield State(s, x, None)
    brownian = Brownian(x, generator)
    h, calls, before = first * float(s - end), 0, torch.zeros_like(x)
    x0 = None
    while s > end:
        if calls >= max_calls:
            raise RuntimeError(f"tolerance not met after {calls} calls, at t = {float(s)}: allow more error")
        h = min(h, float(s - end))
        t = end if h >= float(s - end) else s - h
        if x0 is None:
            x0 = D(x, s)
            calls += 1
        increment = brownian.take(h)
        drift, noise = _drift(D, x, x0, s, tau)
        euler = x - h * drift + noise * increment
        drift, noise = _drift(D, euler, D(euler, t), t, tau)
        calls += 1
        improved = (euler + x - h * drift + noise * increment) / 2
        rtol, atol = tolerances
        allowed = (rtol * torch.maximum(euler.abs(), before.abs())).clamp(min=atol)
        ratio = ((euler - improved) / allowed).double().flatten(1).square().mean(1).sqrt()
        error = float(ratio.max())
        if error <= 1:
            yield State(t, improved, x0)
            x, s, before, x0 = improved, t, euler, None
        else:
            brownian.give_back(h, increment)
        h *= max(0.1, SAFETY * max(error, 1e-6) ** -EXPONENT) if math.isfinite(error) else 0.1


def _drift(D: DenoiserLike, x: Tensor, x0: Tensor, t: Tensor, tau: float) -> tuple[Tensor, float]:
    """μ = (σ′/σ − τ² λ′) x + (1 + τ²) α λ′ x̂_0, and τ g = τ σ √(−2 λ′)."""
    alpha, sigma = float(D.process.alpha(t)), float(D.process.sigma(t))
    alpha_rate, sigma_rate = (float(rate) for rate in D.process.rates(t))
    lam_rate = alpha_rate / alpha - sigma_rate / sigma
    drift = (sigma_rate / sigma - tau**2 * lam_rate) * x + (1 + tau**2) * alpha * lam_rate * x0
    return drift.to(x.dtype), tau * sigma * math.sqrt(-2 * lam_rate)
