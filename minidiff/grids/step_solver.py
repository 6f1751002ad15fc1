"""A solver of N steps that is differentiable in its times and its coefficients, so that both can be learned."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from minidiff import arguments
from minidiff.denoiser import DenoiserLike, check_denoiser
from minidiff.process import Process
from minidiff.times import check_times

Learned = Literal["times", "coefficients", "both"]


class StepSolver(nn.Module):
    """x_t = (σ_t/σ_s) x_s + (α_t − α_s σ_t/σ_s) D̄ with D̄ = (1 + κ) D_s − κ D_{before s}; parameters: times and κ.

    κ_i = κ(times) + δ_i. Order 1 has κ(times) = 0 and is DDIM. Order 2 takes D linear in cos θ, θ = arctan(r/σ_data),
    through its last two values: κ = (c̄ − c_s)/(c_s − c_before), c̄ = cos((θ_s + θ_t)/2)/cos((θ_s − θ_t)/2) the mean of
    cos θ over the step; it is `exponential(order=2, variable="cos")`. The increments of t are a softmax, so that the
    times stay in order while the ends stay where they are.

    learn: "times" (as DDSS, Watson et al. 2022, and LD3, Tong et al. 2025), "coefficients" δ (as S4S, Frankel et al.
    2025), or "both". Called as solver(D, x) → x at the last time (B, *D), one call of D a step, with gradients; D must
    be differentiable in t given as (B,). Raises ValueError for a bad grid, order outside {1, 2} or an unknown `learn`.
    """

    def __init__(
        self, process: Process, times: Tensor, sigma_data: float = 1.0, order: int = 2, learn: Learned = "both"
    ) -> None:
        super().__init__()
        check_times(times)
        arguments.real("sigma_data", sigma_data, 1e-300)
        if order not in (1, 2):
            raise ValueError(f"order must be 1 or 2, got {order}")
        if learn not in get_args(Learned):
            raise ValueError(f"learn must be among {get_args(Learned)}, got {learn!r}")
        self.process, self.sigma_data, self.order = process, sigma_data, order
        self.register_buffer("ends", times[[0, -1]].clone())
        self.log_increments = nn.Parameter((-times.diff()).log(), requires_grad=learn != "coefficients")
        self.deltas = nn.Parameter(torch.zeros(len(times) - 2, dtype=torch.float64), requires_grad=learn != "times")

    def times(self) -> Tensor:
        """The grid (n + 1,), strictly decreasing, float64, a differentiable function of the parameters."""
        shares = self.log_increments.softmax(0).cumsum(0)[:-1]
        first, last = self.ends.unbind()
        return torch.cat([first[None], first + (last - first) * shares, last[None]])

    def extrapolations(self, times: Tensor) -> Tensor:
        """κ of every step but the first, (n − 1,)."""
        if self.order == 1:
            return self.deltas
        r = self.process.sigma(times) / self.process.alpha(times).clamp(min=1e-300)
        theta = torch.atan(r / self.sigma_data)
        c = theta.cos()
        mean = ((theta[:-1] + theta[1:]) / 2).cos() / ((theta[:-1] - theta[1:]) / 2).cos()
        return (mean[1:] - c[1:-1]) / -(c[:-2] - c[1:-1]) + self.deltas

    def forward(self, D: DenoiserLike, x: Tensor) -> Tensor:
        """x at times[0] → x at times[-1]; (B, *D)."""
        check_denoiser(D)
        arguments.finite("x", x)
        times = self.times()
        alpha, sigma = self.process.alpha(times), self.process.sigma(times)
        kappa = self.extrapolations(times)
        before = None
        for i in range(len(times) - 1):
            # The denoiser keeps the gradient of t where t is (B,); a 0-d time is read as a float.
            x0 = D(x, times[i].expand(len(x)).to(x.device))
            mean = x0 if before is None else x0 + kappa[i - 1].to(x0) * (x0 - before)
            ratio = sigma[i + 1] / sigma[i]
            x = ratio.to(x) * x + (alpha[i + 1] - alpha[i] * ratio).to(x) * mean
            before = x0
        return x
