"""What a denoiser leaves open: Var[x_0 | x_t], on average over x_t or at each, from the denoiser alone.

For D = E[x_0 | x_t] four quantities have the same mean: the squared error, the energy that x̂_0 lacks, the energy that
the score lacks, and (σ²/α) times the divergence of D. A network makes four different numbers of them, and only the
first is about the network rather than about the truth.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from minidiff import arguments
from minidiff.denoiser import DenoiserLike, check_denoiser
from minidiff.noise import Generators, standard_normal


class ErrorSamples(NamedTuple):
    """One estimate of E|x_0 − D|²/d from each picture at each time; (n, B) float64, averages over B converge.

    residual: |x_0 − x̂_0|²/d. energy: (|x_0|² − |x̂_0|²)/d. score: (σ²/α²)(1 − |ε̂|²/d), the one of Analytic-DPM (Bao et
    al. 2022), with ε̂ = (x − α x̂_0)/σ = −σ ŝ; where α = 0 it is undetermined, and holds that of the energy.
    """

    residual: Tensor
    energy: Tensor
    score: Tensor


@torch.no_grad()
def posterior_errors(D: DenoiserLike, x0: Tensor, times: Tensor, generator: Generators = None) -> ErrorSamples:
    """The three estimates at each of times (n,), from the same noisy pictures: n calls of D on x0 (B, *D).

    All three have the mean E Var[x_0 | x_t], averaged over the d coordinates, if D is the posterior mean: by
    Pythagoras, E|x_0|² = E|D|² + E|x_0 − D|², and the same for ε. If it is not, `residual` is still the error of D.
    Raises TypeError or ValueError for what is no denoiser, a coupled one, and times not float64 (n,) in (0, 1].
    """
    check_denoiser(D)
    if D.coupled:
        raise ValueError("D was trained under a coupling of x0 and eps: its error is not a posterior variance")
    arguments.finite("x0", x0)
    arguments.finite("times", times)
    if times.ndim != 1 or times.dtype != torch.float64 or not bool(((times > 0) & (times <= 1)).all()):
        raise ValueError(f"times must be float64 (n,) in (0, 1], got {times.dtype} {times.tolist()}")
    rows = []
    for t in times:
        eps = standard_normal(x0.shape, generator, x0.dtype, x0.device)
        x = D.process.noise(x0, t, eps)
        clean, guess, seen = (v.double().flatten(1) for v in (x0, D(x, t), x))
        alpha, sigma = float(D.process.alpha(t)), float(D.process.sigma(t))
        energy = (clean.square() - guess.square()).mean(1)
        noise = (seen - alpha * guess) / sigma
        score = energy if alpha == 0 else (sigma / alpha) ** 2 * (1 - noise.square().mean(1))
        rows.append(((clean - guess).square().mean(1), energy, score))
    return ErrorSamples(*(torch.stack(values).cpu() for values in zip(*rows, strict=True)))


def tweedie_diagonal(D: DenoiserLike, x: Tensor, t: Tensor, probes: Tensor | None = None) -> Tensor:
    """The variance of each coordinate of x_0 given x, (σ²/α) diag ∂D/∂x, without gradients; (B, *D).

    Second-order Tweedie: Cov[x_0 | x] = (σ²/α) ∂D/∂x. Without probes the diagonal is exact, at one backward pass for
    each coordinate. With probes z (P, B, *D) of signs, from `noise.probes`, it is the mean of z ⊙ (Jᵀz) (Bekas et al.
    2007; for diffusion Ou et al. 2024), unbiased, at one pass each, and a single value may be negative. t is 0-d.
    Raises ValueError at α = 0, where the formula is 0/0, for a coupled D, and for probes of another shape.
    """
    check_denoiser(D)
    if D.coupled:
        raise ValueError("D was trained under a coupling of x0 and eps: Tweedie's covariance does not hold")
    arguments.finite("x", x)
    alpha, sigma = float(D.process.alpha(t)), float(D.process.sigma(t))
    if alpha == 0:
        raise ValueError(f"Tweedie's covariance is 0/0 where α = 0, got t = {float(t)}: there it is that of the data")
    if probes is not None and probes.shape[1:] != x.shape:
        raise ValueError(f"probes must have shape (P, {', '.join(map(str, x.shape))}), got {tuple(probes.shape)}")
    size = x[0].numel()
    if probes is None:
        directions = torch.eye(size, dtype=x.dtype, device=x.device).reshape(size, 1, *x.shape[1:])
    else:
        directions = probes
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        x0 = D(x, t)
        total = torch.zeros_like(x0)
        for z in directions.to(x0):
            (row,) = torch.autograd.grad(x0, x, z.expand(x0.shape), retain_graph=True)
            total = total + z * row
    return sigma**2 / alpha * (total if probes is None else total / len(probes)).detach()
