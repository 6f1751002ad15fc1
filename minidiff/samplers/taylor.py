"""A second-order Taylor step: the derivative of ε̂ along the path, by a Jacobian–vector product."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from minidiff.denoiser import DenoiserLike
from minidiff.samplers.state import Grid, State, begin, combine, scalars


def taylor(D: DenoiserLike, x: Tensor, times: Tensor) -> Iterator[State]:
    """GENIE's step before its distilled head (Dockhorn et al. 2022, eq. 8): Taylor's polynomial of ε̂ in r.

    With y = x/α, dy/dr = ε̂: y_t = y_s + h ε̂ + ½ h² dε̂/dr, h = r_t − r_s, and dε̂/dr = −(dD/dr)/r since D = y − r ε̂.
    The derivative along the path, dD/dt = (∂D/∂x) dx/dt + ∂D/∂t, is one product of D's Jacobian with (dx/dt, 1) by
    forward-mode differentiation. A step is one call and one such product, which evaluates D again: about three calls'
    worth of work. The published method trains a small head to predict the derivative instead. Order 2. A step that
    begins at α = 0, where r is infinite, is DDIM's.

    x: (B, *D) at times[0]; times: float64 (n + 1,). D must be differentiable in forward mode in x and in t given as
    (B,). Raises what `begin` raises.
    """
    grid = begin(D, x, times)
    return _taylor(D, x, grid)


def _taylor(D: DenoiserLike, x: Tensor, grid: Grid) -> Iterator[State]:
    yield State(grid.times[0], x, None)
    rates = [rate.tolist() for rate in D.process.rates(torch.stack(grid.times))]
    for i in grid.steps:
        s, alpha, sigma, alpha_t = grid.times[i], grid.alpha[i], grid.sigma[i], grid.alpha[i + 1]
        ratio = grid.sigma[i + 1] / sigma
        x0 = D(x, s)
        weights, values = (alpha_t - alpha * ratio,), (x0,)
        if alpha > 0:
            alpha_rate, sigma_rate = rates[0][i], rates[1][i]
            velocity = (sigma_rate / sigma) * x + (alpha_rate - alpha * sigma_rate / sigma) * x0
            r, r_rate = sigma / alpha, (sigma_rate * alpha - sigma * alpha_rate) / alpha**2
            gap = grid.sigma[i + 1] / alpha_t - r
            weights = (*weights, -alpha_t * gap**2 / (2 * r * r_rate))
            values = (*values, along_path(D, x, s, velocity))
        x = combine(scalars([ratio], x)[0], x, weights, values)
        yield State(grid.times[i + 1], x, x0)


def along_path(D: DenoiserLike, x: Tensor, t: Tensor, velocity: Tensor) -> Tensor:
    """dD/dt = (∂D/∂x) · velocity + ∂D/∂t at x (B, *D) and 0-d t, by one Jacobian–vector product; (B, *D)."""
    at = t.to(x.device).expand(len(x)).clone()
    with sdpa_kernel(SDPBackend.MATH):  # the fused attention kernels have no forward mode
        return torch.func.jvp(lambda x, t: D(x, t), (x, at), (velocity.to(x), torch.ones_like(at)))[1]
