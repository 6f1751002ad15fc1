"""What guidance asks of a conditional denoiser."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor

from minidiff.denoiser import DenoiserLike
from minidiff.process import Process


class Conditional(Protocol):
    """A denoiser that may be told a condition y: D(x, t) knows none, `given` binds one for samplers."""

    process: Process
    sigma_data: float
    coupled: bool

    def __call__(self, x: Tensor, t: Tensor, y: Any = None) -> Tensor:  # noqa: ANN401
        """x̂_0 of the shape of x (B, *D) for t of shape () or (B,) and a condition for each row, or None."""
        ...

    def given(self, y: Any) -> DenoiserLike:  # noqa: ANN401
        """The denoiser of (x, t) with y bound."""
        ...
