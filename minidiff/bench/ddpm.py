"""What the DDPM chapter stores: the bound term by term, variances, schedules, samples (about 25 CPU-minutes).

python -m minidiff.bench ddpm [bound] [schedules] [samples]      (default: all three)

Each trains the chapter's network for longer than the chapter does. A finished training and finished rows of samples are
kept in `build/ddpm` and reused, so an interrupted run goes on where it stopped; delete the folder to start over.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from minidiff import bound, data, times
from minidiff.bench import results, resume, run_stages
from minidiff.denoiser import Denoiser
from minidiff.metrics import class_accuracy, copy_rate, frechet_distance, frechet_floor
from minidiff.nets.unet import UNet
from minidiff.noise import standard_normal
from minidiff.objectives import denoising_loss
from minidiff.process import CosineVP, Process, Tabulated
from minidiff.samplers import ancestral, last
from minidiff.train import EMA, device, fit, noised, progress, seeded

T = 1000
LEVELS = 17
FOLDER = Path("build/ddpm")  # what an interrupted run goes on from
TRAINING_STEPS = 3000
SCHEDULE_STEPS = 400  # of training, as in the chapter, for each schedule that is compared
RESPACED = (10, 20, 50, 100, 200, 1000)
SAMPLED = (10, 20, 50, 100, 1000)


def linear(steps: int) -> tuple[float, ...]:
    """β from 1e-4 to 0.02 in equal steps (Ho et al. 2020, section 4)."""
    return tuple(torch.linspace(1e-4, 0.02, steps, dtype=torch.float64).tolist())


def scaled_linear(steps: int) -> tuple[float, ...]:
    """√β from √0.00085 to √0.012 in equal steps, the schedule of latent diffusion (Rombach et al. 2022)."""
    return tuple(torch.linspace(0.00085**0.5, 0.012**0.5, steps, dtype=torch.float64).square().tolist())


def cosine(steps: int) -> tuple[float, ...]:
    """β_n = min(1 − α_n²/α_{n−1}², 0.999) with the α of `CosineVP` (Nichol & Dhariwal 2021, eq. 17)."""
    alpha2 = CosineVP().alpha(torch.linspace(0, 1, steps + 1, dtype=torch.float64)).square()
    return tuple((1 - alpha2[1:] / alpha2[:-1]).clamp(max=0.999).tolist())


SCHEDULES = {"linear": linear, "scaled linear": scaled_linear, "cosine": cosine}


def train(schedule: str, steps: int, seed: int = 0) -> Denoiser:
    """The averaged ε-network of one schedule, class-conditional, on the training split of the digits."""
    images, labels = data.digits("train")
    process = Tabulated(SCHEDULES[schedule](T))
    with seeded(seed):
        D = Denoiser(UNet(classes=10), process, "eps").to(device())
    ema = EMA(D, max(0.995, 1 - 3 / steps))
    stream = noised(
        data.batches(images, labels, batch_size=128, seed=seed),
        lambda n, generator: torch.randint(1, T + 1, (n,), generator=generator, dtype=torch.float64) / T,
        seed,
    )
    logs = fit(
        lambda x0, t, eps, y: denoising_loss(D, x0, t, eps, y),
        D.parameters(),
        stream,
        steps=steps,
        lr=2e-3,
        warmup=min(100, steps // 4),
        ema=ema,
        checkpoint=FOLDER / f"{schedule.replace(' ', '-')}-{steps}-{seed}.safetensors",
    )
    for _ in progress(logs, steps):
        pass
    return ema.module


def terms(D: Denoiser, split: str, grid: Tensor, every: int = 1, seed: int = 0) -> Tensor:
    """Bits per dimension of L_0 … L_T, s_n² = β̃_n, for each `every`-th image of a split; (N, T + 1)."""
    images, labels = (x[::every].to(device()) for x in data.digits(split))
    generator = torch.Generator(device()).manual_seed(seed)
    nats = bound.vlb(D, images, grid, levels=LEVELS, y=labels, generator=generator)
    return bound.bits_per_dim(nats, images[0].numel()).cpu()


def log_ratio(process: Process, grid: Tensor) -> Tensor:
    """log(β_n/β̃_n) = log(σ_n²/σ_{n−1}²) of the steps n = 2…T; (T − 1,)."""
    return 2 * process.sigma(grid.flip(0)[1:]).log().diff()


def best_interpolation(process: Process, grid: Tensor, bits: Tensor) -> Tensor:
    """The v of each step that makes s_n² = β̃_n + (α_{n−1} (1 − ρ_n))² E|x_0 − x̂_0|²/d; (T,).

    That s_n² minimises the bound among all variances that do not depend on x_n (Bao et al. 2022, theorem 1). `bits`
    are the mean terms L_0 … L_T at s_n² = β̃_n, where L_{n−1} = (α_{n−1} (1 − ρ_n))² E|x_0 − x̂_0|²/(2 β̃_n) nats: so
    s_n²/β̃_n = 1 + 2 L_{n−1}/d. The first step, whose term is no divergence, keeps v = 0.
    """
    best = torch.log1p(2 * math.log(2) * bits[1:-1])
    return torch.cat([torch.zeros(1), best / log_ratio(process, grid)])


def with_variance(D: Denoiser, grid: Tensor, bits: Tensor, v: Tensor, seed: int = 0) -> Tensor:
    """The terms of `terms(D, "test", grid)` for log s_n² = v log β_n + (1 − v) log β̃_n.

    The same errors cost R = β̃_n/s_n² times as much, and the variances differ: L(v) = d/2 (R − 1 − log R) + R L(0).
    Only the decoder has to be evaluated again.
    """
    log_r = -v[1:] * log_ratio(D.process, grid)
    r = log_r.exp()
    middle = (r - 1 - log_r) / (2 * math.log(2)) + r * bits[:, 1:-1]
    images, labels = (x.to(device()) for x in data.digits("test"))
    first = torch.ones(len(images), dtype=torch.int64)
    eps = standard_normal(images.shape, torch.Generator(device()).manual_seed(seed))
    with torch.no_grad():
        nats = bound.vlb_term(D, images, first, eps, grid, levels=LEVELS, variance=v, y=labels).cpu()
    return torch.cat([bound.bits_per_dim(nats, images[0].numel())[:, None], middle, bits[:, -1:]], 1)


def summary(bits: Tensor) -> dict[str, float]:
    """Mean and standard error over images of the whole bound, and its three parts."""
    total = bits.sum(1)
    return {
        "bits": float(total.mean()),
        "standard_error": float(total.std() / len(total) ** 0.5),
        "prior": float(bits[:, -1].mean()),
        "transitions": float(bits[:, 1:-1].sum(1).mean()),
        "decoder": float(bits[:, 0].mean()),
    }


def bounds() -> None:
    """ddpm-bound: every term at T = 1000, and the bound for fewer steps and three variances, on the test split."""
    D = train("linear", TRAINING_STEPS)
    rows, interpolation = [], {}
    for steps in RESPACED:
        grid = times.trailing(steps, T)
        bits = terms(D, "test", grid)
        best = best_interpolation(D.process, grid, terms(D, "train", grid, every=8).mean(0))
        interpolation[steps] = best.tolist()
        for name, v in (("posterior", torch.zeros(steps)), ("forward", torch.ones(steps)), ("best", best)):
            rows.append({"steps": steps, "variance": name, **summary(with_variance(D, grid, bits, v.double()))})
            print(rows[-1], flush=True)
    stored = {
        "terms": bits.mean(0).tolist(),
        "standard_errors": (bits.std(0) / len(bits) ** 0.5).tolist(),
        "interpolation": interpolation,
        "training_steps": TRAINING_STEPS,
        "table": rows,
    }
    results.save("ddpm-bound", stored, "python -m minidiff.bench ddpm bound")


def schedules() -> None:
    """ddpm-schedules: one network for each schedule, its bound at T = 1000 on a quarter of the test split."""
    rows = []
    for name in SCHEDULES:
        D = train(name, SCHEDULE_STEPS)
        alpha = float(D.process.alpha(torch.ones((), dtype=torch.float64)))
        bits = terms(D, "test", times.uniform(T), every=4)
        ends = {"L_1 to L_9": float(bits[:, 1:10].sum(1).mean()), "last ten": float(bits[:, -11:-1].sum(1).mean())}
        rows.append({"schedule": name, "terminal_snr": alpha**2 / (1 - alpha**2), **summary(bits), **ends})
        print(rows[-1], flush=True)
    stored = {"training_steps": SCHEDULE_STEPS, "images": len(bits), "table": rows}
    results.save("ddpm-schedules", stored, "python -m minidiff.bench ddpm schedules")


@torch.no_grad()
def judged(D: Denoiser, judge: nn.Module) -> dict[str, Any]:
    """1797 samples for each number of steps and variance, in the judge's eyes, and the floor of its distance."""
    digits, labels = (x.to(device()) for x in data.digits("all"))
    training = data.digits("train")[0].to(device())
    reference = judge.features(digits).double()

    def row(setting: tuple[int, Literal["posterior", "forward"]]) -> dict[str, Any]:
        steps, variance = setting
        generator = torch.Generator(device()).manual_seed(0)
        x = D.process.prior(digits.shape, generator, device=device())
        grid = times.trailing(steps, T)
        start = time.process_time()
        made = last(ancestral(D.given(labels), x, grid, generator=generator, variance=variance))
        seconds = time.process_time() - start
        return {
            "steps": steps,
            "variance": variance,
            "frechet": frechet_distance(judge.features(made).double(), reference),
            "as_asked": class_accuracy(judge(made), labels),
            "copy_rate": copy_rate(made, training),
            "cpu_seconds": seconds,
        }

    settings = list(itertools.product(SAMPLED, ("posterior", "forward")))
    rows = resume.rows(FOLDER / f"samples-{TRAINING_STEPS}.json", settings, row)
    return {"n": len(digits), "floor": frechet_floor(reference).mean, "table": rows}


def samples() -> None:
    """ddpm-samples: the Fréchet distance of samples to the digits for each number of steps and variance."""
    from minidiff import zoo

    D, judge = train("linear", TRAINING_STEPS), zoo.load("digits-classifier").to(device())
    results.save("ddpm-samples", judged(D, judge), "python -m minidiff.bench ddpm samples")


STAGES = {"bound": bounds, "schedules": schedules, "samples": samples}


def main(argv: Sequence[str]) -> None:
    """Run the stages named in argv, or all of them. Raises ValueError for an unknown name."""
    run_stages(STAGES, argv)
