"""What the chapter on inverse problems stores: posteriors on digits, restorations, edits (about 5 CPU-minutes).

python -m minidiff.bench inverse [posterior] [network] [edit]      (default: all three)

Finished rows are kept in `build/inverse` and reused; delete the folder to start over.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from minidiff import data, times, zoo
from minidiff.analytic import Empirical
from minidiff.bench import results, resume, run_stages
from minidiff.denoiser import DenoiserLike
from minidiff.inverse import (
    DDNM,
    DPS,
    TMPD,
    AveragePool,
    Blur,
    EmpiricalPosterior,
    LinearOperator,
    Mask,
    PiGDM,
    averaged_log_likelihood,
    dps_sampler,
    gaussian_log_likelihood,
    isotropic_variance,
    repaint,
    sdedit,
    surviving_kl,
    twisted,
)
from minidiff.metrics import nearest_index, total_variation, total_variation_floor
from minidiff.process import RectifiedFlow
from minidiff.samplers import ancestral, last

FOLDER = Path("build/inverse")  # what an interrupted run goes on from
SHAPE = (1, 8, 8)
CALLS = 40  # of D for each sample, whatever the method
SAMPLES = 300  # from each posterior
MEASURED = 3  # held-out digits measured by each operator
RESTORED = 60  # held-out digits, one restoration each
EDITED = 200
TIMES = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
ATTACK = 0.3  # largest change of a pixel, in [−1, 1]

Draw = Callable[[DenoiserLike, Tensor, LinearOperator, Tensor, float, torch.Generator], tuple[Tensor, Tensor]]


def operators() -> dict[str, tuple[LinearOperator, float]]:
    """Name → (A, s): the upper half measured, means of 2 × 2 pixels, a blur over 5 × 5 pixels; each with noise s."""
    mask = torch.zeros(SHAPE, dtype=torch.bool)
    mask[:, :4] = True
    return {
        "inpainting": (Mask(mask), 0.5),
        "super-resolution": (AveragePool(SHAPE, 2), 0.3),
        "deblurring": (Blur(torch.ones(5, 5) / 25, SHAPE), 0.2),
    }


def measurements(A: LinearOperator, s: float, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """(x_0, y, labels) of held-out digits: y = A x_0 + s n."""
    images, labels = data.digits("test")
    chosen = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[:count]
    y = A(images[chosen])
    return images[chosen], y + s * torch.randn(y.shape, generator=torch.Generator().manual_seed(1)), labels[chosen]


def grid(steps: int = CALLS) -> Tensor:
    """Times of a log-SNR grid from r = 80 to 0.02 and then to 0, `steps` steps in all."""
    return times.log_snr(RectifiedFlow(), steps, r_max=80.0, r_min=0.02, zero=True)


def _guided(make: Callable[..., DenoiserLike]) -> Draw:
    def draw(
        D: DenoiserLike, x: Tensor, A: LinearOperator, y: Tensor, s: float, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        made = last(ancestral(make(D, A, y, s), x, grid(), generator=generator))
        return made, torch.full((len(x),), 1 / len(x), dtype=torch.float64)

    return draw


def _as_run(step: float) -> Draw:
    def draw(
        D: DenoiserLike, x: Tensor, A: LinearOperator, y: Tensor, s: float, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        made = last(dps_sampler(D, x, grid(), A, y, step=step, generator=generator))
        return made, torch.full((len(x),), 1 / len(x), dtype=torch.float64)

    return draw


def _repaint(repeats: int) -> Draw:
    def draw(
        D: DenoiserLike, x: Tensor, A: LinearOperator, y: Tensor, s: float, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        made = last(repaint(D, x, grid(CALLS // repeats), A, y, repeats=repeats, generator=generator))
        return made, torch.full((len(x),), 1 / len(x), dtype=torch.float64)

    return draw


def _particles(averaged: bool) -> Draw:
    def draw(
        D: DenoiserLike, x: Tensor, A: LinearOperator, y: Tensor, s: float, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        twist = averaged_log_likelihood(A, y, s, isotropic_variance(D)) if averaged else None
        likelihood = gaussian_log_likelihood(A, y, s)
        made = twisted(D, x[None], grid(), likelihood, log_twist=twist, generator=generator)
        return made.x[0], made.log_weights[0].softmax(0)

    return draw


METHODS: dict[str, Draw] = {
    "prior, y ignored": _guided(lambda D, A, y, s: D),
    "exact posterior": _guided(lambda D, A, y, s: EmpiricalPosterior(D, A, y, s)),
    "DPS": _guided(DPS),
    "DPS as run, 0.1": _as_run(0.1),
    "DPS as run, 0.3": _as_run(0.3),
    "DPS as run, 1": _as_run(1.0),
    "ΠGDM": _guided(PiGDM),
    "TMPD, rows": _guided(lambda D, A, y, s: TMPD(D, A, y, s, covariance="rows")),
    "TMPD": _guided(TMPD),
    "DDNM": _guided(lambda D, A, y, s: DDNM(D, A, y)),
    "RePaint": _repaint(1),
    "RePaint, 4 times": _repaint(4),
    "SMC, DPS's twist": _particles(False),
    "SMC, averaged twist": _particles(True),
}


def compared(
    task: str, name: str, prior: Empirical, samples: int | None = None, measured: int | None = None
) -> dict[str, Any]:
    """Total variation between drawn and exact indices, mean over measurements, and its floor.

    samples, measured: in place of SAMPLES and MEASURED. Samples count at the nearest data point. `off` is their root
    mean square distance from it, per pixel.
    """
    A, s = operators()[task]
    samples, measured = samples or SAMPLES, measured or MEASURED
    _, ys, _ = measurements(A, s, measured)
    found, floors, off, seconds = [], [], [], 0.0
    for i, y in enumerate(ys):
        generator = torch.Generator().manual_seed(10 + i)
        x = torch.randn(samples, *SHAPE, generator=generator)
        many = y.expand(samples, *y.shape).contiguous()
        law = EmpiricalPosterior(prior, A, y[None], s).log_weights[0].exp()
        start = time.process_time()
        made, weights = METHODS[name](prior, x, A, many, s, generator)
        seconds += time.process_time() - start
        index = nearest_index(made, prior.data)
        shares = torch.zeros_like(law).index_add(0, index, weights)
        found.append(float(total_variation(shares / shares.sum(), law)))
        floors.append(total_variation_floor(law, samples))
        off.append(float((made - prior.data[index]).square().mean()))
    return {
        "task": task,
        "method": name,
        "total_variation": sum(found) / measured,
        "each": found,
        "floor": sum(floors) / measured,
        "off": (sum(off) / measured) ** 0.5,
        "cpu_seconds": seconds,
    }


def posterior() -> None:
    """inverse-posterior: every method against the exact posterior over the training digits."""
    prior = Empirical(RectifiedFlow(), data.digits("train")[0])
    settings = [
        (task, name)
        for task, name in itertools.product(operators(), METHODS)
        if task == "inpainting" or not name.startswith("RePaint")
    ]
    table = resume.rows(FOLDER / "posterior.json", settings, lambda setting: compared(*setting, prior))
    stored = {"calls": CALLS, "samples": SAMPLES, "measured": MEASURED, "table": table}
    results.save("inverse-posterior", stored, "python -m minidiff.bench inverse posterior")


RESTORERS = ("prior, y ignored", "DPS", "DPS as run, 0.3", "ΠGDM", "TMPD, rows", "DDNM", "RePaint, 4 times")


def restored(task: str, name: str, D: DenoiserLike, judge: torch.nn.Module) -> dict[str, Any]:
    """One restoration of each held-out digit by the network, without a label.

    fit: root mean square of (y − A x)/s, 1 for the truth. error: per pixel from the truth. same_class: share that the
    judge sees as the label.
    """
    A, s = operators()[task]
    images, y, labels = measurements(A, s, RESTORED)
    if name == "truth":
        made, seconds = images, 0.0
    else:
        generator = torch.Generator().manual_seed(20)
        x = torch.randn(images.shape, generator=generator)
        start = time.process_time()
        made, _ = METHODS[name](D, x, A, y, s, generator)
        seconds = time.process_time() - start
    with torch.no_grad():
        seen = judge(made).argmax(1)
    return {
        "task": task,
        "method": name,
        "fit": float(((y - A(made)) / s).square().mean().sqrt()),
        "error": float((made - images).square().mean().sqrt()),
        "same_class": float((seen == labels).double().mean()),
        "cpu_seconds": seconds,
        "first": made[:8].flatten(1).tolist(),
    }


def network() -> None:
    """inverse-network: restorations of held-out digits with the trained network."""
    D = zoo.load("digits-unet").requires_grad_(False)
    judge = zoo.load("digits-classifier").requires_grad_(False)
    settings = [
        (task, name)
        for task, name in itertools.product(operators(), ("truth", *RESTORERS))
        if task == "inpainting" or not name.startswith("RePaint")
    ]
    table = resume.rows(FOLDER / "network.json", settings, lambda setting: restored(*setting, D, judge))
    results.save("inverse-network", {"calls": CALLS, "table": table}, "python -m minidiff.bench inverse network")


def attacked(judge: torch.nn.Module, images: Tensor, labels: Tensor, size: float) -> Tensor:
    """Images changed by at most `size` a pixel to raise the judge's loss: ten signed gradient steps."""
    x = images.clone()
    for _ in range(10):
        x = x.detach().requires_grad_()
        loss = torch.nn.functional.cross_entropy(judge(x), labels, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, x)
        x = images + (x.detach() + size / 4 * gradient.sign() - images).clamp(-size, size)
        x = x.clamp(-1, 1)
    return x.detach()


