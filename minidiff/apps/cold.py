"""Cold diffusion: other degradations than noise, undone step by step (Bansal et al. 2022).

degrade(x_0, s) is any deterministic degradation of severity s, the identity at s = 0; a restorer R(x_s, s) guesses x_0.
The naive sampler degrades the guess again, a little less. The improved one keeps x_s and adds the difference that one
step makes to the guess. If the guess is exact both are. If degrade(x, s) = x + e(s) with one e(s) for all x, such as
s e, the improved one returns x_0 exactly for *every* restorer, since then the difference does not depend on the guess;
it does for every other degradation, also for one that is linear in x, as a blur is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from minidiff import arguments
from minidiff.samplers.state import State
from minidiff.times import check_times, pairwise

#: (x_0 (B, *D), severity, a 0-d float64 in [0, 1]) → the degraded x (B, *D); the identity at severity 0.
Degradation = Callable[[Tensor, Tensor], Tensor]
#: (x_s (B, *D), severity) → a guess of x_0 (B, *D).
Restorer = Callable[[Tensor, Tensor], Tensor]


def _begin(x: Tensor, times: Tensor) -> None:
    arguments.finite("x", x)
    if x.ndim < 2:
        raise ValueError(f"x must have a batch axis, (B, *D), got shape {tuple(x.shape)}")
    check_times(times)


def naive(degrade: Degradation, restore: Restorer, x: Tensor, times: Tensor) -> Iterator[State]:
    """x_t = degrade(R(x_s, s), t) from each severity s to the next, t < s; times float64, falling, in [0, 1].

    State.x0 is the guess. Raises TypeError or ValueError at the call for x not finite or other times, ValueError when a
    degradation or a guess changes the shape. Source: Bansal et al. 2022, algorithm 1.
    """
    _begin(x, times)
    return _walk(degrade, restore, x, times, improved=False)


def improved(degrade: Degradation, restore: Restorer, x: Tensor, times: Tensor) -> Iterator[State]:
    """x_t = x_s − degrade(x̂_0, s) + degrade(x̂_0, t), x̂_0 = R(x_s, s); as `naive` otherwise.

    The error obeys x_t − degrade(x_0, t) = (x_s − degrade(x_0, s)) + [δ(x̂_0) − δ(x_0)], δ(x) = degrade(x, t) −
    degrade(x, s): what the guess has wrong counts by how much one step depends on it. Source: Bansal et al. 2022,
    algorithm 2.
    """
    _begin(x, times)
    return _walk(degrade, restore, x, times, improved=True)


def _walk(degrade: Degradation, restore: Restorer, x: Tensor, times: Tensor, improved: bool) -> Iterator[State]:
    yield State(times[0], x, None)
    for s, t in pairwise(times):
        guess = restore(x, s)
        arguments.same_shape("the guess of restore", guess, "x", x)
        after = degrade(guess, t)
        arguments.same_shape("the answer of degrade", after, "x", x)
        x = x - degrade(guess, s) + after if improved else after
        yield State(t, x, guess)


def _severity(s: Tensor) -> float:
    """s as a float. Raises ValueError outside [0, 1]."""
    arguments.real("the severity s", float(s), 0.0, 1.0)
    return float(s)


def fade(target: Tensor) -> Degradation:
    """(1 − s) x_0 + s · target: a straight line to another picture (Bansal et al. 2022, "animorphosis").

    target broadcasts against x_0. Raises ValueError for NaN, and the degradation for s outside [0, 1].
    """
    arguments.finite("target", target)

    def degrade(x0: Tensor, s: Tensor) -> Tensor:
        share = _severity(s)
        return (1 - share) * x0 + share * target.to(dtype=x0.dtype, device=x0.device)

    return degrade


def blur(strength: float) -> Degradation:
    """The periodic heat equation for time s · strength on the last two axes: e^{−s·strength·|k|²}, k in rad a pixel.

    Linear in x_0, with Gaussian blurs of std √(2 s · strength) pixels. Raises ValueError for strength < 0, and the
    degradation for s outside [0, 1].
    """
    arguments.real("strength", strength, 0.0)

    def degrade(x0: Tensor, s: Tensor) -> Tensor:
        waves = [2 * math.pi * torch.fft.fftfreq(n, dtype=torch.float64, device=x0.device) for n in x0.shape[-2:]]
        power = waves[0].square()[:, None] + waves[1].square()
        damped = torch.fft.fft2(x0.double()) * (-_severity(s) * strength * power).exp()
        return torch.fft.ifft2(damped).real.to(x0.dtype)

    return degrade


def erase(order: Tensor) -> Degradation:
    """Pixels (*D) vanish, one after the other, in the order of the keys `order` (*D): a share s of them is zero.

    Raises ValueError for NaN among the keys, and the degradation for s outside [0, 1].
    """
    arguments.finite("order", order)
    rank = order.flatten().argsort().argsort().reshape(order.shape)

    def degrade(x0: Tensor, s: Tensor) -> Tensor:
        return torch.where((rank >= round(_severity(s) * rank.numel())).to(x0.device), x0, torch.zeros_like(x0))

    return degrade
