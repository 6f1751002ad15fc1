"""Data: two-dimensional toys, real images found inside wheels, and loaders for people with a network."""

from minidiff.data.archives import cifar10, fashion_mnist
from minidiff.data.images import digits, photo_patches
from minidiff.data.stream import batches
from minidiff.data.toys import checkerboard, eight_gaussians, spirals, swiss_roll, two_moons

__all__ = [
    "batches",
    "checkerboard",
    "cifar10",
    "digits",
    "eight_gaussians",
    "fashion_mnist",
    "photo_patches",
    "spirals",
    "swiss_roll",
    "two_moons",
]
