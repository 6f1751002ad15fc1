"""Conditions that act in a place: masks choose which denoiser speaks where, or which pixels a tag is linked to."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from minidiff import arguments
from minidiff.denoiser import Combined, DenoiserLike


class Regional(Combined):
    """Σ_k m_k ⊙ D_k(x, t) / Σ_k m_k: see `regional`."""

    def __init__(self, parts: Sequence[DenoiserLike], masks: Tensor) -> None:
        arguments.finite("masks", masks)
        if masks.ndim < 2 or not len(parts) == len(masks) > 0:
            raise ValueError(f"one mask a denoiser needed, (K, *D), got {tuple(masks.shape)} for {len(parts)}")
        if bool((masks < 0).any()) or not bool((masks.sum(0) > 0).all()):
            raise ValueError("masks must not be negative, and each place must lie in at least one of them")
        super().__init__(*parts)
        self.parts, self.masks = tuple(parts), masks / masks.sum(0)

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """x̂_0 of the shape of x (B, *D); t () or (B,)."""
        try:
            fits = torch.broadcast_shapes(self.masks.shape[1:], x.shape[1:]) == x.shape[1:]
        except RuntimeError:
            fits = False
        if not fits:
            raise ValueError(f"masks {tuple(self.masks.shape)} do not fit the samples of x {tuple(x.shape)}")
        masks = self.masks.to(x)
        return torch.stack([mask * D(x, t) for mask, D in zip(masks, self.parts, strict=True)]).sum(0)


def regional(parts: Sequence[DenoiserLike], masks: Tensor) -> Regional:
    """Σ_k m_k ⊙ D_k(x, t) / Σ_k m_k: each place listens to the denoiser of its region (Bar-Tal et al. 2023, eq. 5).

    parts: K denoisers of one process, as D.given(y_k); masks: (K, *D) ≥ 0 or of a shape that broadcasts against one
    sample, as (K, H, W) for images; where they overlap the mean is weighted. It is exactly the denoiser of the whole
    where the regions are independent given their conditions, and else leaves the seams to chance. K calls of the
    network. Guided: `autoguidance(regional(parts, masks), D, w)`.

    Raises ValueError unless there is one mask a denoiser, masks are finite and not negative and cover every place,
    and processes agree; at the call for masks that do not fit x.
    """
    return Regional(parts, masks)


class RegionLink(nn.Module):
    """tag_k + W · mean of the features over region k: the embedding of a tag, told what it points at.

    tags (B, K, width); features (B, C, H, W); masks (B, K, H, W) or (K, H, W), 0 … 1, none of them empty; the result
    has the shape of the tags. W (width, C) is 0 at the start: a network with the link starts as the one without. A tag
    depends on no feature outside its region. (Pooling by a box: Girshick 2015; tags linked to boxes: Ma et al. 2024.)
    Raises ValueError for shapes that do not fit, masks outside [0, 1], and an empty region.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        arguments.positive_integer("channels", channels)
        arguments.positive_integer("width", width)
        self.link = nn.Linear(channels, width, bias=False)
        nn.init.zeros_(self.link.weight)

    def forward(self, tags: Tensor, features: Tensor, masks: Tensor) -> Tensor:
        """(B, K, width) tags → (B, K, width)."""
        if masks.ndim == 3:
            masks = masks.expand(len(tags), *masks.shape)
        size = (*tags.shape[:2], *features.shape[2:])
        wide, deep = self.link.out_features, self.link.in_features
        fits = tags.ndim == 3 and features.ndim == 4 and len(features) == len(tags) and masks.shape == size
        if not fits or tags.shape[2] != wide or features.shape[1] != deep:
            raise ValueError(
                f"needed are tags (B, K, {wide}), features (B, {deep}, H, W) and masks (B, K, H, W), got "
                f"{tuple(tags.shape)}, {tuple(features.shape)} and {tuple(masks.shape)}"
            )
        arguments.unit_interval("masks", masks)
        area = masks.sum((2, 3))
        if not bool((area > 0).all()):
            raise ValueError("a region must not be empty: a mask sums to 0")
        pooled = torch.einsum("bkhw,bchw->bkc", (masks / area[..., None, None]).to(features), features)
        return tags + self.link(pooled)
