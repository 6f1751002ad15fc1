"""What the flow-matching chapter stores: reflow on digits, and training times compared over seeds (9 CPU-minutes).

python -m minidiff.bench flow [reflow] [times]      (default: both)

Finished trainings and evaluated rows are kept in `build/flow` and reused, so an interrupted run goes on where it
stopped; delete the folder to start over.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from minidiff import data, times, zoo
from minidiff.bench import results
from minidiff.denoiser import Denoiser, DenoiserLike
from minidiff.metrics import class_accuracy, copy_rate, frechet_distance, frechet_floor, straightness
from minidiff.nets.unet import UNet
from minidiff.noise import standard_normal
from minidiff.objectives import flow_matching, transport_cost
from minidiff.process import RectifiedFlow
from minidiff.samplers import euler, last, path, sample
from minidiff.train import EMA, device, fit, noised, progress, seeded

FOLDER = Path("build/flow")  # what an interrupted run goes on from
DENSITIES = {"uniform": times.uniform_density(), "logit-normal": times.logit_normal_density()}
SEEDS = (0, 1, 2)
TIMES_STEPS = 300  # of training, for each density and seed
CALLS = 20  # of the default sampler, to judge a network of `times`
PAIRS = 4096  # of reflow
TEACHER_CALLS = 20  # for each of them
REFLOW_STEPS = 600  # of training on the pairs, from the teacher's weights
STEPS = (1, 2, 4, 7, 16, 50)  # of Euler's method, to judge the teacher and the student
FINE = 64  # of them, for the solution that the others are compared with
PART = 300  # images sampled at a time


def kept(name: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The row stored in `build/flow/NAME.json`, made and stored if it is not there."""
    file = FOLDER / f"{name}.json"
    if not file.exists():
        row = make()
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(row))
    row = json.loads(file.read_text())
    print(row, flush=True)
    return row


def in_parts(D: Denoiser, x: Tensor, y: Tensor, method: Callable[[DenoiserLike, Tensor], Tensor]) -> Tensor:
    """method(D given the labels y (n,), x (n, 1, 8, 8)), a part of the rows at a time."""
    with torch.no_grad():
        return torch.cat([method(D.given(b), a) for a, b in zip(x.split(PART), y.split(PART), strict=True)])


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


# Training times: one network for each density and seed


def trained(density: str, seed: int) -> Denoiser:
    """The averaged velocity network, class-conditional, after TIMES_STEPS steps with times of that density."""
    with seeded(seed):
        D = Denoiser(UNet(classes=10), RectifiedFlow(), "velocity").to(device())
    ema = EMA(D, 0.99)
    images, labels = (x.to(device()) for x in data.digits("train"))
    stream = noised(data.batches(images, labels, batch_size=128, seed=seed), DENSITIES[density], seed)
    logs = fit(
        lambda x0, t, eps, y: flow_matching(D, x0, t, eps, y),
        D.parameters(),
        stream,
        steps=TIMES_STEPS,
        lr=2e-3,
        warmup=min(50, TIMES_STEPS // 4),
        ema=ema,
        checkpoint=FOLDER / f"{density}-{seed}.safetensors",
    )
    for _ in progress(logs, TIMES_STEPS):
        pass
    return ema.module


@torch.no_grad()
def held_out(D: Denoiser, levels: Tensor) -> list[float]:
    """The loss on ε of the test digits at each level t, with the same noise for every network: |v − v̂|² (1 − t)²."""
    images, labels = (x.to(device()) for x in data.digits("test"))
    eps = noise(images.shape, 0)
    losses = [flow_matching(D, images, t, eps, labels).mean() * (1 - t) ** 2 for t in levels]
    return [float(loss) for loss in losses]


def times_row(density: str, seed: int) -> dict[str, Any]:
    """One training and what it reached."""
    start = time.process_time()
    D = trained(density, seed)
    seconds = time.process_time() - start
    labels = data.digits("all")[1].to(device())
    made = in_parts(D, noise((len(labels), 1, 8, 8), 10), labels, lambda D, x: sample(D, x, CALLS))
    levels = torch.linspace(0.05, 0.95, 19, dtype=torch.float64)
    row = {"density": density, "seed": seed, **judged(made, labels), "cpu_seconds": seconds}
    return row | {"levels": levels.tolist(), "held_out": held_out(D, levels)}


def compare_times() -> None:
    """flow-times: uniform and logit-normal training times, three seeds each."""
    rows = [kept(f"{d}-{seed}", lambda d=d, seed=seed: times_row(d, seed)) for d in DENSITIES for seed in SEEDS]
    stored = {"training_steps": TIMES_STEPS, "calls": CALLS, "table": rows}
    results.save("flow-times", stored, "python -m minidiff.bench flow times")


# Reflow: a student on the pairs of the zoo's network


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


STAGES = {"reflow": reflow, "times": compare_times}


def main(argv: Sequence[str]) -> None:
    """Run the stages named in argv, or both. Raises ValueError for an unknown name."""
    for name in argv or STAGES:
        if name not in STAGES:
            raise ValueError(f"stages are {list(STAGES)}, got {name!r}")
    for name in argv or STAGES:
        STAGES[name]()
