"""What the sampler benchmark measures on: a network, its judge, the real images, and the solutions of the network."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from minidiff import data, likelihood, metrics, noise, plot, zoo
from minidiff.bench.reference import Start, other_solution, solution
from minidiff.denoiser import Denoiser
from minidiff.nets import Classifier

PATCH_SIZE = 32  # pixels a side of the photographs' patches
PATCHES = 20_000  # with which the network for them was trained
SHEET = 24  # samples of a cell that are kept as a picture


@dataclass
class Setting:
    """A network to sample from, and all that its samples are judged by.

    labels: asked for, one a sample. features: of the real images that the Fréchet distance is taken to. floor_pairs:
    k ↦ features of two disjoint real sets. paths: how many of the samples have a reference solution, by `fine` calls.
    copies: how many are compared with the training images. held_out, levels: for the bits per dimension.
    """

    D: Denoiser
    judge: Classifier
    labels: Tensor
    shape: tuple[int, ...]
    features: Tensor
    floor_pairs: Callable[[int], tuple[Tensor, Tensor]]
    training: Tensor
    folder: Path
    paths: int
    fine: int
    copies: int
    held_out: tuple[Tensor, Tensor]
    levels: int
    part: int = 300  # samples a call: more would not fit a core's cache
    sheets: bool = False
    solutions: dict[tuple[int, Start], Tensor] = field(default_factory=dict)

    def start_noise(self, seed: int) -> Tensor:
        """x_T of unit variance for every label, the same for all samplers: (n, *shape)."""
        return torch.randn((len(self.labels), *self.shape), generator=torch.Generator().manual_seed(seed))

    def reference(self, seed: int, start: Start) -> Tensor:
        """The network's own solution for the first `paths` samples of a seed, made once and kept as a file."""
        if (seed, start) not in self.solutions:
            file = self.folder / f"reference-{start}-{seed}.pt"
            if not file.exists():
                print(f"reference solution from {start}, seed {seed}", flush=True)
                D = self.D.given(self.labels[: self.paths])
                x = solution(D, self.start_noise(seed)[: self.paths], start, self.fine)
                file.parent.mkdir(parents=True, exist_ok=True)
                torch.save(x, file.with_suffix(".part"))
                file.with_suffix(".part").replace(file)
            self.solutions[seed, start] = torch.load(file, weights_only=True)
        return self.solutions[seed, start]

    def reference_check(self, samples: int = 48) -> dict[str, Any]:
        """How far a second solver with twice the calls ends from the first on some of the samples."""

        def measured() -> dict[str, Any]:
            few = min(samples, self.paths)
            D, eps = self.D.given(self.labels[:few]), self.start_noise(0)[:few]
            x = other_solution(D, eps, "one", 2 * self.fine)
            errors = metrics.path_error(x, self.reference(0, "one")[:few], self.D.sigma_data)
            rms, most = float(errors.square().mean().sqrt()), float(errors.max())
            return {"calls": self.fine, "second_calls": 2 * self.fine - 1, "rms": rms, "largest": most}

        return self._kept("reference-check", measured)

    @torch.no_grad()
    def judged(self, x: Tensor) -> dict[str, Any]:
        """Fréchet distance, inception-style score, precision and recall, labels as asked, copies; and a sheet."""
        if not bool(x.isfinite().all()):
            raise FloatingPointError(f"{int((~x.isfinite()).sum())} numbers of the samples are not finite")
        features = self.judge.features(x)
        logits = self.judge.head(features)
        manifolds = metrics.precision_recall(features, self.real_sample)
        row = {
            "frechet": metrics.frechet_distance(features, self.features),
            "inception": metrics.inception_score(logits).value,
            "precision": manifolds.precision,
            "recall": manifolds.recall,
            "as_asked": metrics.class_accuracy(logits, self.labels),
            "copy_rate": metrics.copy_rate(x[: self.copies], self.training),
        }
        return row | ({"sheet": base64.b64encode(sheet(x[:SHEET])).decode()} if self.sheets else {})

    @cached_property
    def real_sample(self) -> Tensor:
        """Features of as many real images as there are samples."""
        return self.floor_pairs(0)[0]

    @torch.no_grad()
    def real(self) -> dict[str, Any]:
        """The same figures of real images: floors and ceilings of what samples can reach."""

        def measured() -> dict[str, Any]:
            pairs = [self.floor_pairs(k) for k in range(8)]
            floors = torch.tensor([metrics.frechet_distance(a, b) for a, b in pairs], dtype=torch.float64)
            manifolds = metrics.precision_recall(self.floor_pairs(1)[0], self.real_sample)
            score = metrics.inception_score(self.judge.head(pairs[0][0]))
            return {
                "floor": float(floors.mean()),
                "floor_std": float(floors.std()),
                "floor_sizes": [len(pairs[0][0]), len(pairs[0][1])],
                "compared_with": len(self.features),
                "inception": score.value,
                "inception_ceiling": score.ceiling,
                "precision": manifolds.precision,
                "recall": manifolds.recall,
            }

        return self._kept("real", measured)

    def bits(self) -> dict[str, Any]:
        """Bits per dimension of held-out images by the flow of the network: no sampler occurs in it."""

        def measured() -> dict[str, Any]:
            images, labels = self.held_out
            d = images[0].numel()
            x = likelihood.dequantise(images, self.levels, torch.Generator().manual_seed(0))
            probes = noise.probes(x, 1, generator=torch.Generator().manual_seed(1))
            grid = torch.linspace(self.first_time**0.5, 1, 21, dtype=torch.float64) ** 2
            density = likelihood.log_prob(self.D.given(labels), x, grid, probes=probes)
            bits = likelihood.dequantised_bits(density, d, self.levels)
            error = float(bits.std()) / len(bits) ** 0.5
            return {"mean": float(bits.mean()), "standard_error": error, "images": len(bits), "levels": self.levels}

        return self._kept("bits", measured)

    @property
    def first_time(self) -> float:
        """A time at which the noise is a tenth of that which fills a grey level."""
        return 0.1 / (self.levels - 1)

    def _kept(self, name: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        file = self.folder / f"{name}.json"
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(make()), encoding="utf-8")
        return json.loads(file.read_text(encoding="utf-8"))


