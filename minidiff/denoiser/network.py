"""The denoiser of a network: it predicts x_0, ε, v, the score, the velocity or EDM's F, and is called as x̂_0."""

from __future__ import annotations

import functools
import math
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from minidiff import arguments
from minidiff.denoiser.conversion import Prediction, convert, marginal
from minidiff.denoiser.protocol import Angle, Combined, check_angle
from minidiff.process import Process


@functools.lru_cache(maxsize=4096)
def _c_noise_at(process: Process, t: float) -> Tensor:
    return (process.lam(torch.tensor(t, dtype=torch.float64)) / -4).clamp(-5, 5)


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
        if y is not None and not isinstance(y, Tensor):
            raise TypeError(f"y must be a tensor with one label a sample, or None, got {type(y).__name__}")
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
        if isinstance(alpha, float):  # one time on the CPU, which a sampler asks for again and again
            c_noise = _c_noise_at(self.process, float(t))
        else:
            c_noise = (self.process.lam(t) / -4).clamp(-5, 5)
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
