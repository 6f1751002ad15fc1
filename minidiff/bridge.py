"""The Schrödinger bridge in one dimension: the likeliest way from one density to another for a Brownian motion.

Among all processes with density p at t = 0 and q at t = 1 it is the closest, in Kullback–Leibler divergence, to a
Brownian motion of variance `noise`² per unit of time (Schrödinger 1931). Given its two ends it is a Brownian bridge, so
all that has to be found is the joint law of the ends; `fit` finds it on grids by iterative proportional fitting,
Sinkhorn's algorithm for entropic optimal transport (Cuturi 2013).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from minidiff import arguments


class Fit(NamedTuple):
    """One sweep: the joint law plan (n, m), whose columns sum to q, and how far its rows are from p, Σ|·|/2."""

    plan: Tensor
    error: float


def fit(p: Tensor, x: Tensor, q: Tensor, y: Tensor, noise: float, sweeps: int = 1000) -> Iterator[Fit]:
    """Iterative proportional fitting: scale the rows of exp(−(x − y)²/(2 noise²)) to p, the columns to q, and again.

    p (n,) are the probabilities of the places x (n,) at t = 0, q (m,) those of y (m,) at t = 1; positive, normalised
    here. Yields a `Fit` after each of `sweeps` sweeps, in float64 and on a logarithmic scale, so that a small noise
    only slows it down. Each half-sweep is a projection in Kullback–Leibler divergence. Raises ValueError for shapes
    that do not fit, weights that are not positive, and noise ≤ 0.
    Source: Fortet 1940; Sinkhorn & Knopp 1967; Peyré & Cuturi 2019, section 4.2.
    """
    for name, weights, places in (("p", p, x), ("q", q, y)):
        arguments.finite(name, weights)
        arguments.finite(f"the places of {name}", places)
        if weights.ndim != 1 or weights.shape != places.shape or not len(weights):
            raise ValueError(
                f"{name} and its places must be vectors of one length, got {tuple(weights.shape)} "
                f"and {tuple(places.shape)}"
            )
        if not bool((weights > 0).all()):
            raise ValueError(f"{name} must be positive, got the value {float(weights.min())}")
    arguments.real("noise", noise, 1e-6)
    arguments.positive_integer("sweeps", sweeps)
    log_p, log_q = (w.double().log() - w.double().sum().log() for w in (p, q))
    return _sweeps(log_p, log_q, -(x.double()[:, None] - y.double()).square() / (2 * noise**2), sweeps)


def _sweeps(log_p: Tensor, log_q: Tensor, log_kernel: Tensor, sweeps: int) -> Iterator[Fit]:
    log_v = torch.zeros_like(log_q)
    for _ in range(sweeps):
        log_u = log_p - torch.logsumexp(log_kernel + log_v, 1)
        log_v = log_q - torch.logsumexp(log_kernel + log_u[:, None], 0)
        plan = (log_u[:, None] + log_kernel + log_v).exp()
        yield Fit(plan, float((plan.sum(1) - log_p.exp()).abs().sum() / 2))


def couple(p: Tensor, x: Tensor, q: Tensor, y: Tensor, noise: float, tolerance: float = 1e-8) -> Tensor:
    """The joint law (n, m) of the bridge's two ends: `fit` until its error is at most `tolerance`.

    Raises what `fit` raises, and RuntimeError if 100 000 sweeps do not suffice (the noise is too small for that).
    """
    arguments.real("tolerance", tolerance, 1e-15)
    for plan, error in fit(p, x, q, y, noise, sweeps=100_000):
        if error <= tolerance:
            return plan
    raise RuntimeError(f"after 100000 sweeps the error is {error:.2g}, above the tolerance {tolerance:g}: more noise?")


def marginal(plan: Tensor, x: Tensor, y: Tensor, noise: float, t: float, at: Tensor) -> Tensor:
    """Density of the bridge at time t in (0, 1), at the places `at` (k,): a mixture of Brownian bridges; (k,).

    Given its ends, x_t ~ N((1 − t) x + t y, noise² t (1 − t)). Raises ValueError for a t outside (0, 1) and for a plan
    that is not (n, m).
    """
    arguments.real("noise", noise, 1e-6)
    arguments.real("t", t, 1e-9, 1 - 1e-9)
    if plan.shape != (len(x), len(y)):
        raise ValueError(f"plan must be ({len(x)}, {len(y)}), got {tuple(plan.shape)}")
    variance = noise**2 * t * (1 - t)
    mean = ((1 - t) * x.double()[:, None] + t * y.double()).flatten()
    weights = plan.double().flatten()
    parts = [((-(part[:, None] - mean).square() / (2 * variance)).exp() @ weights) for part in at.double().split(64)]
    return torch.cat(parts) / math.sqrt(2 * math.pi * variance)
