"""Many states of one batch in one call: what lets samplers work on several times at once."""

from __future__ import annotations

import torch
from torch import Tensor

from minidiff.denoiser import DenoiserLike, Given


def at_rows(D: DenoiserLike, x: Tensor, t: Tensor, rows: Tensor) -> Tensor:
    """x̂_0 of x (R, *D) at times t (R,), where row i belongs to sample rows[i] of the batch: one call of D.

    A condition bound by `Denoiser.given` has one label a sample; each row gets the label of its sample. Any other
    denoiser must be one of (x, t) alone. Raises ValueError unless D returns the shape of x.
    """
    if isinstance(D, Given):
        D = D.denoiser.given(D.y[rows.to(D.y.device)])
    x0 = D(x, t)
    if x0.shape != x.shape:
        raise ValueError(f"D must return x̂_0 of the shape of x, {tuple(x.shape)}, got {tuple(x0.shape)}")
    return x0


def stacked(D: DenoiserLike, x: Tensor, times: tuple[Tensor, ...]) -> Tensor:
    """x̂_0 of W states of one batch, x (W, B, *D), each at its own 0-d time: one call of D on W·B rows."""
    rows = torch.arange(x.shape[1]).repeat(len(x))
    t = torch.stack(times).repeat_interleave(x.shape[1])
    return at_rows(D, x.flatten(0, 1), t, rows).reshape(x.shape)
