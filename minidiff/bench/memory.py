"""Memorisation against training step: digits from training sets of four sizes, three seeds each (20 CPU-minutes).

python -m minidiff.bench memory

The networks are trained side by side (`Stacked`). Their common state and the rows measured so far are kept in
`build/memory` and reused, so an interrupted run goes on where it stopped; delete the folder to start over. The result
is stored after each mark, with the marks that have been reached.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from minidiff import data, times, zoo
from minidiff.analytic import Empirical
from minidiff.bench import pictures, results, resume
from minidiff.denoiser import Combined, Denoiser, DenoiserLike
from minidiff.metrics import copy_rate, frechet_distance
from minidiff.nets.mlp import MLP
from minidiff.nets.stacked import Stacked
from minidiff.noise import standard_normal
from minidiff.objectives import denoising_loss
from minidiff.objectives.denoising import edm
from minidiff.process import Process, RectifiedFlow
from minidiff.samplers import sample
from minidiff.train import EMA, Log, device, fit, noised, seeded

FOLDER = Path("build/memory")
SIZES = (100, 250, 600, 1400)  # of the training set
SEEDS = (0, 1, 2)  # of the training set, the weights and the order of the batches
WIDTH, DEPTH = 128, 3
BATCH = 50
LR, WARMUP, EMA_DECAY = 2.5e-3, 100, 0.99
CLIP = 0.25  # about 1.5 times the usual norm of the gradient of the mean loss over all twelve
DENSITY = times.low_discrepancy(times.logit_normal_density())  # of the times, in training and in the losses
LAST_TIME = 0.98  # 1 in 20 000 training times lies above it
MARKS = tuple(round(100 * 2 ** (k / 2)) for k in range(17))  # the steps at which the networks are judged
SAMPLES, CALLS = 250, 20  # of each network at each mark
DRAWS = 720  # of picture, time and noise, for each of the two losses
SHOWN = 10  # samples that are kept to be looked at


def subset(size: int, seed: int) -> Tensor:
    """The training set of a run: the first `size` of the training digits in an order drawn from the seed."""
    images = data.digits("train")[0]
    return images[torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))[:size]]


def runs() -> list[tuple[int, int]]:
    """(size, seed) of each network, in the order in which they are stacked."""
    return list(itertools.product(SIZES, SEEDS))


def batches(sets: Sequence[Tensor], seeds: Sequence[int]) -> Iterator[tuple[Tensor]]:
    """The batches of all runs one behind the other, (runs · BATCH, 1, 8, 8)."""
    streams = [data.batches(images, batch_size=BATCH, seed=seed) for images, seed in zip(sets, seeds, strict=True)]
    while True:
        yield (torch.cat([next(stream)[0] for stream in streams]),)


def repeated(count: int) -> Callable[[int, torch.Generator], Tensor]:
    """The same evenly spread times for each of `count` networks."""
    return lambda n, generator: DENSITY(n // count, generator).repeat(count)


@cache
def deviation() -> float:
    """The root mean square over the pixels of their standard deviations, over all training digits."""
    return float(data.digits("train")[0].std(0).square().mean().sqrt())


def weighted(process: Process, t: Tensor) -> Tensor:
    """EDM's weight at the standard deviation of the digits: the squared error of a target of variance 1."""
    return edm(process, t, sigma_data=deviation())


class Seen(Combined):
    """D, asked at LAST_TIME where t is later.

    Training hardly ever visits t near 1, and what networks answer there drifts off in a long training. The samples of
    three of the twelve were ruined by it.
    """

    def __init__(self, D: DenoiserLike) -> None:
        super().__init__(D)
        self.D = D

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """D(x, min(t, LAST_TIME))."""
        return self.D(x, t.clamp(max=LAST_TIME))


class Run:
    """The training of all networks side by side, advanced from mark to mark."""

    def __init__(self) -> None:
        self.sets = [subset(size, seed) for size, seed in runs()]
        networks = []
        for _, seed in runs():
            with seeded(seed):
                networks.append(MLP(64, WIDTH, DEPTH))
        self.parameters = sum(p.numel() for p in networks[0].parameters())
        D = Denoiser(Stacked(networks), RectifiedFlow(), "edm", deviation()).to(device())
        self.ema = EMA(D, EMA_DECAY)
        count = len(networks)
        stream = batches([images.to(device()) for images in self.sets], [seed for _, seed in runs()])
        FOLDER.mkdir(parents=True, exist_ok=True)
        self.step = 0
        # Ten times the steps that are taken: over the first tenth of the half cosine the rate is constant to 3 %.
        # Clipping takes the norm of all networks together, so that a spike in one of them shortens that step for all;
        # Adam keeps them apart otherwise.
        self.logs: Iterator[Log] = fit(
            lambda x0, t, eps: denoising_loss(D, x0, t, eps, weight=weighted),
            D.parameters(),
            noised(stream, repeated(count), seed=0),
            steps=10 * MARKS[-1],
            lr=LR,
            warmup=min(WARMUP, MARKS[-1]),
            clip=CLIP,
            ema=self.ema,
            checkpoint=FOLDER / "state.pt",
            every=500,
        )

    def row(self, mark: int) -> dict[str, Any]:
        """Train up to a mark and judge all networks there (one step later after an interruption of the judging)."""
        while self.step < mark:
            self.step = next(self.logs).step
        return {"step": self.step, **judged(self.ema.module, self.sets)}


