"""Real images that are already on the disk: they ship inside the wheels of scikit-learn and scikit-image."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from minidiff.arguments import positive_integer
from minidiff.extras import require

# (package, file inside it); the place in this list is the class label, also where another photograph is missing. A page
# that prints them owes credit to danielbuechele (china) and vultilion (flower), both CC BY 2.0, and to Scharstein et
# al. 2014 (motorcycle, from the Middlebury stereo benchmark); the others are in the public domain or CC0.
PHOTOGRAPHS = (
    ("sklearn", "datasets/images/china.jpg"),
    ("sklearn", "datasets/images/flower.jpg"),
    ("skimage", "data/astronaut.png"),
    ("skimage", "data/chelsea.png"),
    ("skimage", "data/coffee.png"),
    ("skimage", "data/rocket.jpg"),
    ("skimage", "data/hubble_deep_field.jpg"),
    ("skimage", "data/motorcycle_left.png"),
    ("skimage", "data/ihc.png"),
)
ENOUGH_PHOTOGRAPHS = 6


def digits(split: Literal["train", "test", "all"] = "train", size: int = 8) -> tuple[Tensor, Tensor]:
    """The 1797 handwritten digits of scikit-learn: real 8×8 scans with 17 grey levels.

    Level k = 0…16 becomes k/8 − 1 in [−1, 1], so that a bin is 1/8 wide and a uniform code costs log2 17 =
    4.087 bits. Returns (images (N, 1, size, size) float32, labels (N,) int64), in the order of the data set.

    split: "all" (1797), "train" (1437) or "test" (360). The split is fixed and stratified: with the images
    sorted by label (ties in the order of the data set), every fifth, beginning with the first, is held out.
    size: 8, or 16 or 32 by bicubic up-sampling, clamped to [−1, 1]; the extra pixels hold no information.

    Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI repository, 1998 (its
    test part).
    """
    if split not in ("train", "test", "all"):
        raise ValueError(f"split must be 'train', 'test' or 'all', got {split!r}")
    if size not in (8, 16, 32):
        raise ValueError(f"size must be 8, 16 or 32, got {size!r}")
    bunch = require("sklearn.datasets").load_digits()
    images = torch.from_numpy(bunch.images)[:, None].float() / 8 - 1
    labels = torch.from_numpy(bunch.target).long()
    if split != "all":
        held_out = torch.zeros(len(labels), dtype=torch.bool)
        held_out[labels.argsort(stable=True)[::5]] = True
        chosen = held_out if split == "test" else ~held_out
        images, labels = images[chosen], labels[chosen]
    if size != 8:
        images = F.interpolate(images, size=(size, size), mode="bicubic", align_corners=False).clamp(-1, 1)
    return images, labels


def photo_patches(
    size: int = 16, n: int = 20_000, split: Literal["train", "test"] = "train", seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Random crops of colour photographs: natural images with no download.

    Up to nine photographs that scikit-learn and scikit-image carry in their wheels are halved in size (2×2
    means), and each patch takes a photograph, a place and a horizontal flip uniformly at random. Returns
    (images (n, 3, size, size) float32 in [−1, 1], labels (n,) int64); the label is the photograph's place in
    `PHOTOGRAPHS`. "train" crops from the first three quarters of the columns, "test" from the last quarter,
    so no pixel is in both. The contents of the two parts differ strongly: this set teaches textures, not
    generalisation.

    Raises ImportError if fewer than six photographs are installed, ValueError if `size` does not fit in every
    one.
    """
    if split not in ("train", "test"):
        raise ValueError(f"split must be 'train' or 'test', got {split!r}")
    positive_integer("size", size)
    positive_integer("n", n)
    photographs = _photographs()
    photographs = {label: _columns(photograph, split) for label, photograph in photographs.items()}
    largest = min(min(photograph.shape[1:]) for photograph in photographs.values())
    if size > largest:
        raise ValueError(f"size must be at most {largest} for split {split!r}, got {size}")

    generator = torch.Generator().manual_seed(seed)
    available = torch.tensor(list(photographs))
    labels = available[torch.randint(len(available), (n,), generator=generator)]
    place = torch.rand(n, 2, generator=generator)
    flip = torch.rand(n, generator=generator) < 0.5
    images = torch.empty(n, 3, size, size)
    for label, photograph in photographs.items():
        rows = (labels == label).nonzero()[:, 0]
        windows = photograph.unfold(1, size, 1).unfold(2, size, 1)  # (3, tops, lefts, size, size), a view
        top, left = (place[rows] * torch.tensor(windows.shape[1:3])).long().unbind(1)
        images[rows] = windows[:, top, left].transpose(0, 1)
    images[flip] = images[flip].flip(-1)
    return images, labels


def _photographs() -> dict[int, Tensor]:
    """The installed photographs by label, (3, H, W) in [−1, 1], at half their size."""
    pil = require("PIL.Image")
    numpy = require("numpy")
    found = {}
    for label, (package, file) in enumerate(PHOTOGRAPHS):
        spec = find_spec(package)  # finds the folder without importing the package
        path = Path(spec.origin).parent / file if spec and spec.origin else None
        if path and path.is_file():
            with pil.open(path) as opened:
                pixels = torch.from_numpy(numpy.array(opened.convert("RGB")))
            found[label] = F.avg_pool2d(pixels.permute(2, 0, 1).float(), 2) / 127.5 - 1
    if len(found) < ENOUGH_PHOTOGRAPHS:
        raise ImportError(
            f"photo_patches needs {ENOUGH_PHOTOGRAPHS} of the {len(PHOTOGRAPHS)} photographs in the wheels of"
            f' scikit-learn and scikit-image, found {len(found)}: pip install "minidiff[book]"'
        )
    return found


def _columns(photograph: Tensor, split: str) -> Tensor:
    """The first three quarters of the columns, or the last quarter."""
    border = photograph.shape[2] - photograph.shape[2] // 4
    return photograph[..., :border] if split == "train" else photograph[..., border:]
