"""The probability-flow ODE dx/dt = α′ x̂_0 + σ′ ε̂ (Song et al. 2021, eq. 13) in either direction of time.

Samplers walk from noise to data. Encoding an image and computing its likelihood walk the other way, on the same curve;
so here the times may rise or fall. The methods are explicit Runge–Kutta methods in t: simple, of a known order, and
exact enough to serve as a reference. A sampler that has to be fast is in `minidiff.samplers`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from minidiff import arguments
from minidiff.denoiser import DenoiserLike, check_denoiser, predict
from minidiff.samplers.state import State
from minidiff.times import check_times

Method = Literal["heun", "rk4"]
Variables = tuple[Tensor, ...]
Slope = Callable[[Tensor, Variables], Variables]

# Butcher tables: (the node c of each stage with its weights of the slopes so far), the weights of the step.
_TABLES = {
    "heun": (((0.0, ()), (1.0, (1.0,))), (1 / 2, 1 / 2)),
    "rk4": (((0.0, ()), (0.5, (0.5,)), (0.5, (0.0, 0.5)), (1.0, (0.0, 0.0, 1.0))), (1 / 6, 1 / 3, 1 / 3, 1 / 6)),
}


def runge_kutta(slope: Slope, start: Variables, times: Tensor, method: Method = "rk4") -> Iterator[Variables]:
    """Solve dy/dt = slope(t, y) for a tuple y of tensors: y at every one of the times, beginning with `start`.

    "heun" is of order 2 with 2 slopes a step, "rk4" of order 4 with 4 slopes a step. times: a float64 grid on the
    CPU, (n + 1,), in [0, 1], rising or falling; the slope gets t as a 0-d float64 tensor.
    Raises TypeError or ValueError at the call for other grids, ValueError for an unknown method.
    """
    check_direction(times)
    if method not in _TABLES:
        raise ValueError(f"method must be among {tuple(_TABLES)}, got {method!r}")
    return _steps(slope, start, times, method)


def _steps(slope: Slope, y: Variables, times: Tensor, method: Method) -> Iterator[Variables]:
    stages, weights = _TABLES[method]
    yield y
    for s, t in pairwise(times):
        h = float(t - s)
        slopes: list[Variables] = []
        for node, row in stages:
            # The last node is t itself: s + h may miss it by rounding, and leave [0, 1].
            slopes.append(slope(t if node == 1 else s + node * h, _advanced(y, h, row, slopes)))
        y = _advanced(y, h, weights, slopes)
        yield y


def _advanced(y: Variables, h: float, weights: tuple[float, ...], slopes: list[Variables]) -> Variables:
    """y + h Σ_j weights[j] slopes[j], variable by variable."""
    for weight, slope in zip(weights, slopes, strict=True):
        if weight:
            y = tuple(value + h * weight * rate for value, rate in zip(y, slope, strict=True))
    return y


def probability_flow(D: DenoiserLike, x: Tensor, times: Tensor, *, method: Method = "rk4") -> Iterator[State]:
    """The states x_t on the path through x at times[0]; State.x0 is None, since a step has many predictions.

    Rising times encode an image into noise, falling times decode it. x (B, *D); times as in `runge_kutta`, 2 or 4 calls
    of D a step. The denoiser may be coupled, for the velocity does not ask how x_0 and ε were paired.
    Raises what `runge_kutta` raises, and ValueError for a time with σ = 0, where x̂_0 does not determine the velocity.
    """
    check_flow(D, x, times)

    def slope(t: Tensor, y: Variables) -> Variables:
        return (predict(D, y[0], t, "velocity"),)

    solution = runge_kutta(slope, (x,), times, method)
    return (State(t, y, None) for t, (y,) in zip(times, solution, strict=True))


def check_flow(D: DenoiserLike, x: Tensor, times: Tensor) -> None:
    """Raise unless D is a denoiser, x (B, *D) is finite, times are a rising or falling grid, and σ > 0 on it."""
    check_denoiser(D)
    arguments.finite("x", x)
    if x.ndim < 2:
        raise ValueError(f"x must have a batch axis, (B, *D), got shape {tuple(x.shape)}")
    check_direction(times)
    if bool((D.process.sigma(times) == 0).any()):
        raise ValueError(
            "the flow needs σ > 0 at every time, since at σ = 0 the prediction x̂_0 says nothing about the noise: got "
            f"times between {float(times.min())} and {float(times.max())}; begin at a small t > 0"
        )


def check_direction(times: Tensor) -> None:
    """Raise unless times is a CPU float64 grid (n + 1,), n ≥ 1, in [0, 1], strictly increasing or decreasing."""
    rising = False
    if isinstance(times, Tensor) and times.ndim == 1 and len(times) > 1 and bool(torch.isfinite(times).all()):
        differences = times.diff()
        rising = bool((differences > 0).all())
        if not rising and not bool((differences < 0).all()):
            raise ValueError(f"times must strictly increase or strictly decrease, got {times.tolist()[:8]}")
    check_times(times.flip(0) if rising else times)
