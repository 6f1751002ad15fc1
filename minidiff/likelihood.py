"""The density of a denoiser's probability-flow ODE, by the change of variables along its paths (Chen et al. 2018).

Along dx/dt = u(x, t) the density obeys d/dt log p_t(x_t) = −∇·u(x_t, t), so that

    log p_s(x_s) = log p_t(x_t) + ∫_s^t ∇·u dt

for two times on one path. This is the likelihood of the *ODE's* model. It is not the model that the variational bound
(`minidiff.bound`) speaks of, and need not lie below it. Denoisers that were trained on coupled pairs are welcome: the
velocity, unlike the score, is right under every coupling.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from minidiff import arguments
from minidiff.denoiser import DenoiserLike, predict
from minidiff.noise import Generators
from minidiff.ode import Method, Variables, check_flow, runge_kutta

Field = Callable[[Tensor], Tensor]


def divergence(field: Field, x: Tensor, probes: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """(v, ∇·v) of v = field(x), where row i of v depends on row i of x alone; (B, *D) and (B,), without gradients.

    Without probes ∇·v = Σ_j ∂v_j/∂x_j is exact and costs one backward pass for each coordinate. With probes z
    (P, B, *D), from `noise.probes`, it is Hutchinson's estimate, the mean of z·∇(z·v) over the P probes, at one
    backward pass each; it is unbiased if E z zᵀ = I.
    Raises ValueError if v does not have the shape of x, or probes not that of x after their first axis.
    """
    arguments.floating("x", x)
    if probes is not None and probes.shape[1:] != x.shape:
        raise ValueError(f"probes must have shape (P, {', '.join(map(str, x.shape))}), got {tuple(probes.shape)}")
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        v = field(x)
        arguments.same_shape("field(x)", v, "x", x)
        total = x.new_zeros(len(x))
        if not v.requires_grad:  # a constant field
            return v, total
        directions = _basis(x) if probes is None else probes
        for z in directions:
            (row,) = torch.autograd.grad(v, x, z.to(v), retain_graph=True, allow_unused=True)
            if row is not None:
                total = total + (row * z).flatten(1).sum(1)
    return v.detach(), total if probes is None else total / len(probes)


def _basis(x: Tensor) -> Tensor:
    """Each unit vector, for the whole batch at once: (d, B, *D) without taking its memory."""
    d = x[0].numel()
    return torch.eye(d, dtype=x.dtype, device=x.device).reshape(d, 1, *x.shape[1:]).expand(d, *x.shape)


class Transported(NamedTuple):
    """Where the flow took x, (B, *D), and log p_start(x_start) − log p_end(x_end), (B,) float64."""

    x: Tensor
    log_ratio: Tensor


def transport(
    D: DenoiserLike, x: Tensor, times: Tensor, *, method: Method = "rk4", probes: Tensor | None = None
) -> Transported:
    """Carry x and its log density along the flow from times[0] to times[-1], in either direction of time.

    The log ratio is ∫ ∇·u dt from times[0] to times[-1], integrated by the method together with x; probes as in
    `divergence`, the same ones along a whole path, so that the integrand stays smooth (Grathwohl et al. 2019).
    x (B, *D) of any shape, times as in `ode.runge_kutta`. Raises what `ode.probability_flow` and `divergence` raise.
    """
    check_flow(D, x, times)

    def slope(t: Tensor, y: Variables) -> Variables:
        v, trace = divergence(lambda z: predict(D, z, t, "velocity"), y[0], probes)
        return v, trace.double()

    start = (x.detach(), torch.zeros(len(x), dtype=torch.float64, device=x.device))
    for x_end, log_ratio in runge_kutta(slope, start, times, method):  # noqa: B007
        pass
    return Transported(x_end, log_ratio)


def log_prob(
    D: DenoiserLike,
    x: Tensor,
    times: Tensor,
    *,
    prior: Callable[[Tensor], Tensor] | None = None,
    method: Method = "rk4",
    probes: Tensor | None = None,
) -> Tensor:
    """log density, at the time times[0], of the model that flows from the prior at times[-1]; (B,) nats, float64.

    prior: the log density at times[-1], (B, *D) → (B,); by default that of `Process.prior`, N(0, (α² + σ²) I) at
    t = 1. With exact arithmetic this is Song et al. 2021, eq. 39. times rise from the data (a small t with σ > 0) to
    the noise. Raises what `transport` raises, and ValueError for falling times, or for times[-1] < 1 without a prior.
    """
    check_flow(D, x, times)
    if times[0] > times[-1]:
        raise ValueError("times must rise from the data to the noise, got a falling grid: pass times.flip(0)")
    if prior is None and float(times[-1]) != 1:
        raise ValueError(f"without a prior the times must end at 1, where the process has one, got {float(times[-1])}")
    x_end, log_ratio = transport(D, x, times, method=method, probes=probes)
    log_end = _log_prior(D, x_end) if prior is None else prior(x_end)
    return log_end.double() + log_ratio


def _log_prior(D: DenoiserLike, x: Tensor) -> Tensor:
    """log N(x; 0, (α_1² + σ_1²) I), the law of `Process.prior`."""
    one = torch.ones((), dtype=torch.float64)
    variance = float(D.process.alpha(one)) ** 2 + float(D.process.sigma(one)) ** 2
    squares = x.double().square().flatten(1).sum(1)
    return -squares / (2 * variance) - x[0].numel() / 2 * math.log(2 * math.pi * variance)


def dequantise(x0: Tensor, levels: int, generator: Generators = None) -> Tensor:
    """x0 + u with u uniform in ±1/(levels − 1), half a bin of the grey levels −1 + 2k/(levels − 1); like x0 (B, *D).

    Noise of the width of a bin turns the probabilities of discrete pictures into a density (Theis et al. 2016).
    """
    arguments.floating("x0", x0)
    arguments.positive_integer("levels", levels, 2)
    if generator is None or isinstance(generator, torch.Generator):
        device = x0.device if generator is None else generator.device
        u = torch.rand(x0.shape, generator=generator, dtype=x0.dtype, device=device).to(x0.device)
    else:
        if len(generator) != len(x0):
            raise ValueError(f"one generator a sample needed: got {len(generator)} for a batch of {len(x0)}")
        u = torch.stack([torch.rand(x0.shape[1:], generator=g, dtype=x0.dtype) for g in generator]).to(x0.device)
    return x0 + (2 * u - 1) / (levels - 1)


def quantise(x: Tensor, levels: int) -> Tensor:
    """The nearest of the grey levels −1 + 2k/(levels − 1), after clamping to [−1, 1]; like x. Undoes `dequantise`."""
    arguments.floating("x", x)
    arguments.positive_integer("levels", levels, 2)
    half = (levels - 1) / 2
    return ((x.clamp(-1, 1) + 1) * half).round() / half - 1


def dequantised_bits(log_density: Tensor, dimensions: int, levels: int) -> Tensor:
    """Bits per dimension −(log p(x + u) + d log w)/(d log 2) with the bin width w = 2/(levels − 1); like log_density.

    Its mean over the dequantisation noise is an upper bound on −log₂ P(x)/d for the model P that integrates p over
    bins. A density that is uniform over all bins gets log₂ levels.
    """
    arguments.positive_integer("dimensions", dimensions)
    arguments.positive_integer("levels", levels, 2)
    return -(log_density / dimensions + math.log(2 / (levels - 1))) / math.log(2)
