"""Late starts: samples of digits that begin between noise and data, from priors that need no call."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from minidiff import data, metrics, times, train
from minidiff.analytic import Gaussian, GaussianMixture
from minidiff.bench import results, resume
from minidiff.denoiser import DenoiserLike
from minidiff.families.vae import VAE
from minidiff.process import Process
from minidiff.samplers import ddim, last, late_start
from minidiff.train import device

KEPT = Path("build/calls/late.json")
STEP = 0.1  # of a late start
STARTS = (0.8, 0.6, 0.4, 0.2, 0.0)
VAE_STEPS = 1500


def fitted_priors(
    process: Process, images: Tensor, labels: Tensor, steps: int
) -> dict[str, Callable[[int, torch.Generator], Tensor]]:
    """Generators of digits that need no call: an isotropic Gaussian, a Gaussian, one for each class, and a VAE."""
    flat = images.flatten(1).double().cpu()
    means, covariances = zip(*(_moments(flat[labels.cpu() == k]) for k in range(10)), strict=True)
    shares = torch.bincount(labels.cpu(), minlength=10).double()
    spread = float((flat - flat.mean(0)).square().mean().sqrt())
    laws = {
        "isotropic": Gaussian(process, flat.mean(0), std=spread),
        "Gaussian": Gaussian(process, *_moments(flat)),
        "a Gaussian a class": GaussianMixture(process, shares, torch.stack(means), torch.stack(covariances)),
    }
    shape = images.shape[1:]

    def from_law(law: GaussianMixture, n: int, generator: torch.Generator) -> Tensor:
        return law.sample(n, generator).reshape(n, *shape).float()

    vae = fitted_vae(images, labels, steps)
    return {name: partial(from_law, law) for name, law in laws.items()} | {
        "VAE": lambda n, generator: vae.sample(n, generator).cpu()
    }


def _moments(flat: Tensor, floor: float = 1e-4) -> tuple[Tensor, Tensor]:
    mean = flat.mean(0)
    return mean, torch.cov(flat.T, correction=0) + floor * torch.eye(flat.shape[1], dtype=flat.dtype)


def fitted_vae(images: Tensor, labels: Tensor, steps: int) -> VAE:
    """A VAE of the training digits after that many steps, in evaluation mode."""
    with train.seeded(0):
        vae = VAE().to(device())
    noise = torch.Generator(device()).manual_seed(1)

    def loss(x: Tensor, _: Tensor) -> Tensor:
        parts = vae(x, torch.randn(len(x), vae.latent, generator=noise, device=x.device))
        return parts.reconstruction + parts.kl

    batches = data.batches(images, labels, batch_size=128, seed=0)
    for _ in train.fit(loss, vae.parameters(), batches, steps=steps, lr=2e-3, warmup=min(50, steps)):
        pass
    return vae.eval()


def started_late(
    D: DenoiserLike,
    judge: nn.Module,
    priors: dict[str, Callable[[int, torch.Generator], Tensor]],
    kept: Path,
) -> dict[str, Any]:
    """Fréchet distance, copies and nearest distance of samples that start at each time from each prior."""
    digits, training = (data.digits(split)[0].to(device()) for split in ("all", "train"))
    features = judge.features(digits).double()

    def row(setting: tuple[str, float]) -> dict[str, Any]:
        name, start = setting
        generator = torch.Generator().manual_seed(0)
        x = priors[name](len(digits), generator)
        calls = round(start / STEP)
        if calls:
            x = late_start(D, x, start, generator).to(device())
            grid = times.uniform(calls, start=start)
            x = torch.cat([last(ddim(D, part, grid)) for part in x.split(300)])
        x = x.to(device())
        return {
            "prior": name,
            "start": start,
            "calls": calls,
            "frechet": metrics.frechet_distance(judge.features(x).double(), features),
            "copy_rate": metrics.copy_rate(x, training),
            "nearest": float(metrics.nearest_distance(x, training).mean()),
        }

    settings = [("Gaussian", 1.0), *((name, start) for name in priors for start in STARTS)]
    return {
        "n": len(digits),
        "step": STEP,
        "floor": metrics.frechet_floor(features).mean,
        "table": resume.rows(kept, settings, row),
    }


def measure() -> None:
    """The stage `late`, stored as calls-late."""
    from minidiff import zoo

    D, judge = zoo.load("digits-unet").to(device()), zoo.load("digits-classifier").to(device())
    images, labels = (x.to(device()) for x in data.digits("train"))
    priors = fitted_priors(D.process, images, labels, VAE_STEPS)
    with torch.no_grad():
        stored = started_late(D, judge, priors, KEPT)
    results.save("calls-late", stored, "python -m minidiff.bench calls late")
