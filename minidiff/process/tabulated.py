"""The discrete chain of DDPM as a continuous process that agrees with it at every step, and its repair at the end."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor

from minidiff import arguments
from minidiff.process.base import VariancePreserving


@functools.lru_cache(maxsize=32)
def _natural_spline(betas: tuple[float, ...]) -> Tensor:
    """Cubic coefficients (T, 4) of 1 − α between the knots t = k/T, with α_k = Π_{j≤k} √(1 − β_j) and α_0 = 1.

    1 − α rather than α or ln α: it keeps its digits at t = 0 and is finite for β_T = 1. On each interval the value is
    c_0 + c_1 z + c_2 z² + c_3 z³ with z = t T − k in [0, 1]; second derivatives vanish at both ends.
    """
    log_alpha = torch.log1p(-torch.tensor(betas, dtype=torch.float64)).cumsum(0) / 2
    u = torch.cat([torch.zeros(1, dtype=torch.float64), -torch.expm1(log_alpha)])
    step = u.diff()
    curvature = torch.zeros_like(u)  # half the second derivative at the knots
    if len(betas) > 1:
        n = len(betas) - 1
        system = torch.diag(torch.full((n,), 4.0, dtype=torch.float64))
        system += torch.diag(torch.ones(n - 1, dtype=torch.float64), 1) + torch.diag(
            torch.ones(n - 1, dtype=torch.float64), -1
        )
        curvature[1:-1] = torch.linalg.solve(system, 3 * step.diff())
    slope = step - (2 * curvature[:-1] + curvature[1:]) / 3
    return torch.stack([u[:-1], slope, curvature[:-1], curvature.diff() / 3], dim=1)


@dataclass(frozen=True)
class Tabulated(VariancePreserving):
    """ᾱ_k = Π_{j≤k} (1 − β_j) at t = k/T, k = 0…T, with α_t = √ᾱ, ᾱ_0 = 1, and a C² cubic spline of α between.

    Step n = 0…T−1 of diffusers is t = (n + 1)/T. Raises TypeError unless betas is a tuple of numbers, ValueError unless
    0 < β ≤ 1 with only the last equal to 1, and when the spline between the knots is not monotone.
    """

    betas: tuple[float, ...]

    def __repr__(self) -> str:
        """A thousand numbers would hide the rest of an error message."""
        if len(self.betas) <= 4:
            return f"Tabulated(betas={self.betas})"
        return f"Tabulated({len(self.betas)} betas, {self.betas[0]} … {self.betas[-1]})"

    def __post_init__(self) -> None:
        """Check the betas and the monotonicity of the spline."""
        if not isinstance(self.betas, tuple) or not self.betas:
            raise TypeError(f"betas must be a non-empty tuple of floats, got {type(self.betas).__name__}")
        for k, beta in enumerate(self.betas, start=1):
            arguments.real(f"beta_{k}", beta, 1e-15, 1.0)
            if beta == 1.0 and k < len(self.betas):
                raise ValueError(f"only the last beta may be 1, got beta_{k} = 1 of {len(self.betas)}")
        _, slope, curvature, third = _natural_spline(self.betas).unbind(1)
        vertex = torch.where(third == 0, 0.0, -curvature / (3 * third)).clamp(0, 1)
        for z in (torch.zeros_like(slope), torch.ones_like(slope), vertex):
            increase = slope + 2 * curvature * z + 3 * third * z**2
            if bool((increase < -1e-12).any()):
                k = int(increase.argmin())
                raise ValueError(f"the betas are too uneven for a monotone spline between steps {k} and {k + 1}")
        super().__post_init__()

    def _interval(self, t: Tensor) -> tuple[Tensor, Tensor]:
        steps = len(self.betas)
        k = (t.detach() * steps).floor().clamp(0, steps - 1).long()
        return _natural_spline(self.betas).to(t.device)[k], t * steps - k

    def _one_minus_alpha(self, t: Tensor) -> Tensor:
        c, z = self._interval(t)
        return c[..., 0] + z * (c[..., 1] + z * (c[..., 2] + z * c[..., 3]))

    def alpha(self, t: Tensor) -> Tensor:
        """The spline through √ᾱ_k."""
        return 1 - self._one_minus_alpha(t)

    def sigma(self, t: Tensor) -> Tensor:
        """√(1 − α²) = √((1 − α)(1 + α))."""
        u = self._one_minus_alpha(t)
        return (u * (2 - u)).sqrt()

    def alpha_rate(self, t: Tensor) -> Tensor:
        """The derivative of the spline."""
        c, z = self._interval(t)
        return -(c[..., 1] + z * (2 * c[..., 2] + 3 * z * c[..., 3])) * len(self.betas)


def zero_terminal(betas: tuple[float, ...]) -> tuple[float, ...]:
    """The β of the chain whose α_k = √ᾱ_k is moved and stretched so that it ends at 0 (Lin et al. 2024, algorithm 1).

    α_k → α_1 (α_k − α_T)/(α_1 − α_T), affine in α: the first step stays, the last has no signal, β_T = 1. Raises
    TypeError unless betas is a tuple of numbers, ValueError for fewer than two or for values outside (0, 1].
    """
    if not isinstance(betas, tuple):
        raise TypeError(f"betas must be a tuple of floats, got {type(betas).__name__}")
    if len(betas) < 2:
        raise ValueError(f"betas must hold at least two steps, got {len(betas)}")
    for k, beta in enumerate(betas, start=1):
        arguments.real(f"beta_{k}", beta, 1e-15, 1.0)
    log_alpha = torch.log1p(-torch.tensor(betas, dtype=torch.float64)).cumsum(0) / 2
    # α_k − α_T = −α_k expm1(ln α_T − ln α_k) keeps its digits where neighbours are close; the constant drops out of β.
    before = log_alpha[:-1]
    above_end = -before.exp() * torch.expm1(log_alpha[-1] - before)
    later = 1 - (above_end[1:] / above_end[:-1]).square()
    return (betas[0], *later.tolist(), 1.0)
