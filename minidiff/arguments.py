"""Argument checks at the public boundary: every message says what was got and what is needed."""

from __future__ import annotations

import math
from numbers import Real

import torch
from torch import Tensor


def floating(name: str, x: Tensor) -> None:
    """Raise TypeError unless x is a floating-point tensor."""
    if not isinstance(x, Tensor) or not x.is_floating_point():
        got = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(f"{name} must be a floating-point tensor, got {got}")


def finite(name: str, x: Tensor) -> None:
    """Raise TypeError unless x is floating point, ValueError if it holds NaN or infinity."""
    floating(name, x)
    if not bool(torch.isfinite(x).all()):
        raise ValueError(f"{name} must be finite, got NaN or infinity among its {x.numel()} values")


def same_shape(name_a: str, a: Tensor, name_b: str, b: Tensor) -> None:
    """Raise ValueError unless a and b have the same shape."""
    if a.shape != b.shape:
        raise ValueError(f"{name_a} and {name_b} must have the same shape, got {tuple(a.shape)} and {tuple(b.shape)}")


def time_of_batch(t: Tensor, x: Tensor) -> None:
    """Raise unless t is a floating-point tensor of shape () or (B,) with B = len(x) and values in [0, 1]."""
    floating("t", t)
    if t.ndim > 1 or (t.ndim == 1 and (x.ndim == 0 or t.shape[0] != x.shape[0])):
        raise ValueError(
            f"t must have shape () or (B,) with B the batch size of x, got {tuple(t.shape)} for x {tuple(x.shape)}"
        )
    unit_interval("t", t)


def unit_interval(name: str, t: Tensor) -> None:
    """Raise ValueError unless every value lies in [0, 1] (NaN does not)."""
    if t.ndim == 0 and t.device.type == "cpu":  # the case of every sampler step: one comparison of floats
        inside = 0 <= float(t) <= 1
    else:
        inside = bool(((t >= 0) & (t <= 1)).all())
    if not inside:
        raise ValueError(f"{name} must lie in [0, 1], got values from {float(t.min())} to {float(t.max())}")


def positive_integer(name: str, n: int, at_least: int = 1) -> None:
    """Raise unless n is an int (no bool) and n ≥ at_least."""
    if isinstance(n, bool) or not isinstance(n, int):
        raise TypeError(f"{name} must be an integer, got {type(n).__name__} {n!r}")
    if n < at_least:
        raise ValueError(f"{name} must be at least {at_least}, got {n}")


def real(name: str, value: float, low: float = -math.inf, high: float = math.inf) -> None:
    """Raise unless value is a finite real number with low ≤ value ≤ high."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a real number, got {type(value).__name__}")
    if not math.isfinite(value) or not low <= value <= high:
        raise ValueError(f"{name} must be a finite number in [{low}, {high}], got {value}")


def along(coefficient: Tensor, x: Tensor) -> Tensor:
    """A coefficient of shape () or (B,), shaped to multiply x (B, *D) in the dtype and on the device of x.

    A scalar on the CPU multiplies a tensor anywhere and leaves its dtype alone, so it is returned as it is.
    """
    if coefficient.ndim == 0:
        return coefficient
    return coefficient.to(dtype=x.dtype, device=x.device).reshape(-1, *[1] * (x.ndim - 1))