def sheet(images: Tensor, columns: int = 8) -> bytes:
    """Images in one PNG file."""
    from PIL import Image

    picture = (plot.make_grid(images, columns, gap=1) * 255).round().to(torch.uint8).squeeze(-1).numpy()
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="png", optimize=True)
    return buffer.getvalue()


def third(labels: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Rows in two disjoint sets, a third and the rest, each with the same share of every label."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    order = order[labels[order].argsort(stable=True)]
    chosen = torch.zeros(len(labels), dtype=torch.bool)
    chosen[::3] = True
    return order[chosen], order[~chosen]


@torch.no_grad()
def digits(folder: Path) -> Setting:
    """599 samples of the digits network, a third of the labels of the set; judged against all 1797 digits."""
    judge = zoo.load("digits-classifier").requires_grad_(False)
    images, labels = data.digits("all")
    features = judge.features(images)
    asked = labels[third(labels, 0)[0]]
    asked = asked[torch.randperm(len(asked), generator=torch.Generator().manual_seed(1))]
    test_images, test_labels = data.digits("test")
    return Setting(
        D=zoo.load("digits-unet").requires_grad_(False),
        judge=judge,
        labels=asked,
        shape=(1, 8, 8),
        features=features,
        floor_pairs=lambda k: tuple(features[rows] for rows in third(labels, k)),
        training=data.digits("train")[0],
        folder=folder,
        paths=200,
        fine=128,
        copies=len(asked),
        held_out=(test_images[:120], test_labels[:120]),
        levels=17,
    )


@torch.no_grad()
def photos(folder: Path) -> Setting:
    """512 samples of the patch network; judged against 4096 patches that were cropped anew."""
    judge = zoo.load("photos-classifier").requires_grad_(False)
    fresh, labels = data.photo_patches(PATCH_SIZE, 4096, seed=1)
    features = judge.features(fresh)
    held_out = data.photo_patches(PATCH_SIZE, 64, "test", seed=1)

    def floor_pair(k: int) -> tuple[Tensor, Tensor]:
        return judge.features(data.photo_patches(PATCH_SIZE, 512, seed=2 + k)[0]), features

    return Setting(
        D=zoo.load("photos-unet").requires_grad_(False),
        judge=judge,
        labels=labels[:512],
        shape=(3, PATCH_SIZE, PATCH_SIZE),
        features=features,
        floor_pairs=torch.no_grad()(floor_pair),
        training=data.photo_patches(PATCH_SIZE, PATCHES)[0],
        folder=folder,
        paths=96,
        fine=120,
        copies=64,
        held_out=(held_out[0], held_out[1]),
        levels=256,
        part=128,
        sheets=True,
    )
