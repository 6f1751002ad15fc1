"""The U-Net of DDPM (Ho et al. 2020, appendix B) with adaptive group norms (Dhariwal & Nichol 2021, section 3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from minidiff.arguments import floating, positive_integer
from minidiff.nets.embed import Conditioning

Layer = TypeVar("Layer", nn.Conv2d, nn.Linear)
HEAD = 32  # channels of one attention head


def group_norm(channels: int, affine: bool = True) -> nn.GroupNorm:
    """GroupNorm with 8 groups, or with the largest power of two that divides `channels` if that is less."""
    return nn.GroupNorm(min(8, channels & -channels), channels, affine=affine)


def zero(module: Layer) -> Layer:
    """The layer with weights and bias set to 0: its branch starts as the zero function."""
    nn.init.zeros_(module.weight)
    nn.init.zeros_(module.bias)
    return module


class ResidualBlock(nn.Module):
    """skip(x) + conv₂ SiLU((1 + a) ⊙ GN(conv₁ SiLU GN(x)) + b), where (a, b) = W_c c and conv₂ starts at zero."""

    def __init__(self, channels_in: int, channels: int, width: int) -> None:
        super().__init__()
        self.norm1 = group_norm(channels_in)
        self.conv1 = nn.Conv2d(channels_in, channels, 3, padding=1, bias=False)  # the shift b follows
        self.film = nn.Linear(width, 2 * channels)
        self.norm2 = group_norm(channels, affine=False)
        self.conv2 = zero(nn.Conv2d(channels, channels, 3, padding=1))
        self.skip = nn.Identity() if channels_in == channels else nn.Conv2d(channels_in, channels, 1, bias=False)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """x: (B, channels_in, H, W), c: (B, width) or (1, width) → (B, channels, H, W)."""
        h = self.conv1(F.silu(self.norm1(x)))
        scale, shift = self.film(c)[:, :, None, None].chunk(2, dim=1)
        h = self.conv2(F.silu(self.norm2(h) * (1 + scale) + shift))
        return self.skip(x) + h


class Attention(nn.Module):
    """x + W_o softmax(q kᵀ/√d) v over the pixels, (q, k, v) = W GN(x), heads of d = 32 channels; W_o starts at zero."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.heads = max(1, channels // HEAD)
        if channels % self.heads:
            raise ValueError(f"attention cannot split {channels} channels into {self.heads} equal heads")
        self.norm = group_norm(channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = zero(nn.Linear(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, C, H, W) → (B, C, H, W)."""
        pixels = rearrange(self.norm(x), "b c y x -> b (y x) c")
        q, k, v = rearrange(self.qkv(pixels), "b l (n h d) -> n b h l d", n=3, h=self.heads)
        h = rearrange(F.scaled_dot_product_attention(q, k, v), "b h l d -> b l (h d)")
        return x + rearrange(self.out(h), "b (y x) c -> b c y x", y=x.shape[2])


class Stage(nn.Module):
    """A residual block, followed by attention where asked."""

    def __init__(self, channels_in: int, channels: int, width: int, attention: bool) -> None:
        super().__init__()
        self.block = ResidualBlock(channels_in, channels, width)
        self.attention = Attention(channels) if attention else nn.Identity()

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """x: (B, channels_in, H, W) → (B, channels, H, W)."""
        return self.attention(self.block(x, c))


class UNet(nn.Module):
    """`blocks` stages a level on the way down, `blocks` + 1 on the way up, each of which also takes what its twin made.

    in_channels: of the image; size: its side, a multiple of 2^(levels − 1); channels × multipliers: channels of the
    levels, whose sides are size, size/2, size/4 …; attention: sides at which attention follows each block (and the
    middle, always); classes: number of classes or None. The last convolution starts at zero. Images of another size
    are allowed in `forward` if the side is a multiple of 2^(levels − 1).

    Raises ValueError for sizes below 1, an indivisible size, or an attention side that no level has.
    """

    def __init__(
        self,
        in_channels: int = 1,
        size: int = 8,
        channels: int = 32,
        multipliers: Sequence[int] = (1, 2),
        blocks: int = 1,
        attention: Sequence[int] = (4,),
        classes: int | None = None,
    ) -> None:
        super().__init__()
        for name, value in (("in_channels", in_channels), ("size", size), ("channels", channels), ("blocks", blocks)):
            positive_integer(name, value)
        self.stride = 2 ** (len(multipliers) - 1)
        if size % self.stride:
            raise ValueError(f"{len(multipliers)} levels need a size that is a multiple of {self.stride}, got {size}")
        sides = [size >> level for level in range(len(multipliers))]
        if not set(attention) <= set(sides):
            raise ValueError(f"attention must be among the sides {sides} of the levels, got {list(attention)}")
        self.in_channels, self.classes = in_channels, classes

        width = 2 * channels
        self.conditioning = Conditioning(channels, width, classes)
        self.enter = nn.Conv2d(in_channels, channels, 3, padding=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        now, skips = channels, [channels]
        for level, side in enumerate(sides):
            for _ in range(blocks):
                self.down.append(Stage(now, channels * multipliers[level], width, side in attention))
                now = channels * multipliers[level]
                skips.append(now)
            if level < len(sides) - 1:
                self.down.append(nn.Conv2d(now, now, 3, stride=2, padding=1))
                skips.append(now)
        self.middle = nn.ModuleList([Stage(now, now, width, True), Stage(now, now, width, False)])
        for level, side in reversed(list(enumerate(sides))):
            for _ in range(blocks + 1):
                self.up.append(Stage(now + skips.pop(), channels * multipliers[level], width, side in attention))
                now = channels * multipliers[level]
            if level > 0:
                self.up.append(nn.ConvTranspose2d(now, now, 4, stride=2, padding=1))
        self.leave = nn.Sequential(group_norm(now), nn.SiLU(), zero(nn.Conv2d(now, in_channels, 3, padding=1)))

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """x: (B, in_channels, H, W), t: () or (B,), y: (B,) int64 or None → (B, in_channels, H, W).

        Raises ValueError for another number of channels or an indivisible side, TypeError for an x that is not
        floating point.
        """
        floating("x", x)
        if x.ndim != 4 or x.shape[1] != self.in_channels or x.shape[2] % self.stride or x.shape[3] % self.stride:
            raise ValueError(
                f"x must be (B, {self.in_channels}, H, W) with H, W multiples of {self.stride}, got {tuple(x.shape)}"
            )
        c = self.conditioning(t, y, len(x))
        h = self.enter(x)
        skips = [h]
        for layer in self.down:
            h = layer(h, c) if isinstance(layer, Stage) else layer(h)
            skips.append(h)
        for layer in self.middle:
            h = layer(h, c)
        for layer in self.up:
            h = layer(torch.cat([h, skips.pop()], dim=1), c) if isinstance(layer, Stage) else layer(h)
        return self.leave(h)
