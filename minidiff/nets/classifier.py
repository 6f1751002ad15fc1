"""A small convolutional classifier; its penultimate layer is the feature space of the book's Fréchet distances."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from minidiff.arguments import floating, positive_integer


class Classifier(nn.Module):
    """Three 3×3 convolutions with group normalisation, pooling once, then a layer of `features` units and the logits.

    size: side of the image, an even number. Raises ValueError for sizes below 1 or an odd side.
    """

    def __init__(self, in_channels: int = 1, size: int = 8, classes: int = 10, features: int = 64) -> None:
        super().__init__()
        for name, value in (("in_channels", in_channels), ("size", size), ("classes", classes), ("features", features)):
            positive_integer(name, value)
        if size % 2:
            raise ValueError(f"size must be even, got {size}")
        self.shape = (in_channels, size, size)
        self.body = nn.Sequential(
            nn.Conv2d(in_channels, 32, 3, padding=1),
            nn.GroupNorm(8, 32),
            nn.ReLU(),
            nn.Conv2d(32, 64, 3, padding=1),
            nn.GroupNorm(8, 64),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(64, 64, 3, padding=1),
            nn.GroupNorm(8, 64),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(64 * (size // 2) ** 2, features),
        )
        self.head = nn.Linear(features, classes)

    def features(self, x: Tensor) -> Tensor:
        """Features of images in [−1, 1], after a ReLU: (B, *shape) → (B, features). ValueError for another shape."""
        floating("x", x)
        if x.shape[1:] != self.shape:
            raise ValueError(f"x must be (B, {', '.join(map(str, self.shape))}), got {tuple(x.shape)}")
        return F.relu(self.body(x))

    def forward(self, x: Tensor) -> Tensor:
        """Logits of images in [−1, 1]: (B, *shape) → (B, classes)."""
        return self.head(self.features(x))
