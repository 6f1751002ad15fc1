"""The parametrisation algebra, and the denoiser D(x, t) = E[x_0 | x_t = x] in which the whole package speaks."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol, get_args

import torch
from torch import Tensor, nn

from minidiff import arguments
from minidiff.process import Process

Prediction = Literal["x0", "eps", "v", "score", "velocity"]


class Angle(NamedTuple):
    """Where on its way through the noise the default sampler works, and over how many scales.

    Its steps are even in arctan((r/middle)^power), and between them D is a polynomial in cos arctan(r/scale); without
    a middle of its own the scale serves for both. `samplers.spectral_angle` finds an angle from the spectrum of the
    data, `samplers.calibrated_angle` from paths of the denoiser.
    """

    scale: float
    power: float
    middle: float | None = None


class DenoiserLike(Protocol):
    """Anything that returns x̂_0 for (x, t) and knows its process; wrappers forward the three attributes.

    sigma_data is the RMS standard deviation per coordinate of the data (1 when unknown); coupled says that x_0 and ε
    were trained dependent, so that no score follows from x̂_0. A fourth, `angle`, may be missing or None: the `Angle` of
    the default sampler, where data have scales far from sigma_data.
    """

    process: Process
    sigma_data: float
    coupled: bool

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """x̂_0 of the shape of x (B, *D) for t of shape () or (B,)."""
        ...


def check_denoiser(D: DenoiserLike) -> None:
    """Raise TypeError unless D is callable and has process, sigma_data and coupled."""
    missing = [name for name in ("process", "sigma_data", "coupled") if not hasattr(D, name)]
    if missing or not callable(D):
        raise TypeError(
            f"a denoiser is callable as D(x, t) and has process, sigma_data and coupled; {D!r} lacks "
            f"{', '.join(missing) or 'a call'}"
        )


def check_angle(angle: Angle | Sequence[float]) -> Angle:
    """angle as an `Angle`; raises TypeError or ValueError unless scale > 0, 0 < power ≤ 1, and middle > 0 or None."""
    if not isinstance(angle, (tuple, list)) or len(angle) not in (2, 3):
        raise TypeError(f"an angle is Angle(scale, power, middle) or a tuple of two or three of them, got {angle!r}")
    angle = Angle(*angle)
    arguments.real("the scale of angle", angle.scale, 1e-12)
    arguments.real("the power of angle", angle.power, 1e-3, 1.0)
    if angle.middle is not None:
        arguments.real("the middle of angle", angle.middle, 1e-12)
    return angle


class Combined:
    """The base of a denoiser made of others, of one process: `process`, `sigma_data` and `angle` are the first one's.

    It is coupled if one of them is. A subclass adds the call. Raises TypeError for what is no denoiser, ValueError for
    processes that differ.
    """

    process: Process
    sigma_data: float
    coupled: bool
    angle: Angle | None

    def __init__(self, *parts: DenoiserLike) -> None:
        for part in parts:
            check_denoiser(part)
        first = parts[0]
        for part in parts[1:]:
            if part.process != first.process:
                raise ValueError(f"the denoisers must share one process, got {first.process} and {part.process}")
        self.process = first.process
        self.sigma_data = first.sigma_data
        self.coupled = any(part.coupled for part in parts)
        self.angle = getattr(first, "angle", None)


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


@functools.lru_cache(maxsize=4096)
def _c_noise_at(process: Process, t: float) -> Tensor:
    return (process.lam(torch.tensor(t, dtype=torch.float64)) / -4).clamp(-5, 5)


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


class Denoiser(nn.Module):
    """D(x, t) = E[x_0 | x_t = x] from a network that predicts x_0, ε, v, the score, the velocity, or EDM's F.

    net is called net(x, t, y) with x (B, *D), t () or (B,) in float32 or better, y (B,) or None; its output has the
    shape of x. predicts="edm" wraps it as in Karras et al. 2022, section 5, for any (α, σ):
    D = c_skip x + c_out F(c_in x, c_noise, y), c_skip = α s²/q, c_out = σ s/√q, c_in = 1/√q, q = α² s² + σ²,
    s = sigma_data, c_noise = −λ/4 clamped to [−5, 5] (ln(σ)/4 where α = 1).

    angle: the default sampler's `Angle` or a tuple of its fields; None: (sigma_data, 0.8).
    Raises ValueError at construction for an unknown prediction, and for eps or score on a process with α_1 = 0, where
    neither determines x_0; and for a coupled denoiser that predicts the score. The remedy is x0, v or velocity.
    """

    def __init__(
        self,
        net: nn.Module,
        process: Process,
        predicts: Prediction | Literal["edm"] = "eps",
        sigma_data: float = 1.0,
        coupled: bool = False,
        angle: Angle | tuple[float, ...] | None = None,
    ) -> None:
        super().__init__()
        if predicts not in (*get_args(Prediction), "edm"):
            raise ValueError(f"predicts must be among {(*get_args(Prediction), 'edm')}, got {predicts!r}")
        if predicts in ("eps", "score") and process.lam_range[0] == -math.inf:
            raise ValueError(
                f"{predicts} does not determine x0 at t = 1, where α = 0 for {process}: predict x0, v or velocity"
            )
        if coupled and predicts == "score":
            raise ValueError("under a coupling of x0 and eps the score is not −eps/σ: predict x0, eps, v or velocity")
        arguments.real("sigma_data", sigma_data, 1e-12)
        self.net = net
        self.process = process
        self.predicts = predicts
        self.sigma_data = sigma_data
        self.coupled = coupled
        self.angle = None if angle is None else check_angle(angle)

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """x̂_0 of the shape of x (B, *D), in float32 or better; t () or (B,) in [0, 1]; y (B,) labels or None.

        Raises TypeError and ValueError for wrong dtypes and shapes, and t outside [0, 1].
        """
        arguments.floating("x", x)
        arguments.time_of_batch(t, x)
        if y is not None and y.shape != x.shape[:1]:
            raise ValueError(f"y must hold one label a sample, got shape {tuple(y.shape)} for x {tuple(x.shape)}")
        if self.predicts == "edm":
            return self._preconditioned(x, t, y)
        return convert(self.net(x, self._clock(t, x), y), x, t, self.process, self.predicts, "x0")

    @staticmethod
    def _clock(t: Tensor, x: Tensor) -> Tensor:
        # Never half precision: bfloat16 keeps only half of a thousand time steps apart.
        return t.to(device=x.device, dtype=torch.promote_types(x.dtype, torch.float32))

    def _preconditioned(self, x: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
        alpha, sigma = marginal(self.process, x, t)
        s = self.sigma_data
        q = alpha * alpha * s * s + sigma * sigma
        root = q**0.5
        host = _is_host_scalar(t)
        c_noise = _c_noise_at(self.process, float(t)) if host else (self.process.lam(t) / -4).clamp(-5, 5)
        inner = self.net(x / root, self._clock(c_noise, x), y)
        return (alpha * s * s / q) * x + (sigma * s / root) * inner

    def given(self, y: Tensor) -> Given:
        """The denoiser with its condition bound, so that samplers never see y; (B,) labels."""
        return Given(self, y)


class Given(Combined):
    """D(x, t | y) as a denoiser of (x, t) alone."""

    def __init__(self, denoiser: Denoiser, y: Tensor) -> None:
        super().__init__(denoiser)
        self.denoiser = denoiser
        self.y = y

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """x̂_0 given y, the shape of x."""
        return self.denoiser(x, t, self.y)
