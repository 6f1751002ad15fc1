"""What every denoiser made of denoisers forwards, and what its parts must have in common."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor

from minidiff.denoiser import Angle, DenoiserLike, check_denoiser
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


class Combined:
    """Several denoisers of one process: `process`, `sigma_data` and `angle` are the first one's.

    It is coupled if one of them is. Raises TypeError for what is no denoiser, ValueError for processes that differ.
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
