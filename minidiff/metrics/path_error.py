"""How far a sampler ends from the exact solution of the same denoiser's equation."""

from __future__ import annotations

from torch import Tensor

from minidiff.arguments import finite, real


def path_error(x: Tensor, reference: Tensor, sigma_data: float = 1.0) -> Tensor:
    """√(mean over the coordinates of (x − reference)²) / σ_data of each sample: (B,) in float64.

    x: (B, *D), where a deterministic sampler ended; reference: the same, where the solution of the probability-flow
    equation of the same denoiser from the same start ends, such as a run with hundreds of calls. So it has no floor and
    needs no judge, and it says nothing about whether the denoiser is any good. Raises TypeError or ValueError unless
    both are finite tensors of one shape with a batch axis and σ_data > 0.
    """
    finite("x", x)
    finite("reference", reference)
    real("sigma_data", sigma_data, 1e-300)
    if x.ndim < 2 or x.shape != reference.shape:
        raise ValueError(f"x and reference must be (B, *D) alike, got {tuple(x.shape)} and {tuple(reference.shape)}")
    return (x.double() - reference.double()).flatten(1).square().mean(1).sqrt() / sigma_data
