"""Two encoders into one space: pictures, and names of classes made of words. A class is chosen by its name alone."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minidiff.arguments import positive_integer


class DualEncoder(nn.Module):
    """p(c | x) = softmax_c ⟨f(x), g(v_1 … v_M, name_c)⟩/τ with unit vectors f of a picture and g of a name (CLIP).

    image: x (B, *shape) → (B, width). A name is K indices into a table of `words` vectors, e, so that classes share
    words and a class without pictures has a name; v is a *context* of M vectors put before it, by hand
    (`context(indices)`) or learned (`guidance.PromptEmbedding`, Zhou et al. 2022a, b). g is one layer of a transformer
    over v and name, M + K ≤ length, its mean, a linear map and a division by its norm. τ = exp(−log_scale) is learned,
    from 1/10 (Radford et al. 2021).

    Raises ValueError for words, width or length below 1, and a width that is not a multiple of 4, its heads.
    """

    def __init__(self, image: nn.Module, words: int, width: int = 64, length: int = 8) -> None:
        super().__init__()
        for name, value in (("words", words), ("width", width), ("length", length)):
            positive_integer(name, value)
        if width % 4:
            raise ValueError(f"width must be a multiple of 4, the number of heads, got {width}")
        self.image, self.width, self.length = image, width, length
        self.words = nn.Embedding(words, width)
        self.place = nn.Parameter(0.1 * torch.randn(length, width))
        self.layer = nn.TransformerEncoderLayer(width, 4, 2 * width, dropout=0.0, batch_first=True, norm_first=True)
        self.leave = nn.Linear(width, width)
        self.log_scale = nn.Parameter(torch.tensor(math.log(10.0)))

    def context(self, indices: Tensor) -> Tensor:
        """The context (1, M, width) that these M words (M,) make. Raises ValueError unless they have one axis."""
        if indices.ndim != 1:
            raise ValueError(f"indices must be (M,), got {tuple(indices.shape)}")
        return self.words(indices)[None]

    def pictures(self, x: Tensor) -> Tensor:
        """f: (B, *shape) → (B, width), of norm 1."""
        return F.normalize(self.image(x), dim=-1)

    def names(self, names: Tensor, context: Tensor | None = None) -> Tensor:
        """g: names (C, K), indices of words, and context (R, M, width) → (R, C, width), of norm 1; R·C calls of g.

        None is no context, M = 0 and R = 1. Raises ValueError for names or a context of another shape, and for
        M + K > length.
        """
        if names.ndim != 2:
            raise ValueError(f"names must be (C, K), got {tuple(names.shape)}")
        words = self.words(names)[None]
        context = words[:, 0, :0] if context is None else context
        if context.ndim != 3 or context.shape[2] != self.width:
            raise ValueError(f"context must be (R, M, {self.width}), got {tuple(context.shape)}")
        rows, classes, total = len(context), len(names), context.shape[1] + names.shape[1]
        if total > self.length:
            raise ValueError(f"M + K must be at most length = {self.length}, got {total}")
        before = context[:, None].expand(-1, classes, -1, -1)
        tokens = torch.cat([before, words.expand(rows, -1, -1, -1)], 2) + self.place[:total]
        h = self.layer(tokens.flatten(0, 1)).mean(1)
        return F.normalize(self.leave(h), dim=-1).unflatten(0, (rows, classes))

    def forward(self, x: Tensor, names: Tensor, context: Tensor | None = None) -> Tensor:
        """Logits (B, C) of pictures x (B, *shape): names (C, K); context (1, M, width), or (B, M, width), one a row.

        Raises ValueError as `names` does, and for a context of another number of rows.
        """
        if context is not None and len(context) not in (1, len(x)):
            raise ValueError(f"context must have 1 row or one a picture, {len(x)}, got {len(context)}")
        g = self.names(names, context).expand(len(x), -1, -1)
        return self.log_scale.exp() * torch.einsum("bd,bcd->bc", self.pictures(x), g)


def contrastive_loss(f: Tensor, g: Tensor, scale: Tensor) -> Tensor:
    """The cross-entropies of finding each row's partner among all, from f to g and from g to f; their mean (B,).

    f, g: (B, width) of norm 1, rows in pairs; scale: (), the logits are scale·⟨f_b, g_b'⟩ (Radford et al. 2021). Raises
    ValueError for unequal shapes.
    """
    if f.shape != g.shape or f.ndim != 2:
        raise ValueError(f"f and g must both be (B, width), got {tuple(f.shape)} and {tuple(g.shape)}")
    logits, pair = scale * f @ g.T, torch.arange(len(f), device=f.device)
    return (F.cross_entropy(logits, pair, reduction="none") + F.cross_entropy(logits.T, pair, reduction="none")) / 2
