"""What every sampler shares: the states it yields, its checked start, and the schedule on its grid as floats."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from minidiff import arguments
from minidiff.denoiser import DenoiserLike, check_denoiser
from minidiff.process import Process
from minidiff.times import check_times


class State(NamedTuple):
    """A sampler's state: time t (0-d float64), sample x (B, *D), and the prediction x̂_0 that led here, or None."""

    t: Tensor
    x: Tensor
    x0: Tensor | None


@dataclass(frozen=True)
class Grid:
    """The times of a run, one 0-d tensor each, and α, σ, λ at them as Python floats."""

    times: tuple[Tensor, ...]
    alpha: list[float]
    sigma: list[float]
    lam: list[float]

    @classmethod
    def of(cls, process: Process, times: Tensor) -> Grid:
        """Evaluate the schedule on times (n + 1,)."""
        alpha, sigma, lam = process.alpha(times), process.sigma(times), process.lam(times)
        return cls(times.unbind(), alpha.tolist(), sigma.tolist(), lam.tolist())

    def part(self, start: int, stop: int) -> Grid:
        """The nodes start … stop − 1 as a grid of their own."""
        of = slice(start, stop)
        return Grid(self.times[of], self.alpha[of], self.sigma[of], self.lam[of])

    @property
    def steps(self) -> range:
        """The indices i of the steps from times[i] to times[i + 1]."""
        return range(len(self.times) - 1)


def begin(D: DenoiserLike, x: Tensor, times: Tensor) -> Grid:
    """Check what every sampler is given, at its call, and evaluate the schedule.

    Raises TypeError or ValueError unless D is a denoiser, x (B, *D) is finite and floating point, and times is a grid
    (`times.check_times`).
    """
    check_denoiser(D)
    arguments.finite("x", x)
    if x.ndim < 2:
        raise ValueError(f"x must have a batch axis, (B, *D), got shape {tuple(x.shape)}")
    check_times(times)
    return Grid.of(D.process, times)


def refuse_coupled(D: DenoiserLike, method: str) -> None:
    """Raise ValueError for a coupled denoiser: noise fresh at every step needs x_0 and ε independent."""
    check_denoiser(D)
    if D.coupled:
        raise ValueError(f"{method} adds independent noise, but D was trained under a coupling of x0 and eps: use ddim")


def scalars(values: Sequence[float], x: Tensor) -> tuple[Tensor, ...]:
    """0-d tensors, at least float32, for `combine`: torch multiplies by them in half the time of a float."""
    return torch.tensor(values, dtype=torch.promote_types(x.dtype, torch.float32)).unbind()


def combine(scale: Tensor, x: Tensor, weights: tuple[float, ...], values: tuple[Tensor, ...]) -> Tensor:
    """scale · x + Σ_j weights[j] · values[j], in one new tensor; scale is 0-d.

    Raises TypeError unless D returned a floating-point tensor, ValueError unless it has the shape of x.
    """
    value = values[0]
    if getattr(value, "shape", None) != x.shape or not value.is_floating_point():  # once a step: no call if all is well
        _refuse_answer(value, x)
    total = x * scale
    for weight, value in zip(weights, values, strict=False):
        total.add_(value, alpha=weight)
    return total


def _refuse_answer(value: Tensor, x: Tensor) -> None:
    arguments.floating("what D returns", value)
    raise ValueError(f"D must return x̂_0 of the shape of x, {tuple(x.shape)}, got {tuple(value.shape)}")


def add(x: Tensor, weights: tuple[float, ...], values: tuple[Tensor, ...]) -> Tensor:
    """x + Σ_j weights[j] · values[j], in one new tensor of the dtype of x, whatever D answers in."""
    total = x.add(values[0], alpha=weights[0])
    for weight, value in zip(weights[1:], values[1:], strict=False):
        total.add_(value, alpha=weight)
    return total if total.dtype == x.dtype else total.to(x.dtype)  # a `to` that changes nothing takes a microsecond


def last(states: Iterator[State]) -> Tensor:
    """Run a sampler to its end and return the last x (B, *D). Raises ValueError for an empty iterator."""
    state = None
    for state in states:  # noqa: B007
        pass
    if state is None:
        raise ValueError("no states: a sampler yields at least its start")
    return state.x


def path(states: Iterator[State]) -> Tensor:
    """Run a sampler to its end and return every x: (number of times, B, *D)."""
    return torch.stack([state.x for state in states])
