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
PART = 300  # images sampled at a time: more would not fit a core's cache, and take half as long again


@torch.no_grad()
def accuracy(model: nn.Module) -> float:
    """The share of the 360 held-out digits that a classifier names right."""
    images, labels = data.digits("test")
    return metrics.class_accuracy(model(images), labels)


def generate(denoiser: Denoiser, labels: Tensor, nfe: int, seed: int) -> Tensor:
    """One image for each label (n,) → (n, 1, 8, 8), by `minidiff.sample` with nfe calls."""
    x = denoiser.process.prior((len(labels), 1, 8, 8), torch.Generator().manual_seed(seed))
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


def _folds(labels: Tensor) -> list[Tensor]:
    """Four disjoint sets of rows with the same share of each class: as large as the held-out split, and as balanced."""
    order = labels.argsort(stable=True)
    return [order[first::4] for first in range(4)]


def _rounded(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: round(value, 4) if isinstance(value, float) else value for key, value in run.items()} for run in runs]
