"""Fashion-MNIST and CIFAR-10 from their original files, for people with a network."""

from __future__ import annotations

import gzip
import math
import struct
import tarfile
from pathlib import Path
from typing import Literal, TypeVar

import torch
from torch import Tensor

from minidiff.data.download import fetch

T = TypeVar("T")

CACHE = Path("~/.cache/minidiff")

# Checksums as published by the authors: github.com/zalandoresearch/fashion-mnist and
# www.cs.toronto.edu/~kriz/cifar.html
FASHION_MNIST_URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
FASHION_MNIST_FILES = {
    "train": {
        "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
    },
    "test": {
        "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
        "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
    },
}
# The binary version: unlike the Python version, reading it runs no pickled code.
CIFAR10_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
CIFAR10_MD5 = "c32a1d4ab5d03f1284b67883e8d87530"
CIFAR10_FILES = {"train": [f"data_batch_{i}.bin" for i in range(1, 6)], "test": ["test_batch.bin"]}


def fashion_mnist(split: Literal["train", "test"] = "train", root: str | Path = CACHE) -> tuple[Tensor, Tensor]:
    """Fashion-MNIST (Xiao, Rasul and Vollgraf 2017): 60 000 train and 10 000 test images of ten kinds of
    clothing.

    Returns (images (N, 1, 28, 28) float32 in [−1, 1], level k of 256 as k/127.5 − 1; labels (N,) int64). The
    original files are downloaded to `root`/fashion-mnist once, verified, and read from there. Raises what
    `fetch` raises.
    """
    folder = Path(root).expanduser() / "fashion-mnist"
    files = _of_split(FASHION_MNIST_FILES, split)
    paths = [fetch(FASHION_MNIST_URL + name, folder / name, md5) for name, md5 in files.items()]
    images, labels = (parse_idx(gzip.decompress(path.read_bytes())) for path in paths)
    if images.ndim != 3 or labels.ndim != 1 or len(images) != len(labels):
        raise ValueError(
            f"expected images (N, H, W) and labels (N,), got {tuple(images.shape)} and {tuple(labels.shape)}"
        )
    return _scaled(images[:, None]), labels.long()


def cifar10(split: Literal["train", "test"] = "train", root: str | Path = CACHE) -> tuple[Tensor, Tensor]:
    """CIFAR-10 (Krizhevsky 2009): 50 000 train and 10 000 test colour images of ten classes.

    Returns (images (N, 3, 32, 32) float32 in [−1, 1], level k of 256 as k/127.5 − 1; labels (N,) int64). The
    original archive, 170 MB, is downloaded to `root`/cifar-10 once, verified, and read from there. Raises
    what `fetch` raises.
    """
    names = _of_split(CIFAR10_FILES, split)
    path = fetch(CIFAR10_URL, Path(root).expanduser() / "cifar-10" / CIFAR10_URL.rpartition("/")[2], CIFAR10_MD5)
    parts = {}
    with tarfile.open(path) as archive:
        for member in archive:
            name = member.name.rpartition("/")[2]
            if member.isfile() and name in names:
                parts[name] = parse_cifar(archive.extractfile(member).read())
    if missing := [name for name in names if name not in parts]:
        raise ValueError(f"{path} holds no {', '.join(missing)}")
    images, labels = (torch.cat(column) for column in zip(*(parts[name] for name in names), strict=True))
    return _scaled(images), labels


def parse_idx(raw: bytes) -> Tensor:
    """The uint8 array in an IDX file (LeCun's MNIST format).

    Layout: two zero bytes, the type (8 = unsigned byte), the number of dimensions, each dimension as a
    big-endian 32-bit integer, then the values with the last index running fastest. Raises ValueError on
    anything else.
    """
    if len(raw) < 4 or raw[:3] != b"\x00\x00\x08":
        raise ValueError(f"an IDX file of bytes begins with 00 00 08, got {raw[:3].hex(' ') or 'an empty file'}")
    start = 4 + 4 * raw[3]
    if len(raw) < start:
        raise ValueError(f"an IDX header of {raw[3]} dimensions has {start} bytes, got {len(raw)}")
    shape = struct.unpack(f">{raw[3]}I", raw[4:start])
    if len(raw) - start != math.prod(shape):
        raise ValueError(f"an IDX file of shape {shape} holds {math.prod(shape)} values, got {len(raw) - start}")
    return torch.frombuffer(bytearray(raw), dtype=torch.uint8)[start:].reshape(shape)


def parse_cifar(raw: bytes) -> tuple[Tensor, Tensor]:
    """Images (N, 3, 32, 32) uint8 and labels (N,) int64 in a file of the binary version of CIFAR-10.

    A record is 1 + 3·32·32 bytes: the label 0…9, then red, green and blue planes, row by row. Raises
    ValueError if the size is no multiple of that or a label is above 9.
    """
    if not raw or len(raw) % 3073:
        raise ValueError(f"a CIFAR-10 file is a multiple of 3073 bytes long, got {len(raw)} bytes")
    records = torch.frombuffer(bytearray(raw), dtype=torch.uint8).reshape(-1, 3073)
    labels = records[:, 0].long()
    if int(labels.max()) > 9:
        raise ValueError(f"CIFAR-10 labels lie in 0…9, got {int(labels.max())}")
    return records[:, 1:].reshape(-1, 3, 32, 32), labels


def _of_split(table: dict[str, T], split: str) -> T:
    if split not in table:
        raise ValueError(f"split must be 'train' or 'test', got {split!r}")
    return table[split]


def _scaled(levels: Tensor) -> Tensor:
    """Levels 0…255 mapped to [−1, 1]."""
    return levels.float() / 127.5 - 1
