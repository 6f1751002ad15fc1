"""How the models of the zoo are trained: the settings, and the loops that read them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minidiff import data, train
from minidiff.objectives import denoising_loss, velocity
from minidiff.times import logit_normal_density, low_discrepancy
from minidiff.zoo import build, measure

RECIPES: dict[str, dict[str, Any]] = {
    "digits-classifier": {
        "description": "Classifier of the 8×8 digits; its 64 features are the space of the book's Fréchet distances.",
        "network": {"class": "Classifier", "arguments": {"in_channels": 1, "size": 8, "classes": 10, "features": 64}},
        "training": {
            "data": "the train split of digits (1437 images), turned, shifted and scaled at random",
            "loss": "cross-entropy",
            "steps": 1000,
            "batch": 128,
            "lr": 3e-3,
            "warmup": 50,
            "ema": 0.995,
            "degrees": 10,
            "pixels": 0.75,
            "zoom": 0.1,
        },
        "seeds": [0, 1, 2],
    },
    "digits-unet": {
        "description": "Class-conditional denoiser of the 8×8 digits (label 10: any digit).",
        "network": {
            "class": "UNet",
            "arguments": {
                "in_channels": 1,
                "size": 8,
                "channels": 32,
                "multipliers": [1, 2],
                "blocks": 1,
                "attention": [4],
                "classes": 10,
            },
        },
        "process": {"class": "RectifiedFlow", "arguments": {}},
        "predicts": "velocity",
        "sigma_data": 0.54,
        "training": {
            "data": "the train split of digits (1437 images), no augmentation",
            "loss": "denoising_loss with weight velocity, low-discrepancy uniform times",
            "steps": 3456,
            "batch": 128,
            "lr": 1e-3,
            "warmup": 100,
            "ema": 0.999,
            "label dropout": 0.1,
        },
        "seeds": [0],
    },
    "photos-classifier": {
        "description": "Names the photograph of a 32×32 patch; its 64 features are the space of the Fréchet distances.",
        "network": {"class": "Classifier", "arguments": {"in_channels": 3, "size": 32, "classes": 9, "features": 64}},
        "training": {
            "data": "20 000 patches of the photographs' first three quarters, no augmentation",
            "loss": "cross-entropy",
            "steps": 500,
            "batch": 128,
            "lr": 1e-3,
            "warmup": 50,
            "ema": 0.99,
        },
        "seeds": [0],
    },
    "photos-unet": {
        "description": "Denoiser of 32×32 patches of photographs, conditional on the photograph (label 9: any).",
        "network": {
            "class": "UNet",
            "arguments": {
                "in_channels": 3,
                "size": 32,
                "channels": 16,
                "multipliers": [1, 2, 3],
                "blocks": 1,
                "attention": [8],
                "classes": 9,
            },
        },
        "process": {"class": "RectifiedFlow", "arguments": {}},
        "predicts": "velocity",
        "sigma_data": 0.56,
        "angle": [3.14, 0.6, 2.24],  # the best of `python -m minidiff.bench angles photos` over 4 to 8 calls
        "training": {
            "data": "20 000 patches of the photographs' first three quarters, no augmentation",
            "loss": "denoising_loss with weight velocity, low-discrepancy logit-normal times",
            "steps": 5000,
            "batch": 64,
            "lr": 2e-3,
            "warmup": 100,
            "ema": 0.999,
            "label dropout": 0.1,
        },
        "seeds": [0],
    },
}
TIMES = {  # at which the denoisers are trained
    "digits-unet": low_discrepancy(),
    "photos-unet": low_discrepancy(logit_normal_density()),
}


def train_model(name: str, seed: int, checkpoint: Path | None = None, steps: int | None = None) -> nn.Module:
    """Train a model of the zoo from nothing and return the average of its weights, in evaluation mode.

    seed: of the initial weights, the batches, the noise and the augmentation. checkpoint: where an interrupted run is
    kept and taken up again. steps: fewer than the recipe's, for a trial.
    """
    recipe = RECIPES[name]
    settings = recipe["training"]
    steps = steps or settings["steps"]
    with train.seeded(seed):
        model = build(recipe)
    digits = name.startswith("digits")
    images, labels = data.digits("train") if digits else data.photo_patches(measure.PATCH_SIZE, measure.PATCHES)
    batches = data.batches(images, labels, batch_size=settings["batch"], seed=seed)
    if "process" in recipe:
        null = recipe["network"]["arguments"]["classes"]
        batches = train.label_dropout(batches, null, settings["label dropout"], seed + 1)
        batches = train.noised(batches, TIMES[name], seed + 2)
        loss = partial(denoising_loss, model, weight=velocity)
    else:
        if digits:
            batches = augmented(batches, settings["degrees"], settings["pixels"], settings["zoom"], seed + 1000)
        loss = partial(cross_entropy, model)
    ema = train.EMA(model, settings["ema"])
    logs = train.fit(
        loss,
        model.parameters(),
        batches,
        steps=steps,
        lr=settings["lr"],
        warmup=min(steps, settings["warmup"]),
        ema=ema,
        checkpoint=checkpoint,
        every=100,
    )
    for _ in train.progress(logs, steps):
        pass
    return ema.module


def cross_entropy(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """−log p(label | image): (B,)."""
    return F.cross_entropy(model(images), labels, reduction="none")


def augmented(
    batches: Iterator[tuple[Tensor, Tensor]], degrees: float, pixels: float, zoom: float, seed: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Turn each image by up to ±degrees, shift it by up to ±pixels and scale it by up to ±zoom (a fraction), uniformly.

    Bilinear; what comes in from outside is background, −1. (images (B, C, H, W) in [−1, 1], labels) → the same.
    """
    generator = torch.Generator().manual_seed(seed)
    for images, labels in batches:
        turn, scale, right, down = 2 * torch.rand(4, len(images), generator=generator) - 1
        turn, scale = turn * math.radians(degrees), 1 + zoom * scale
        cos, sin, unit = scale * turn.cos(), scale * turn.sin(), 2 * pixels / images.shape[-1]
        affine = torch.stack([cos, -sin, right * unit, sin, cos, down * unit], dim=1).reshape(-1, 2, 3)
        grid = F.affine_grid(affine, list(images.shape), align_corners=False)
        yield F.grid_sample(images + 1, grid, align_corners=False) - 1, labels
