"""Small pictures in stored results: base64 of one byte a pixel, the same wherever a benchmark keeps samples to be seen.

A byte b stands for b/127.5 − 1, so that pictures in [−1, 1] come back to within half a level, 1/255.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence

import torch
from torch import Tensor

from minidiff import arguments


def packed(pictures: Tensor) -> str:
    """The pixels of any shape, row by row, clamped to [−1, 1] and rounded to the nearest of 256 levels.

    Raises TypeError unless the pixels are floating point, ValueError for NaN or infinity.
    """
    arguments.finite("pictures", pictures)
    levels = ((pictures.cpu().double() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return base64.b64encode(bytes(levels.flatten().tolist())).decode("ascii")


def unpacked(text: str, shape: Sequence[int]) -> Tensor:
    """The pictures that `packed` made `text` of, float32 in [−1, 1], of the given shape, in which one length may be −1.

    Raises TypeError unless text is a string, ValueError unless it is base64 and its pixels fill the shape.
    """
    if not isinstance(text, str):
        raise TypeError(f"text must be a string of `packed`, got {type(text).__name__}")
    try:
        levels = torch.tensor(list(base64.b64decode(text, validate=True)), dtype=torch.float32)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"text must be base64, got {text[:20]!r} of {len(text)} characters: {error}") from None
    try:
        return levels.reshape(tuple(shape)) / 127.5 - 1
    except RuntimeError:
        raise ValueError(f"shape must hold the {levels.numel()} pixels of text, got {tuple(shape)}") from None
