"""Reverse steps N(μ, v) with any variance v: a number a step, or what a function makes of the state.

A step from s to t < s of the family of DDIM, q(x_t | x_s, x_0) = N(carry x_s + reveal x_0, least I), is a mixture over
what x_0 may be once only x_s is known. Its mean takes x̂_0 in the place of x_0; its variance is, by the law of total
variance, least + reveal² Var[x_0 | x_s] (Bao et al. 2022, theorem 1). `minidiff.uncertainty` estimates the last factor.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from minidiff import arguments
from minidiff.denoiser import DenoiserLike
from minidiff.noise import Generators, standard_normal
from minidiff.process import Process
from minidiff.samplers.state import Grid, State, begin, combine, refuse_coupled, scalars
from minidiff.times import check_times

StateVariance = Callable[[int, Tensor, Tensor], Tensor]


class ReverseSteps(NamedTuple):
    """The steps s → t of a grid, each (n,) float64.

    carry and reveal are the factors of x_s and x_0 in the mean of q(x_t | x_s, x_0), least its variance η² β̃. most is
    the variance where the data say nothing, so that Var[x_0 | x_s] = σ_s²/α_s²: for η = 1 it is (α_t/α_s)² β; infinite
    at α_s = 0. forward is β = σ_s² (1 − SNR_s/SNR_t), the variance of q(x_s | x_t).
    """

    carry: Tensor
    reveal: Tensor
    least: Tensor
    most: Tensor
    forward: Tensor

    def optimal(self, error: Tensor) -> Tensor:
        """The variance least + reveal² · error of each step, for error = E|x_0 − x̂_0|²/d at its start; (n,).

        It minimises KL(q(x_t | x_s) ‖ N(μ, v I)) in the mean over x_s, also for an x̂_0 that is not E[x_0 | x_s]
        (Bao et al. 2022, theorem 1). Raises ValueError unless error (n,) is finite and not negative.
        """
        arguments.finite("error", error)
        if error.shape != self.least.shape or bool((error < 0).any()):
            raise ValueError(
                f"error must be {len(self.least)} numbers ≥ 0, one a step, got shape {tuple(error.shape)} and a least "
                f"value of {float(error.min())}"
            )
        return self.least + self.reveal**2 * error.double()

    def interpolated(self, nu: Tensor | float) -> Tensor:
        """exp(ν log β + (1 − ν) log β̃) of each step (Nichol & Dhariwal 2021, eq. 15); (n,).

        nu is a number or (n,), not confined to [0, 1]. Where `least` is 0 (the step to σ_t = 0, or η = 0) there is
        nothing between it and β, and the answer is 0. Raises ValueError for another shape or NaN.
        """
        nu = torch.as_tensor(nu, dtype=torch.float64)
        arguments.finite("nu", nu)
        if nu.shape not in {(), self.least.shape}:
            raise ValueError(f"nu must be a number or have shape ({len(self.least)},), got {tuple(nu.shape)}")
        return torch.where(self.least > 0, self.least ** (1 - nu) * self.forward**nu, 0.0)


def reverse_steps(process: Process, times: Tensor, *, eta: float = 1.0) -> ReverseSteps:
    """The steps of a grid (n + 1,) for the process q_η of DDIM; η = 1 is DDPM's, η = 0 adds no noise of its own.

    With β̃ = σ_t² (1 − SNR_s/SNR_t): carry = √(σ_t² − η²β̃)/σ_s, reveal = α_t − carry α_s, least = η²β̃ (Song et al.
    2021, eq. 7). Everything is finite at α_s = 0 and σ_t = 0 but `most` at α_s = 0. Raises what `times.check_times`
    raises, and ValueError for η outside [0, 1].
    """
    arguments.real("eta", eta, 0.0, 1.0)
    check_times(times)
    alpha, sigma, lam = process.alpha(times), process.sigma(times), process.lam(times)
    gap = -torch.expm1(2 * (lam[:-1] - lam[1:]))  # 1 − SNR_s/SNR_t
    rest = torch.exp(2 * (lam[:-1] - lam[1:]))  # SNR_s/SNR_t, so that 1 − η² gap does not cancel at η = 1
    root = torch.sqrt(rest + (1 - eta**2) * gap)
    carry = sigma[1:] / sigma[:-1] * root
    # At η = 1 the difference α_t − carry α_s is α_t (1 − SNR_s/SNR_t), whose rounding is better.
    reveal = alpha[1:] * gap if eta == 1 else alpha[1:] - carry * alpha[:-1]
    least = eta**2 * sigma[1:] ** 2 * gap
    most = least + (reveal * sigma[:-1] / alpha[:-1]) ** 2
    return ReverseSteps(carry, reveal, least, most, sigma[:-1] ** 2 * gap)


def reverse_gaussian(
    D: DenoiserLike,
    x: Tensor,
    times: Tensor,
    *,
    variance: Tensor | StateVariance,
    eta: float = 1.0,
    last_std: float = math.inf,
    generator: Generators = None,
) -> Iterator[State]:
    """x_t = carry x_s + reveal x̂_0 + √v z with the coefficients of `reverse_steps` and any variance v.

    variance is (n,), a number ≥ 0 for each step, or a function (i, x_s, x̂_0) → v of step i, which must broadcast to x.
    With η = 1 and v = β̃ or β this is `ancestral`, with v = η²β̃ it is `ddim`, with `ReverseSteps.optimal` Analytic-DPM.
    No noise is added in a step that ends at σ_t = 0. last_std caps the standard deviation of the last step that adds
    noise, since nothing will remove that noise any more (Bao et al. 2022, appendix on clipping).

    x: (B, *D) at times[0]; times: float64 (n + 1,). One call of D a step, besides those that `variance` makes. Raises
    what `begin` and `reverse_steps` raise, and ValueError for a coupled denoiser, a negative last_std, and variances
    that are negative, not finite, or of another shape.
    """
    refuse_coupled(D, "reverse_gaussian")
    grid = begin(D, x, times)
    steps = reverse_steps(D.process, times, eta=eta)
    if not last_std >= 0:
        raise ValueError(f"last_std must be at least 0, got {last_std}")
    if isinstance(variance, Tensor):
        arguments.finite("variance", variance)
        if variance.shape != steps.least.shape or bool((variance < 0).any()):
            raise ValueError(
                f"variance must be {len(steps.least)} numbers ≥ 0, one a step, got shape {tuple(variance.shape)} with "
                f"values from {float(variance.min())}"
            )
        values = variance.double().tolist()
        of_step = lambda i, *_: torch.tensor(values[i], dtype=torch.float64)  # noqa: E731
    elif callable(variance):
        of_step = variance
    else:
        raise TypeError(f"variance must be a tensor or a function (i, x, x0), got {type(variance).__name__}")
    return _run(D, x, grid, steps, of_step, last_std, generator)


def _run(
    D: DenoiserLike,
    x: Tensor,
    grid: Grid,
    steps: ReverseSteps,
    variance: StateVariance,
    last_std: float,
    generator: Generators,
) -> Iterator[State]:
    yield State(grid.times[0], x, None)
    noisy = [i for i in grid.steps if grid.sigma[i + 1] > 0]
    scale, reveal = scalars(steps.carry.tolist(), x), steps.reveal.tolist()
    for i in grid.steps:
        x0 = D(x, grid.times[i])
        mean = combine(scale[i], x, (reveal[i],), (x0,))
        if i in noisy:
            std = _checked(variance(i, x, x0), i, x).sqrt()
            if i == noisy[-1]:
                std = std.clamp(max=last_std)
            mean += std.to(mean) * standard_normal(x.shape, generator, x.dtype, x.device)
        x = mean
        yield State(grid.times[i + 1], x, x0)


def _checked(v: Tensor, i: int, x: Tensor) -> Tensor:
    if not bool(torch.isfinite(v).all()) or bool((v < 0).any()):
        raise ValueError(f"variance must be finite and at least 0, got {float(v.min())} as its least in step {i}")
    try:
        fits = torch.broadcast_shapes(v.shape, x.shape) == x.shape
    except RuntimeError:
        fits = False
    if not fits:
        raise ValueError(f"variance must broadcast to x {tuple(x.shape)}, got {tuple(v.shape)} in step {i}")
    return v
