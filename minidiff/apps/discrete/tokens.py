"""What every discrete diffusion shares: checked tokens, checked stochastic matrices, the denoiser's answer, a draw."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from minidiff import arguments
from minidiff.noise import Generators

#: D(x, t): tokens x (B, L) int64 and a time () or (B,) → log p(x_0^i = k | x_t = x) + constant, (B, L, K).
DiscreteDenoiser = Callable[[Tensor, Tensor], Tensor]


def check_tokens(name: str, x: Tensor, vocabulary: int) -> None:
    """Raise TypeError unless x is int64, ValueError unless it is (B, L) with tokens 0 … vocabulary − 1."""
    if not isinstance(x, Tensor) or x.dtype != torch.int64:
        raise TypeError(f"{name} must be an int64 tensor, got {x.dtype if isinstance(x, Tensor) else type(x).__name__}")
    if x.ndim != 2 or not x.numel():
        raise ValueError(f"{name} must have shape (B, L) and not be empty, got {tuple(x.shape)}")
    if not bool(((x >= 0) & (x < vocabulary)).all()):
        raise ValueError(f"tokens of {name} must lie in 0 … {vocabulary - 1}, got {int(x.min())} … {int(x.max())}")


def check_stochastic(name: str, matrix: Tensor) -> None:
    """Raise unless the last axis of a floating-point tensor holds probabilities: finite, ≥ 0, summing to 1."""
    arguments.finite(name, matrix)
    if matrix.ndim < 1 or not matrix.numel():
        raise ValueError(f"{name} must hold probabilities along its last axis, got shape {tuple(matrix.shape)}")
    if bool((matrix < 0).any()):
        raise ValueError(f"{name} must have no negative entry, got {float(matrix.min())}")
    off = float((matrix.double().sum(-1) - 1).abs().max())
    if off > (1e-9 if matrix.dtype == torch.float64 else 1e-5):
        raise ValueError(f"every row of {name} must sum to 1, got a row that is off by {off:.3g}")


def log_probabilities(D: DiscreteDenoiser, x: Tensor, t: Tensor, vocabulary: int) -> Tensor:
    """log p(x_0^i = k | x), the normalised answer of D, (B, L, K) in float64, K = vocabulary; −∞ says "never".

    Raises ValueError for an answer of another shape, with NaN or +∞, or that rules out every token.
    """
    logits = D(x, t)
    if logits.shape != (*x.shape, vocabulary):
        raise ValueError(f"D must return logits of shape {(*x.shape, vocabulary)}, got {tuple(logits.shape)}")
    answer = logits.double().log_softmax(-1)
    if bool(answer.isnan().any()):
        raise ValueError("D must return logits without NaN or +∞, with at least one above −∞ at every position")
    return answer


def of_data(log_p: Tensor, x0: Tensor) -> Tensor:
    """The entries log p(x_0^i) that the data name: (B, L, K), (B, L) → (B, L)."""
    return log_p.gather(-1, x0[..., None])[..., 0]


def standard_uniform(shape: torch.Size | tuple[int, ...], generator: Generators, device: torch.device) -> Tensor:
    """Draw u ~ U[0, 1) in float64, (B, *D), on `device`; with a sequence of B generators row i comes from generator i.

    Raises ValueError when the number of generators is not B.
    """
    if generator is None or isinstance(generator, torch.Generator):
        drawn_on = device if generator is None else generator.device
        return torch.rand(shape, generator=generator, dtype=torch.float64, device=drawn_on).to(device)
    if len(generator) != shape[0]:
        raise ValueError(f"one generator a sample needed: got {len(generator)} generators for a batch of {shape[0]}")
    return torch.stack([standard_uniform(shape[1:], g, device) for g in generator])


def categorical(probabilities: Tensor, generator: Generators = None) -> Tensor:
    """Draw tokens from probabilities (B, …, K), not necessarily normalised, by inverting the distribution function.

    Returns (B, …) int64. A token of probability zero is never drawn. Raises ValueError for NaN, infinity or nothing to
    draw from.
    """
    cumulative = probabilities.double().cumsum(-1)
    if not bool((torch.isfinite(cumulative[..., -1]) & (cumulative[..., -1] > 0)).all()):
        raise ValueError("probabilities must be finite, with one above zero to draw from, at every position")
    u = standard_uniform(probabilities.shape[:-1], generator, probabilities.device)
    return (cumulative / cumulative[..., -1:] <= u[..., None]).sum(-1)