@torch.no_grad()
def losses(D: DenoiserLike, sets: Sequence[Tensor]) -> list[float]:
    """The training loss of each stacked network on its own set, over DRAWS draws that are the same at every mark."""
    generator = torch.Generator().manual_seed(1)
    t = DENSITY(DRAWS, generator)[torch.randperm(DRAWS, generator=generator)]
    eps = standard_normal((DRAWS, 1, 8, 8), generator)
    x0 = torch.cat([images.repeat(-(-DRAWS // len(images)), 1, 1, 1)[:DRAWS] for images in sets])
    count = len(sets)
    batch = (x0.to(device()), t.repeat(count).to(device()), eps.repeat(count, 1, 1, 1).to(device()))
    return denoising_loss(D, *batch, weight=weighted).unflatten(0, (count, -1)).mean(1).tolist()


@torch.no_grad()
def judged(D: Denoiser, sets: Sequence[Tensor]) -> dict[str, Any]:
    """Losses, copy rate and Fréchet distance to the held-out digits of each network, and pictures of seed 0."""
    held_out = data.digits("test")[0]
    noise = standard_normal((SAMPLES, 1, 8, 8), torch.Generator().manual_seed(2))
    made = sample(Seen(D), noise.repeat(len(sets), 1, 1, 1).to(device()), CALLS).cpu().unflatten(0, (len(sets), -1))
    return {
        "training": losses(D, sets),
        "held_out": losses(D, [held_out] * len(sets)),
        "copy_rate": [copy_rate(images, own) for images, own in zip(made, sets, strict=True)],
        "copy_rate_of_2": [copy_rate(images, own, 2.0) for images, own in zip(made, sets, strict=True)],
        "frechet": [distance(images) for images in made],
        "pictures": [pictures.packed(made[i, :SHOWN]) for i, (_, seed) in enumerate(runs()) if seed == SEEDS[0]],
    }


@torch.no_grad()
def distance(images: Tensor) -> float:
    """Fréchet distance to the held-out digits, in the features of the zoo's judge."""
    judge = zoo.load("digits-classifier")
    return frechet_distance(judge.features(images).double(), judge.features(data.digits("test")[0]).double())


def floors(sets: Sequence[Tensor]) -> list[dict[str, Any]]:
    """What needs no network, for each run: the least training loss, and held-out digits in the place of samples."""
    held_out = data.digits("test")[0]
    found = []
    for (size, seed), images in zip(runs(), sets, strict=True):
        own = torch.Generator().manual_seed(seed)
        drawn = images[torch.randint(size, (SAMPLES,), generator=own)]
        copier = Empirical(RectifiedFlow(), images)
        found.append(
            {
                "n": size,
                "seed": seed,
                "least_training_loss": losses(copier, [images])[0],
                "its_held_out_loss": losses(copier, [held_out])[0],
                "held_out_copy_rate": copy_rate(held_out, images),
                "held_out_copy_rate_of_2": copy_rate(held_out, images, 2.0),
                "frechet_of_copies": distance(drawn),
            }
        )
    return found


def main(argv: Sequence[str]) -> None:
    """Train, judge and store memory-digits at every mark. Raises ValueError for arguments: there are none."""
    if argv:
        raise ValueError(f"the benchmark has no arguments, got {list(argv)}")
    run = Run()
    settings = {
        "parameters": run.parameters,
        "batch": BATCH,
        "learning_rate": LR,
        "samples": SAMPLES,
        "calls": CALLS,
        "sizes": list(SIZES),
        "seeds": list(SEEDS),
        "runs": resume.once(FOLDER / "floors.json", lambda: floors(run.sets)),
    }
    for reached in range(1, len(MARKS) + 1):
        rows = resume.rows(FOLDER / "rows.json", MARKS[:reached], run.row)
        results.save("memory-digits", {**settings, "rows": rows}, "python -m minidiff.bench memory")
