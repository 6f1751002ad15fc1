"""What every denoiser has: the protocol `DenoiserLike`, its checks, and the base of one that is made of others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from torch import Tensor

from minidiff import arguments
from minidiff.process import Process


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
