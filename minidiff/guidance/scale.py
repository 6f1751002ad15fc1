"""Guidance by the difference of two denoisers: classifier-free, by a weak model, within an interval of noise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from minidiff import arguments
from minidiff.denoiser import Combined, DenoiserLike
from minidiff.guidance.conditional import Conditional

Scale = float | Tensor
Rule = Callable[[Tensor, Tensor, Scale], Tensor]


def extrapolate(x1: Tensor, x0: Tensor, w: Scale) -> Tensor:
    """x0 + w (x1 − x0), exactly x0 at w = 0 and x1 at w = 1; x1 and x0 (B, *D), w a number or (B,)."""
    return torch.lerp(x0.to(x1.dtype), x1, arguments.along(w, x1) if isinstance(w, Tensor) else w)


class Guided(Combined):
    """x̂_0 = rule(x̂_1, x̂_0, w) of a positive denoiser x̂_1 and a negative one x̂_0, by default x̂_0 + w (x̂_1 − x̂_0).

    The same line through two points is drawn whether they are x̂_0, ε̂, v, scores or velocities, because all of them
    are affine in x̂_0. w: a number, or (B,) with one for each row. interval (low, high): w acts where low < r ≤ high,
    r = σ/α; elsewhere it is 1. high may be infinite.

    Calls: both denoisers once; only the positive one where w = 1 (outside the interval, too), and only the negative one
    where w = 0 and the rule is `extrapolate`. With one t or one w for each row that needs to hold in all of them.

    Raises TypeError or ValueError for what is no denoiser, processes that differ, a w that is not finite, an interval
    without 0 ≤ low < high; at the call for a t or w that does not fit the batch.
    """

    def __init__(
        self,
        positive: DenoiserLike,
        negative: DenoiserLike,
        w: Scale,
        interval: tuple[float, float] | None = None,
        rule: Rule = extrapolate,
    ) -> None:
        super().__init__(positive, negative)
        if isinstance(w, Tensor):
            arguments.finite("w", w)
            if w.ndim != 1:
                raise ValueError(f"w must be a number or have shape (B,), got {tuple(w.shape)}")
        else:
            arguments.real("w", w)
        if interval is not None:
            _check_interval(interval)
        self.positive, self.negative, self.w, self.interval, self.rule = positive, negative, w, interval, rule

    def with_rule(self, rule: Rule) -> Guided:
        """The same two denoisers, scale and interval under another rule."""
        return Guided(self.positive, self.negative, self.w, self.interval, rule)

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """x̂_0 of the shape of x (B, *D); t () or (B,)."""
        w = self.scale(x, t)
        if _everywhere(w, 1):
            return self.positive(x, t)
        if _everywhere(w, 0) and self.rule is extrapolate:
            return self.negative(x, t)
        return self.rule(self.positive(x, t), self.negative(x, t), w)

    def scale(self, x: Tensor, t: Tensor) -> Scale:
        """The w that acts at t on the rows of x: a number, or (B,) where w or t has one for each row."""
        arguments.time_of_batch(t, x)
        if isinstance(self.w, Tensor) and len(self.w) != len(x):
            raise ValueError(f"w must hold one number a sample, got {len(self.w)} for a batch of {len(x)}")
        if self.interval is None:
            return self.w
        r = self.process.sigma(t.double()) / self.process.alpha(t.double())
        inside = (r > self.interval[0]) & (r <= self.interval[1])
        if inside.ndim == 0:
            return self.w if inside else 1.0
        return torch.where(inside, torch.as_tensor(self.w, dtype=torch.float64, device=inside.device), 1.0)


def cfg(
    D: Conditional,
    y: Any,  # noqa: ANN401
    w: Scale,
    null: Any = None,  # noqa: ANN401
    interval: tuple[float, float] | None = None,
) -> Guided:
    """Classifier-free guidance: D(x, t) + w (D(x, t | y) − D(x, t)) (Ho & Salimans 2022, whose w is ours less 1).

    y: what `D.given` takes, one label a sample (B,) for a `Denoiser`. null: a condition to move away from instead of
    none, a negative prompt. interval: the noise levels low < σ/α ≤ high at which w acts; elsewhere the conditional
    denoiser does (Kynkäänniemi et al. 2024). Two calls of the network; one where w is 0 or 1 or outside the interval.

    For w other than 0 and 1 this is not the denoiser of p(x|y)^w p(x)^{1−w}: see `corrected`. Raises what `Guided`
    raises, TypeError for a D without `given`, and at the call what D raises for a y of another batch size.
    """
    if not hasattr(D, "given"):
        raise TypeError(f"cfg needs a conditional denoiser, with a method given(y), got {D!r}")
    return Guided(D.given(y), D if null is None else D.given(null), w, interval)


def autoguidance(D: DenoiserLike, weak: DenoiserLike, w: Scale, interval: tuple[float, float] | None = None) -> Guided:
    """Away from a weak version of the model: D_weak + w (D − D_weak) (Karras et al. 2024).

    D and weak: two denoisers of one process, both with the same condition bound if they have one; weak is smaller or
    trained for less time. Where they agree nothing changes. Two calls, as in `Guided`, and raises what it raises.
    """
    return Guided(D, weak, w, interval)


def require_guided(guided: object, method: str) -> None:
    """Raise TypeError unless it is `Guided`, with two denoisers and a scale."""
    if not isinstance(guided, Guided):
        raise TypeError(f"{method} needs both denoisers: the Guided of cfg or autoguidance, got {guided!r}")


def _check_interval(interval: tuple[float, float]) -> None:
    numbers = isinstance(interval, Sequence) and len(interval) == 2 and all(isinstance(r, Real) for r in interval)
    if not numbers or not 0 <= interval[0] < interval[1]:
        raise ValueError(f"interval must be (low, high) in r = σ/α with 0 ≤ low < high, got {interval!r}")


def _everywhere(w: Scale, value: float) -> bool:
    return bool((w == value).all()) if isinstance(w, Tensor) else w == value
