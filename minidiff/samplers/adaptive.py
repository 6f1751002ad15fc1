"""Steps that choose themselves: a predictor–corrector pair whose difference is the estimate of its error."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from minidiff import arguments
from minidiff.denoiser import DenoiserLike
from minidiff.process import Process
from minidiff.samplers.exponential import coordinate, integral_weights
from minidiff.samplers.state import Grid, State, begin, combine, scalars

Controller = Literal["I", "PI"]
Norm = Literal["worst", "mean"]
LAST_ANGLE = 0.06  # where σ(end) = 0: r/s from which the polynomial is carried to σ = 0
SAFETY, LEAST, MOST = 0.9, 0.2, 2.0


def adaptive(
    D: DenoiserLike,
    x: Tensor,
    times: Tensor,
    *,
    order: int = 2,
    rtol: float = 0.01,
    atol: float = 0.01,
    controller: Controller = "PI",
    norm: Norm = "worst",
    first: float = 0.1,
    max_calls: int = 1000,
) -> Iterator[State]:
    """Variable-step multistep exponential integrator with error control, one call of D an attempted step.

    Predictor: D a polynomial in cos θ, θ = arctan(r/s), through its last k ≤ order values, integrated exactly; s is the
    scale of D's `angle`, where it has one, else σ_data.
    Corrector: the same through the value at the predicted point too. Their difference e is of the order h^{k+1} in the
    step h in θ. The step is accepted if
    E = rms(e)/(atol √(α_t² σ_data² + σ_t²) + rtol max(rms x_s, rms x_t)) ≤ 1 in the worst sample of the batch (or in
    the root mean square over it, norm="mean"), and h is multiplied by 0.9 E^{−1/(k+1)} ("I") or, after an accepted
    step, by 0.9 E^{−0.7/(k+1)} E_before^{0.4/(k+1)} ("PI", Gustafsson 1991), at least 0.2 and at most 2. One step size
    serves the batch.

    x: (B, *D) at times[0]; times: float64 (2,), where to start and where to end. The first try is the share `first` of
    the way. Yields the accepted steps only: calls = 1 + accepted + rejected. Where σ(end) = 0 a closing step follows
    from r = 0.06 s, with D linear in cos θ through two known values: it is one more state and needs no call; its
    error is a floor that no tolerance lowers. Raises what `begin` raises, ValueError for other settings, and while
    running RuntimeError after max_calls.
    """
    grid = begin_adaptive(D, x, times, rtol, atol, first, max_calls)
    arguments.positive_integer("order", order)
    if order > 3:
        raise ValueError(f"order must be at most 3, got {order}")
    if controller not in get_args(Controller):
        raise ValueError(f"controller must be among {get_args(Controller)}, got {controller!r}")
    if norm not in get_args(Norm):
        raise ValueError(f"norm must be among {get_args(Norm)}, got {norm!r}")
    arguments.real("the sigma_data of D", D.sigma_data, 1e-12)
    angle = getattr(D, "angle", None)
    scale = angle.scale if angle else D.sigma_data
    start, end = (_Node.of(D.process, t, scale) for t in grid.times)
    return _adaptive(D, x, start, end, scale, order, (rtol, atol), controller, norm, first, max_calls)


def begin_adaptive(
    D: DenoiserLike, x: Tensor, times: Tensor, rtol: float, atol: float, first: float, max_calls: int
) -> Grid:
    """`begin` for a start and an end, and the settings that every adaptive sampler has. Raises for what is not so."""
    if isinstance(times, Tensor) and times.shape != (2,):
        raise ValueError(f"times must be (2,), the start and the end, got shape {tuple(times.shape)}")
    grid = begin(D, x, times)
    arguments.real("rtol", rtol, 0.0)
    arguments.real("atol", atol, 0.0)
    if rtol == 0 and atol == 0:
        raise ValueError("rtol and atol must not both be 0")
    arguments.real("first", first, 1e-12, 1.0)
    arguments.positive_integer("max_calls", max_calls)
    if not len(x):
        raise ValueError(f"x must hold at least one sample, whose error sets the steps, got shape {tuple(x.shape)}")
    return grid


@dataclass(frozen=True)
class _Node:
    """A time with its schedule, as floats."""

    t: Tensor
    alpha: float
    sigma: float
    lam: float
    theta: float

    @classmethod
    def of(cls, process: Process, t: Tensor, scale: float) -> _Node:
        lam = float(process.lam(t))
        theta = math.pi / 2 if lam == -math.inf else math.atan(math.exp(-lam) / scale)
        return cls(t, float(process.alpha(t)), float(process.sigma(t)), lam, theta)


def _adaptive(
    D: DenoiserLike,
    x: Tensor,
    here: _Node,
    end: _Node,
    scale: float,
    order: int,
    tolerances: tuple[float, float],
    controller: Controller,
    norm: Norm,
    first: float,
    max_calls: int,
) -> Iterator[State]:
    process = D.process
    of_lam = coordinate("cos", process, scale)

    def step(to: _Node, nodes: list[_Node], values: list[Tensor]) -> Tensor:
        weights = integral_weights(here.lam, to.lam, [node.lam for node in nodes], of_lam)
        kept = scalars([to.sigma / here.sigma], x)[0]
        return combine(kept, x, tuple(to.alpha * w for w in weights), tuple(values))

    yield State(here.t, x, None)
    stop = LAST_ANGLE if end.sigma == 0 else end.theta
    nodes, values, calls = [here], [D(x, here.t)], 1
    anchor = here, values[0]  # the last node with θ ≥ 2 stop: from nearer ones an extrapolation would amplify errors
    h, before = first * (here.theta - stop), None
    while here.theta > stop:
        if calls >= max_calls:
            raise RuntimeError(f"tolerance not met after {calls} calls, at t = {float(here.t)}: allow more error")
        if here.theta - h <= stop * (1 + 1e-9):
            h = here.theta - stop
        last_one = here.theta - h <= stop * (1 + 1e-9) and end.sigma > 0
        to = end if last_one else _Node.of(process, _time(process, here.theta - h, scale), scale)
        used = len(nodes)
        low = step(to, nodes, values)
        value = D(low, to.t)
        calls += 1
        high = step(to, [to, *nodes], [value, *values])
        error = _error(low, high, x, to, D.sigma_data, tolerances, norm)
        accepted = error <= 1
        growth = SAFETY * max(error, 1e-10) ** (-1 / (used + 1)) if math.isfinite(error) else LEAST
        if accepted:
            if controller == "PI" and before is not None:
                growth = SAFETY * max(error, 1e-10) ** (-0.7 / (used + 1)) * before ** (0.4 / (used + 1))
            before = max(error, 1e-4)
            x, here = high, to
            nodes, values = [to, *nodes][:order], [value, *values][:order]
            if to.theta >= 2 * stop:
                anchor = to, value
            yield State(to.t, x, value)
            if last_one:
                return
        h *= min(MOST, max(LEAST, growth if accepted else min(growth, SAFETY)))
        if here.theta <= stop * (1 + 1e-9):
            break
    if anchor[0].theta > here.theta:
        nodes, values = [here, anchor[0]], [values[0], anchor[1]]
    x = step(end, nodes[:2], values[:2])
    yield State(end.t, x, values[0])


def _time(process: Process, theta: float, scale: float) -> Tensor:
    return process.time(torch.tensor(-math.log(scale * math.tan(theta)), dtype=torch.float64))


def _error(
    low: Tensor, high: Tensor, x: Tensor, to: _Node, sigma_data: float, tolerances: tuple[float, float], norm: Norm
) -> float:
    """The size of high − low over what is allowed, in the worst sample or on average."""
    rtol, atol = tolerances
    size = torch.maximum(_rms(x), _rms(high))
    allowed = atol * math.hypot(to.alpha * sigma_data, to.sigma) + rtol * size
    ratio = _rms(high - low) / allowed
    return float(ratio.max() if norm == "worst" else ratio.square().mean().sqrt())


def _rms(x: Tensor) -> Tensor:
    return x.double().flatten(1).square().mean(1).sqrt()
