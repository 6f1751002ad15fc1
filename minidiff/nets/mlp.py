"""A residual multilayer perceptron for points in the plane and other short vectors."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from minidiff.arguments import floating, positive_integer
from minidiff.nets.embed import Conditioning


class ResidualLayer(nn.Module):
    """h + W₂ SiLU((1 + a) ⊙ LayerNorm(W₁ h) + b), where (a, b) = W_c c (FiLM, Perez et al. 2018)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.enter = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.film = nn.Linear(width, 2 * width)
        self.leave = nn.Linear(width, width)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(self, h: Tensor, c: Tensor) -> Tensor:
        """h: (B, width), c: (B, width) or (1, width) → (B, width)."""
        scale, shift = self.film(c).chunk(2, dim=-1)
        return h + self.leave(F.silu(self.norm(self.enter(h)) * (1 + scale) + shift))


class MLP(nn.Module):
    """`depth` FiLM-conditioned residual layers of `width` units on the flattened x; the last layer starts at zero.

    dim: number of coordinates of one sample (2 for the plane, 64 for an 8×8 image); classes: number of classes or None.
    Raises ValueError for sizes below 1.
    """

    def __init__(self, dim: int, width: int = 128, depth: int = 3, classes: int | None = None) -> None:
        super().__init__()
        for name, value in (("dim", dim), ("width", width), ("depth", depth)):
            positive_integer(name, value)
        self.dim, self.classes = dim, classes
        self.conditioning = Conditioning(64, width, classes)
        self.enter = nn.Linear(dim, width)
        self.layers = nn.ModuleList(ResidualLayer(width) for _ in range(depth))
        self.leave = nn.Linear(width, dim)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """x: (B, *D) with `dim` coordinates a row, t: () or (B,), y: (B,) int64 or None → (B, *D).

        Raises ValueError for another number of coordinates, TypeError for an x that is not floating point.
        """
        floating("x", x)
        if x.ndim < 2 or x[0:1].numel() != self.dim * min(len(x), 1):
            raise ValueError(f"x must be (B, *D) with {self.dim} coordinates a row, got {tuple(x.shape)}")
        c = self.conditioning(t, y, len(x))
        h = self.enter(x.flatten(1))
        for layer in self.layers:
            h = layer(h, c)
        return self.leave(F.silu(h)).reshape(x.shape)
