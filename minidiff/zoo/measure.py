"""What the models of the zoo reach: the figures in their configurations."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from minidiff import data, metrics
from minidiff.denoiser import Denoiser
from minidiff.nets import Classifier
from minidiff.samplers import sample

CALLS = (10, 20, 35)
SEEDS = (0, 1, 2)
PATCH_SIZE = 32  # pixels a side of the patches of the photographs
PATCHES = 20_000  # for training
FRESH = 4096  # patches cropped anew, to compare with
PATCH_SAMPLES = 512
PART = 300  # images sampled at a time: more would not fit a core's cache, and take half as long again


@torch.no_grad()
def accuracy(model: nn.Module) -> float:
    """The share of the 360 held-out digits that a classifier names right."""
    images, labels = data.digits("test")
    return metrics.class_accuracy(model(images), labels)


@torch.no_grad()
def patch_accuracy(model: nn.Module) -> dict[str, float]:
    """The share of 1024 patches whose photograph a classifier names right: cropped anew, and from held-out columns."""
    fresh, held_out = data.photo_patches(PATCH_SIZE, 1024, seed=1), data.photo_patches(PATCH_SIZE, 1024, "test", seed=1)
    return {
        "new patches": metrics.class_accuracy(model(fresh[0]), fresh[1]),
        "patches of held-out columns": metrics.class_accuracy(model(held_out[0]), held_out[1]),
    }


def generate(denoiser: Denoiser, labels: Tensor, nfe: int, seed: int, shape: Sequence[int] = (1, 8, 8)) -> Tensor:
    """One image of `shape` for each label (n,) → (n, *shape), by `minidiff.sample` with nfe calls."""
    x = denoiser.process.prior((len(labels), *shape), torch.Generator().manual_seed(seed))
    parts = zip(x.split(PART), labels.split(PART), strict=True)
    return torch.cat([sample(denoiser.given(y), part, nfe) for part, y in parts])


@torch.no_grad()
def quality(
    denoiser: Denoiser, judge: Classifier, calls: Sequence[int] = CALLS, seeds: Sequence[int] = SEEDS
) -> dict[str, Any]:
    """Fréchet distances of 1797 samples with the labels of the set, and what must stand beside them.

    Distances are squared, in the judge's features, to all 1797 digits; `ratio` divides by the floor, the mean over 20
    splits of one half of the digits against the other. Copying the training set would win this distance, so the copy
    rate, the mean distance to the nearest training image, and the distances to held-out and to training digits at the
    same n = 360 stand beside it.
    """
    images, labels = data.digits("all")
    train_images, train_labels = data.digits("train")
    test_images, _ = data.digits("test")
    digits, held_out = judge.features(images), judge.features(test_images)
    folds = [judge.features(train_images[rows]) for rows in _folds(train_labels)]
    floor = metrics.frechet_floor(digits)
    runs = []
    for nfe in calls:
        for seed in seeds:
            samples = generate(denoiser, labels, nfe, seed)
            features = judge.features(samples)
            distance_to = partial(metrics.frechet_distance, features)
            runs.append(
                {
                    "calls": nfe,
                    "seed": seed,
                    "distance": distance_to(digits),
                    "ratio": distance_to(digits) / floor.mean,
                    "distance to held-out (n = 360)": distance_to(held_out),
                    "distance to train (n = 360)": sum(distance_to(fold) for fold in folds) / len(folds),
                    "classified as asked": metrics.class_accuracy(judge.head(features), labels),
                    "copy rate": metrics.copy_rate(samples, train_images),
                    "nearest training image": float(metrics.nearest_distance(samples, train_images).mean()),
                }
            )
    nearest = float(metrics.nearest_distance(test_images, train_images).mean())
    floor_of = {"mean": floor.mean, "std": floor.std, "n": floor.n}
    return {"floor": floor_of, "nearest training image of held-out digits": nearest, "samples": _rounded(runs)}


@torch.no_grad()
def patch_quality(
    denoiser: Denoiser, judge: Classifier, calls: Sequence[int] = CALLS, seeds: Sequence[int] = SEEDS
) -> dict[str, Any]:
    """Fréchet distances of 512 samples to 4096 patches that were cropped anew, and what must stand beside them.

    Distances are squared, in the judge's features; the floor is that of 512 real patches, also cropped anew, the mean
    over 8 sets. `gradient kurtosis`, of the differences between neighbouring pixels, is 3 for a Gaussian and far more
    for photographs.
    """
    train_images, _ = data.photo_patches(PATCH_SIZE, PATCHES)
    fresh, labels = data.photo_patches(PATCH_SIZE, FRESH, seed=1)
    reference, labels = judge.features(fresh), labels[:PATCH_SAMPLES]
    sets = [data.photo_patches(PATCH_SIZE, PATCH_SAMPLES, seed=seed)[0] for seed in range(2, 10)]
    floors = torch.tensor([metrics.frechet_distance(judge.features(real), reference) for real in sets])
    runs = []
    for nfe in calls:
        for seed in seeds:
            samples = generate(denoiser, labels, nfe, seed, (3, PATCH_SIZE, PATCH_SIZE))
            features = judge.features(samples)
            runs.append(
                {
                    "calls": nfe,
                    "seed": seed,
                    "distance": metrics.frechet_distance(features, reference),
                    "classified as asked": metrics.class_accuracy(judge.head(features), labels),
                    "copy rate": metrics.copy_rate(samples, train_images),
                    "gradient kurtosis": gradient_kurtosis(samples),
                }
            )
    floor_of = {"mean": float(floors.mean()), "std": float(floors.std()), "n": PATCH_SAMPLES}
    real = {"gradient kurtosis": round(gradient_kurtosis(fresh), 4)}
    return {"floor": floor_of, "new patches": real, "samples": _rounded(runs)}


def gradient_kurtosis(images: Tensor) -> float:
    """E d⁴ / (E d²)² of the differences d between horizontal neighbours; images (B, C, H, W)."""
    difference = images.diff(dim=-1)
    return float(difference.pow(4).mean() / difference.square().mean().square())


def _folds(labels: Tensor) -> list[Tensor]:
    """Four disjoint sets of rows with the same share of each class: as large as the held-out split, and as balanced."""
    order = labels.argsort(stable=True)
    return [order[first::4] for first in range(4)]


def _rounded(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: round(value, 4) if isinstance(value, float) else value for key, value in run.items()} for run in runs]
