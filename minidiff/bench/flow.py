"""What the flow-matching chapter stores: reflow of the zoo's digit network, and training times (15 CPU-minutes).

python -m minidiff.bench flow [reflow] [times]      (default: both)

The finished training and evaluated rows are kept in `build/flow` and reused, so an interrupted run goes on where it
stopped; delete the folder to start over.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from minidiff import data, times, zoo
from minidiff.bench import results, resume, run_stages
from minidiff.denoiser import Denoiser, DenoiserLike
from minidiff.metrics import class_accuracy, copy_rate, frechet_distance, frechet_floor, straightness
from minidiff.nets.unet import UNet
from minidiff.noise import standard_normal
from minidiff.objectives import flow_matching, transport_cost
from minidiff.process import RectifiedFlow
from minidiff.samplers import euler, last, path, sample
from minidiff.train import EMA, device, fit, noised, progress, seeded

FOLDER = Path("build/flow")  # what an interrupted run goes on from
PAIRS = 4096  # of reflow
TEACHER_CALLS = 20  # for each of them
REFLOW_STEPS = 600  # of training on the pairs, from the teacher's weights
STEPS = (1, 2, 4, 7, 16, 50)  # of Euler's method, to judge the teacher and the student
FINE = 64  # of them, for the solution that the others are compared with
PART = 300  # images sampled at a time
DENSITIES = {
    "uniform": times.uniform_density(),
    "logit-normal, m = 0": times.logit_normal_density(),
    "logit-normal, m = -1.4": times.logit_normal_density(mean=-1.4),
}
SEEDS = (0, 1, 2)  # of a training: its weights, batches, times and noise, and of the samples
TIMES_STEPS = 800  # of training for each density and seed, as in the first chapter
CALLS = 20  # of the default sampler, to judge them


def kept(name: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The row stored in `build/flow/NAME.json`, made and stored if it is not there."""
    return resume.once(FOLDER / f"{name}.json", make)


def in_parts(D: Denoiser, x: Tensor, y: Tensor, method: Callable[[DenoiserLike, Tensor], Tensor]) -> Tensor:
    """method(D given the labels y (n,), x (n, 1, 8, 8)), a part of the rows at a time."""
    with torch.no_grad():
        return torch.cat([method(D.given(b), a) for a, b in zip(x.split(PART), y.split(PART), strict=True)])


@torch.no_grad()
def judged(made: Tensor, labels: Tensor) -> dict[str, float]:
    """Fréchet distance to all digits, share of labels that the judge reads as asked, and share of copies."""
    judge = zoo.load("digits-classifier").to(device())
    reference = judge.features(data.digits("all")[0].to(device())).double()
    return {
        "frechet": frechet_distance(judge.features(made).double(), reference),
        "as_asked": class_accuracy(judge(made), labels),
        "copy_rate": copy_rate(made, data.digits("train")[0].to(device())),
    }


def noise(shape: Sequence[int], seed: int) -> Tensor:
    """ε of the given shape, drawn on the CPU."""
    return standard_normal(shape, torch.Generator().manual_seed(seed)).to(device())