def edit() -> None:
    """inverse-edit: held-out digits and attacked ones, noised to t and drawn again."""
    D = zoo.load("digits-unet").requires_grad_(False)
    judge = zoo.load("digits-classifier").requires_grad_(False)
    images, labels = (part[:EDITED] for part in data.digits("test"))
    hurt = attacked(judge, images, labels, ATTACK)

    @torch.no_grad()
    def agrees(x: Tensor) -> float:
        return float((judge(x).argmax(1) == labels).double().mean())

    @torch.no_grad()
    def row(t: float) -> dict[str, Any]:
        span = times.uniform(20, start=t)
        clean, healed = (sdedit(D, guide, span, generator=torch.Generator().manual_seed(3)) for guide in (images, hurt))
        survives = surviving_kl(D.process, hurt - images, torch.tensor(t, dtype=torch.float64))
        return {
            "t": t,
            "moved": float((clean - images).square().mean().sqrt()),
            "clean": agrees(clean),
            "attacked": agrees(healed),
            "survives": float(survives.mean()),
        }

    table = resume.rows(FOLDER / "edit.json", TIMES, row)
    untouched = {"clean": agrees(images), "attacked": agrees(hurt), "size": ATTACK, "images": len(images)}
    results.save("inverse-edit", {**untouched, "table": table}, "python -m minidiff.bench inverse edit")


STAGES = {"posterior": posterior, "network": network, "edit": edit}


def main(argv: Sequence[str]) -> None:
    """Run the stages named in argv, or all of them. Raises ValueError for an unknown name."""
    run_stages(STAGES, argv)
