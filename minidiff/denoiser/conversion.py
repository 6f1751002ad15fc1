"""The parametrisation algebra: any prediction at (x, t) from any other."""

from __future__ import annotations

import functools
from typing import Literal, get_args

import torch
from torch import Tensor

from minidiff import arguments
from minidiff.denoiser.protocol import DenoiserLike, check_denoiser
from minidiff.process import Process

Prediction = Literal["x0", "eps", "v", "score", "velocity"]
Coefficient = float | Tensor
_ENDLESS = float("inf")


@functools.lru_cache(maxsize=4096)
def _marginal_at(process: Process, t: float) -> tuple[float, float]:
    time = torch.tensor(t, dtype=torch.float64)
    return float(process.alpha(time)), float(process.sigma(time))


@functools.lru_cache(maxsize=4096)
def _rates_at(process: Process, t: float) -> tuple[float, float]:
    alpha_rate, sigma_rate = process.rates(torch.tensor(t, dtype=torch.float64))
    return float(alpha_rate), float(sigma_rate)


def _is_host_scalar(t: Tensor) -> bool:
    return t.ndim == 0 and t.device.type == "cpu"


def marginal(process: Process, x: Tensor, t: Tensor) -> tuple[Coefficient, Coefficient]:
    """(α_t, σ_t): floats for one time on the CPU, which a sampler asks for again and again; else shaped along x."""
    if _is_host_scalar(t):
        return _marginal_at(process, float(t))
    return arguments.along(process.alpha(t), x), arguments.along(process.sigma(t), x)


def _rates(process: Process, x: Tensor, t: Tensor) -> tuple[Coefficient, Coefficient]:
    """(α′_t, σ′_t) in the same form."""
    if _is_host_scalar(t):
        return _rates_at(process, float(t))
    alpha_rate, sigma_rate = process.rates(t)
    return arguments.along(alpha_rate, x), arguments.along(sigma_rate, x)


def _anywhere(condition: bool | Tensor) -> bool:
    return bool(condition.any()) if isinstance(condition, Tensor) else condition


def _refuse_at(zero: Coefficient, name: str, t: Tensor, source: str, target: str) -> None:
    if _anywhere(zero == 0):
        raise ValueError(f"{source} does not determine {target} where {name} = 0, got t = {t.flatten().tolist()}")


def convert(value: Tensor, x: Tensor, t: Tensor, process: Process, source: Prediction, target: Prediction) -> Tensor:
    """Turn one prediction at (x, t) into another: linear algebra that holds for any (α, σ).

    With x = α x_0 + σ ε: v = α ε − σ x_0 (Salimans & Ho 2022), score = −ε/σ, velocity = α′ x_0 + σ′ ε. Hence
    x_0 = (x − σ ε)/α = (α x − σ v)/(α² + σ²) = (x + σ² score)/α = (σ′ x − σ velocity)/(α σ′ − σ α′), and
    ε = (x − α x_0)/σ = (σ x + α v)/(α² + σ²) = −σ score = (α velocity − α′ x)/(α σ′ − σ α′).

    value, x: (B, *D); t: () or (B,) in [0, 1]. The result has their shape, in float32 or better. At an end it is the
    finite answer where one exists, else ValueError names the pair and t; so do unequal shapes and unknown names. The
    score is −ε̂/σ only where x_0 and ε are independent: see `Denoiser.coupled`.
    """
    names = get_args(Prediction)
    if source not in names or target not in names:
        raise ValueError(f"source and target must be among {names}, got {source!r} and {target!r}")
    arguments.floating("value", value)
    arguments.same_shape("value", value, "x", x)
    arguments.time_of_batch(t, x)
    dtype = torch.promote_types(torch.promote_types(value.dtype, x.dtype), torch.float32)
    value, x = value.to(dtype), x.to(dtype)
    if source == target:
        return value
    alpha, sigma = marginal(process, x, t)
    if source == "score":  # score = −ε/σ: every conversion from or to it passes through ε
        return convert(-sigma * value, x, t, process, "eps", target)
    if target == "score":
        _refuse_at(sigma, "σ", t, source, target)
        return -convert(value, x, t, process, source, "eps") / sigma
    if target == "x0":
        return _to_x0(value, x, t, process, source, alpha, sigma)
    if target == "eps":
        return _to_eps(value, x, t, process, source, alpha, sigma)
    if source == "x0":  # at σ = 0 it says nothing of ε, and v and the velocity need ε
        _refuse_at(sigma, "σ", t, source, target)
    x0 = _to_x0(value, x, t, process, source, alpha, sigma)
    eps = _to_eps(value, x, t, process, source, alpha, sigma)
    if target == "v":
        return alpha * eps - sigma * x0
    alpha_rate, sigma_rate = _rates(process, x, t)
    if _anywhere(sigma_rate == _ENDLESS):
        raise ValueError(f"the velocity is infinite where σ′ is, got t = {t.flatten().tolist()} for {process}")
    return alpha_rate * x0 + sigma_rate * eps


def _to_x0(
    value: Tensor, x: Tensor, t: Tensor, process: Process, source: Prediction, alpha: Coefficient, sigma: Coefficient
) -> Tensor:
    if source == "x0":
        return value
    if source == "eps":
        _refuse_at(alpha, "α", t, source, "x0")
        return (x - sigma * value) / alpha
    if source == "v":
        return (alpha * x - sigma * value) / (alpha * alpha + sigma * sigma)
    alpha_rate, sigma_rate = _rates(process, x, t)
    if isinstance(sigma_rate, float) and sigma_rate == _ENDLESS:  # σ ~ √t at the data: there x_0 = x/α
        return x / alpha
    x0 = (sigma_rate * x - sigma * value) / (alpha * sigma_rate - sigma * alpha_rate)
    return torch.where(sigma_rate == _ENDLESS, x / alpha, x0) if isinstance(sigma_rate, Tensor) else x0


def _to_eps(
    value: Tensor, x: Tensor, t: Tensor, process: Process, source: Prediction, alpha: Coefficient, sigma: Coefficient
) -> Tensor:
    if source == "eps":
        return value
    if source == "x0":
        _refuse_at(sigma, "σ", t, source, "eps")
        return (x - alpha * value) / sigma
    if source == "v":
        return (sigma * x + alpha * value) / (alpha * alpha + sigma * sigma)
    alpha_rate, sigma_rate = _rates(process, x, t)
    if _anywhere(sigma_rate == _ENDLESS):
        raise ValueError(f"velocity does not determine eps where σ′ is infinite, got t = {t.flatten().tolist()}")
    return (alpha * value - alpha_rate * x) / (alpha * sigma_rate - sigma * alpha_rate)


def predict(D: DenoiserLike, x: Tensor, t: Tensor, target: Prediction) -> Tensor:
    """What D says at (x, t) under another name: `convert` from x̂_0 to target; the shape of x (B, *D).

    Raises ValueError for the score of a coupled denoiser, which is not −ε̂/σ, and what `convert` raises.
    """
    check_denoiser(D)
    if D.coupled and target == "score":
        raise ValueError("under a coupling of x0 and eps the score is not −eps/σ: ask for x0, eps, v or velocity")
    return convert(D(x, t), x, t, D.process, "x0", target)