def pairs(teacher: Denoiser) -> tuple[Tensor, Tensor, Tensor]:
    """(x_0, ε, y): the labels of the digits in turn, noise, and where the teacher's flow takes it."""
    labels = data.digits("train")[1].to(device())
    y = labels.repeat(-(-PAIRS // len(labels)))[:PAIRS]
    eps = noise((PAIRS, 1, 8, 8), 20)
    return in_parts(teacher, eps, y, lambda D, x: sample(D, x, TEACHER_CALLS)), eps, y


def student(teacher: Denoiser, x0: Tensor, eps: Tensor, y: Tensor) -> Denoiser:
    """The teacher's weights after REFLOW_STEPS more steps, on the fixed pairs; coupled, so it has no score."""
    D = Denoiser(teacher.net, teacher.process, "velocity", teacher.sigma_data, coupled=True).to(device())
    D.requires_grad_(True)
    ema = EMA(D, 0.99)
    random = torch.Generator().manual_seed(0)
    stream = (
        (a, times.low_discrepancy()(len(a), random).to(device()), b, c)
        for a, b, c in data.batches(x0, eps, y, batch_size=min(128, PAIRS), seed=0)
    )
    logs = fit(
        lambda x0, t, eps, y: flow_matching(D, x0, t, eps, y),
        D.parameters(),
        stream,
        steps=REFLOW_STEPS,
        lr=1e-3,
        warmup=min(50, REFLOW_STEPS // 4),
        ema=ema,
        checkpoint=FOLDER / "student.safetensors",
    )
    for _ in progress(logs, REFLOW_STEPS):
        pass
    return ema.module


def flow_rows(D: Denoiser) -> dict[str, Any]:
    """Euler's method in a few steps from one noise: quality, distance to the fine solution, cost and straightness."""
    labels = data.digits("all")[1].to(device())
    eps = noise((len(labels), 1, 8, 8), 30)
    fine = in_parts(D, eps, labels, lambda D, x: last(euler(D, x, times.uniform(FINE))))
    rows = []
    for steps in STEPS:
        made = in_parts(D, eps, labels, lambda D, x, n=steps: last(euler(D, x, times.uniform(n))))
        error = float((made - fine).square().mean().sqrt())
        rows.append({"steps": steps, "path_error": error, **judged(made, labels)})
        print(rows[-1], flush=True)
    grid = times.uniform(50)
    curve = path(euler(D.given(labels[:PART]), eps[:PART], grid))
    return {
        "steps": rows,
        "straightness": float(straightness(curve, grid).mean()),
        "cost": float(transport_cost(fine, eps).mean()),
    }


@torch.no_grad()
def rows_of(D: Denoiser) -> dict[str, Any]:
    """`flow_rows` without gradients."""
    return flow_rows(D)


def reflow() -> None:
    """flow-reflow: the zoo's network and its reflow, in 1 to 50 Euler steps."""
    teacher = zoo.load("digits-unet").to(device())
    rows = {"teacher": kept("teacher", lambda: rows_of(teacher))}

    def after() -> dict[str, Any]:
        return rows_of(student(teacher, *pairs(teacher)))

    rows["student"] = kept("student", after)
    judge = zoo.load("digits-classifier").to(device())
    digits = data.digits("all")[0].to(device())
    independent = transport_cost(digits, noise(digits.shape, 40)).mean()
    stored = {
        "pairs": PAIRS,
        "teacher_calls": TEACHER_CALLS,
        "training_steps": REFLOW_STEPS,
        "independent_cost": float(independent),
        "floor": frechet_floor(judge.features(digits).double()).mean,
        **rows,
    }
    results.save("flow-reflow", stored, "python -m minidiff.bench flow reflow")


def trained(density: times.Density, seed: int) -> Denoiser:
    """The first chapter's network and recipe with another density of the training times."""
    images, labels = data.digits("train")
    with seeded(seed):
        net = UNet(channels=24, classes=10)
    D = Denoiser(net, RectifiedFlow(), "velocity", float(images.std(0).square().mean().sqrt())).to(device())
    ema = EMA(D, 0.99)
    batches = data.batches(images, labels, batch_size=64, seed=seed)
    logs = fit(
        lambda x0, t, eps, y: flow_matching(D, x0, t, eps, y),
        D.parameters(),
        noised(batches, times.low_discrepancy(density), seed=seed),
        steps=TIMES_STEPS,
        lr=4e-3,
        warmup=min(50, TIMES_STEPS // 4),
        ema=ema,
    )
    for _ in progress(logs, TIMES_STEPS):
        pass
    return ema.module


def training_times() -> None:
    """flow-times: the same training with three densities of the times, three seeds each."""
    labels = data.digits("all")[1].to(device())
    rows = []
    for name, density in DENSITIES.items():
        for seed in SEEDS:

            def row(density: times.Density = density, seed: int = seed) -> dict[str, Any]:
                x = noise((len(labels), 1, 8, 8), seed)
                return judged(in_parts(trained(density, seed), x, labels, lambda D, x: sample(D, x, CALLS)), labels)

            slug = name.replace(" ", "").replace(",", "-").replace("=", "")
            rows.append({"density": name, "seed": seed, **kept(f"{slug}-{seed}", row)})
    judge = zoo.load("digits-classifier").to(device())
    floor = frechet_floor(judge.features(data.digits("all")[0].to(device())).double()).mean
    stored = {"training_steps": TIMES_STEPS, "calls": CALLS, "floor": floor, "rows": rows}
    results.save("flow-times", stored, "python -m minidiff.bench flow times")


STAGES = {"reflow": reflow, "times": training_times}


def main(argv: Sequence[str]) -> None:
    """Run the stages named in argv, or both. Raises ValueError for an unknown name."""
    run_stages(STAGES, argv)
