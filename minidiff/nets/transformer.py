"""A transformer for tokens whose attention may be told who sees whom, and one without places, for sets of points."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minidiff.arguments import floating, positive_integer
from minidiff.nets.embed import Conditioning


class Block(nn.Module):
    """h + Attention(LN h), then h + W₂ GELU(W₁ LN h): a pre-norm block (Vaswani et al. 2017; Xiong et al. 2020)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, h: Tensor, allowed: Tensor | None = None) -> Tensor:
        """h (B, N, width); allowed (N, N) or (B, N, N), True where the row may look at the column → (B, N, width)."""
        b, n, width = h.shape
        q, k, v = self.qkv(self.norm1(h)).reshape(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        if allowed is not None and allowed.ndim == 3:
            allowed = allowed[:, None]
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed)
        h = h + self.out(mixed.transpose(1, 2).reshape(b, n, width))
        return h + self.mlp(self.norm2(h))


def _blocks(width: int, depth: int, heads: int) -> nn.ModuleList:
    for name, value in (("width", width), ("depth", depth), ("heads", heads)):
        positive_integer(name, value)
    if width % heads:
        raise ValueError(f"width must be a multiple of heads, got {width} and {heads}")
    return nn.ModuleList(Block(width, heads) for _ in range(depth))


class TokenTransformer(nn.Module):
    """Tokens (B, N) → logits (B, N, outputs), with given places and attention; `net(x, t)` is a discrete denoiser.

    vocabulary: how many tokens there are, masks included; length: how many places; outputs: logits a token, by default
    the vocabulary; timed: whether t is looked at (masked diffusion needs none: the masks show it). The last layer
    starts at zero. Raises ValueError for sizes below 1 or a width that the heads do not divide.
    """

    def __init__(
        self,
        vocabulary: int,
        length: int,
        width: int = 64,
        depth: int = 2,
        heads: int = 4,
        outputs: int | None = None,
        timed: bool = False,
    ) -> None:
        super().__init__()
        outputs = vocabulary if outputs is None else outputs
        for name, value in (("vocabulary", vocabulary), ("length", length), ("outputs", outputs)):
            positive_integer(name, value)
        self.vocabulary, self.length = vocabulary, length
        self.blocks = _blocks(width, depth, heads)
        self.token, self.place = nn.Embedding(vocabulary, width), nn.Embedding(length, width)
        self.conditioning = Conditioning(64, width) if timed else None
        self.norm, self.leave = nn.LayerNorm(width), nn.Linear(width, outputs)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(
        self, x: Tensor, t: Tensor | None = None, places: Tensor | None = None, allowed: Tensor | None = None
    ) -> Tensor:
        """x (B, N) int64; t () or (B,), needed if timed; places (N,) or (B, N), by default 0 … N − 1.

        allowed: (N, N) or (B, N, N) bool, True where the row may look at the column. A row of `allowed` needs at least
        one True. Raises ValueError for tokens, places or masks that do not fit, and for a timed network without t.
        """
        if x.dtype != torch.int64 or x.ndim != 2 or not bool(((x >= 0) & (x < self.vocabulary)).all()):
            raise ValueError(
                f"x must be int64 tokens (B, N) below {self.vocabulary}, got {x.dtype} of shape {tuple(x.shape)}"
            )
        places = torch.arange(x.shape[1], device=x.device) if places is None else places
        if places.shape not in (x.shape, x.shape[1:]) or not bool(((places >= 0) & (places < self.length)).all()):
            raise ValueError(
                f"places must be {tuple(x.shape[1:])} or {tuple(x.shape)}, below {self.length}, got "
                f"{tuple(places.shape)} up to {int(places.max())}"
            )
        self._check_allowed(x, allowed)
        h = self.token(x) + self.place(places)
        if self.conditioning is not None:
            if t is None:
                raise ValueError("this network is timed: it needs t")
            h = h + self.conditioning(t, None, len(x))[:, None]
        for block in self.blocks:
            h = block(h, allowed)
        return self.leave(self.norm(h))

    @staticmethod
    def _check_allowed(x: Tensor, allowed: Tensor | None) -> None:
        if allowed is None:
            return
        n = x.shape[1]
        if allowed.dtype != torch.bool or allowed.shape not in ((n, n), (len(x), n, n)):
            raise ValueError(
                f"allowed must be bool of shape ({n}, {n}) or ({len(x)}, {n}, {n}), got {allowed.dtype} "
                f"{tuple(allowed.shape)}"
            )
        if not bool(allowed.any(-1).all()):
            raise ValueError("every token must be allowed to see at least one token")


class SetTransformer(nn.Module):
    """Points (B, n, d) → (B, n, d), permuted as its input is: attention knows no places (Lee et al. 2019).

    `net(x, t)` takes any number n of points. The last layer starts at zero. Raises ValueError for sizes below 1 or a
    width that the heads do not divide.
    """

    def __init__(self, dim: int, width: int = 64, depth: int = 2, heads: int = 4) -> None:
        super().__init__()
        positive_integer("dim", dim)
        self.dim = dim
        self.blocks = _blocks(width, depth, heads)
        self.enter, self.conditioning = nn.Linear(dim, width), Conditioning(64, width)
        self.norm, self.leave = nn.LayerNorm(width), nn.Linear(width, dim)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(self, x: Tensor, t: Tensor, y: None = None) -> Tensor:
        """x (B, n, d), t () or (B,), no labels → (B, n, d).

        Raises ValueError for another shape or a label, TypeError for integers.
        """
        floating("x", x)
        if x.ndim != 3 or x.shape[2] != self.dim:
            raise ValueError(f"x must have shape (B, n, {self.dim}), got {tuple(x.shape)}")
        h = self.enter(x) + self.conditioning(t, y, len(x))[:, None]
        for block in self.blocks:
            h = block(h)
        return self.leave(self.norm(h))
