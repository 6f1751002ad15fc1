"""What a network is told beside x: the time t and, if it is conditional, a class label y."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minidiff.arguments import floating, positive_integer

# Angular frequencies fit for t in [0, 1] and for EDM's c_noise in [-5, 5]: the slowest turns by 3 rad over [-5, 5], so
# no two inputs share all features; the fastest turns by 0.1 rad over 1/1000. The 10^-4 … 1 of integer steps would
# leave [0, 1] flat.
SLOWEST, FASTEST = 0.3, 100.0


def _even(features: int) -> None:
    positive_integer("features", features, at_least=4)
    if features % 2:
        raise ValueError(f"features must be even (half cosines, half sines), got {features}")


def time_features(t: Tensor, features: int) -> Tensor:
    r"""Fourier features of time: (cos ω_1 t, …, cos ω_m t, sin ω_1 t, …, sin ω_m t), m = features/2.

    The ω_i are geometric from 0.3 to 100 rad, for t ∈ [0, 1] or c_noise ∈ [−5, 5]. They are computed at each call, in
    float32 or better, so that `net.half()` cannot round them.

    t: (), (B,) floating → (*t.shape, features). Raises ValueError unless `features` is even and ≥ 4.
    Source: Vaswani et al. 2017, section 3.5, with frequencies for a time in [0, 1].
    """
    floating("t", t)
    _even(features)
    dtype = torch.promote_types(t.dtype, torch.float32)
    omega = torch.logspace(math.log10(SLOWEST), math.log10(FASTEST), features // 2, dtype=dtype, device=t.device)
    angle = t.to(dtype)[..., None] * omega
    return torch.cat([angle.cos(), angle.sin()], dim=-1)


class Conditioning(nn.Module):
    """The conditioning vector c = SiLU(W₂ SiLU(W₁ γ(t)) + E[y]): γ the Fourier features of time, E a table of classes.

    Labels 0 … classes − 1 are the classes; the label `classes` is the null class ("no label"), and y = None means null
    for every row. `classes=None` makes it unconditional: then y must be None.

    features: length of γ(t), even and ≥ 4; width: length of c. Raises ValueError for other sizes.
    """

    def __init__(self, features: int, width: int, classes: int | None = None) -> None:
        super().__init__()
        _even(features)
        positive_integer("width", width)
        self.features, self.classes = features, classes
        self.time = nn.Sequential(nn.Linear(features, width), nn.SiLU(), nn.Linear(width, width))
        if classes is not None:
            positive_integer("classes", classes)
            self.label = nn.Embedding(classes + 1, width)

    def forward(self, t: Tensor, y: Tensor | None, rows: int) -> Tensor:
        """c for a batch of `rows`: (1, width) if t is () and y None (one vector serves all rows), else (rows, width).

        Raises ValueError for a t that is not () or (rows,), labels outside 0 … classes, or labels given to an
        unconditional net.
        """
        floating("t", t)
        if t.ndim > 1 or (t.ndim == 1 and len(t) != rows):
            raise ValueError(f"t must have shape () or ({rows},) for {rows} rows, got {tuple(t.shape)}")
        weight = self.time[0].weight
        c = self.time(time_features(t.reshape(-1), self.features).to(weight.dtype))
        if self.classes is None:
            if y is not None:
                raise ValueError("this network is unconditional (classes=None): y must be None")
        else:
            y = self._labels(y, rows, weight.device)
            c = c + self.label(y)
        return F.silu(c)

    def _labels(self, y: Tensor | None, rows: int, device: torch.device) -> Tensor:
        if y is None:
            return torch.full((1,), self.classes, device=device)
        if y.dtype != torch.int64 or y.shape != (rows,):
            raise ValueError(f"y must be int64 of shape ({rows},), got {y.dtype} of shape {tuple(y.shape)}")
        if rows and not bool(((y >= 0) & (y <= self.classes)).all()):
            raise ValueError(
                f"labels must lie in 0 … {self.classes} ({self.classes} means no label), "
                f"got {int(y.min())} … {int(y.max())}"
            )
        return y
