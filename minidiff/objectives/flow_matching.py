"""Flow matching: regression on the velocity of a random path, whose minimiser carries one density into the other."""

from __future__ import annotations

from torch import Tensor

from minidiff import arguments
from minidiff.denoiser import DenoiserLike, convert
from minidiff.process import Process


def conditional_velocity(process: Process, x0: Tensor, t: Tensor, eps: Tensor) -> Tensor:
    """dx_t/dt of the path x_t = α_t x_0 + σ_t ε with the pair held fixed: α′ x_0 + σ′ ε; (B, *D).

    x0 and eps (B, *D), t () or (B,) in [0, 1]. Raises as `Process.noise` does, and ValueError where a rate is infinite
    (σ′ at the data end of a process with σ ~ √t).
    Source: Lipman et al. 2023, eq. 14–15, with t_FM = 1 − t; ε − x_0 for `RectifiedFlow` (Liu et al. 2023, eq. 1).
    """
    arguments.floating("x0", x0)
    arguments.same_shape("x0", x0, "eps", eps)
    arguments.time_of_batch(t, x0)
    rates = process.rates(t.double())
    for name, rate in zip(("α′", "σ′"), rates, strict=True):
        if bool(rate.isinf().any()):
            raise ValueError(f"{name} must be finite, got an infinite one at t = {t.flatten().tolist()} for {process}")
    alpha_rate, sigma_rate = (arguments.along(rate.to(x0), x0) for rate in rates)
    return alpha_rate * x0 + sigma_rate * eps


def flow_matching(D: DenoiserLike, x0: Tensor, t: Tensor, eps: Tensor, y: Tensor | None = None) -> Tensor:
    """|α′ x_0 + σ′ ε − û(x_t, t)|², the mean over coordinates, with û the velocity that D stands for; (B,).

    It equals `denoising_loss` with weight `velocity`, for every D: the one error is αλ′ times the other. The pairs
    (x_0, ε) may be dependent (`couplings`): then say coupled=True to the Denoiser. x0, eps (B, *D); t () or (B,)
    inside (0, 1], y the condition handed to D. Raises as `conditional_velocity` and `denoiser.convert` do.
    Source: Lipman et al. 2023, eq. 9 (conditional flow matching); Liu et al. 2023, eq. 1.
    """
    target = conditional_velocity(D.process, x0, t, eps)
    x = D.process.noise(x0, t, eps)
    x0_hat = D(x, t) if y is None else D(x, t, y)
    arguments.same_shape("x0", x0, "D(x, t)", x0_hat)
    velocity = convert(x0_hat, x, t, D.process, "x0", "velocity")
    return (target - velocity).square().flatten(1).mean(1)
