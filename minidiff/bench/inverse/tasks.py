"""Three measurements of digits: half of the pixels, means of blocks, a blur."""

from __future__ import annotations

import torch
from torch import Tensor

from minidiff import data
from minidiff.inverse import AveragePool, Blur, LinearOperator, Mask

SHAPE = (1, 8, 8)


def operators() -> dict[str, tuple[LinearOperator, float]]:
    """Name → (A, s): the upper half measured, means of 2 × 2 pixels, a blur over 5 × 5 pixels; each with noise s."""
    mask = torch.zeros(SHAPE, dtype=torch.bool)
    mask[:, :4] = True
    return {
        "inpainting": (Mask(mask), 0.5),
        "super-resolution": (AveragePool(SHAPE, 2), 0.3),
        "deblurring": (Blur(torch.ones(5, 5) / 25, SHAPE), 0.2),
    }


def measurements(A: LinearOperator, s: float, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """(x_0, y, labels) of held-out digits: y = A x_0 + s n."""
    images, labels = data.digits("test")
    chosen = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[:count]
    y = A(images[chosen])
    return images[chosen], y + s * torch.randn(y.shape, generator=torch.Generator().manual_seed(1)), labels[chosen]
