"""A short-trained network of the digits and five pushes away from worse ones: `minidiff.bench guidance short` (7 min).

A small U-Net is trained from nothing for STEPS steps, which is too short, with labels dropped at random. Its weights'
averages after a quarter, a half and three quarters of the same training are kept as weak models. Guidance by its own
answer without a label, everywhere and on an interval of noise, and by each of the weak models, is run at every scale of
SCALES from the same noise, beside the network alone, also in twice the calls, and one that was trained LONGER times as
long. Samples are compared with held-out digits. The best scale for the loss is a regression and needs no samples.
The number of steps and the pushes were chosen on seed 0, which is not among SEEDS.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from minidiff import data, guidance, metrics, zoo
from minidiff.bench import pictures, results, resume
from minidiff.denoiser import Denoiser, DenoiserLike
from minidiff.nets import UNet
from minidiff.objectives import flow_matching, velocity
from minidiff.process import RectifiedFlow
from minidiff.samplers import sample
from minidiff.times import logit_normal_density, low_discrepancy
from minidiff.train import EMA, device, fit, label_dropout, noised, progress, seeded

FOLDER = Path("build/guidance")  # what an interrupted run goes on from
SEEDS = (1, 2, 3)  # of a training and of the samples
STEPS, LONGER, CHANNELS, BATCH = 200, 4, 16, 64
QUARTERS = {1: "after a quarter", 2: "after a half", 3: "after three quarters"}  # of the steps: the weak models
INTERVAL = (0.3, 3.0)  # in r = σ/α
PUSHES = ("no label", "no label, interval", *QUARTERS.values())
SCALES = (1.25, 1.5, 2.0, 3.0, 4.0)
CALLS = 10  # steps of the default sampler; a push adds a call of the other model to each step in which it acts
COPIES, PART = 2, 240  # samples for each held-out digit, with its label; samples that are drawn together
ROUNDS = 8  # noisy pictures of each held-out digit, for the regression
SHOWN, CLASSES = 2.0, 10  # the scale at which the first seed's samples are stored, one of each label
Family = Callable[[float, Tensor], guidance.Guided]  # (w, y) ↦ the guided denoiser


def trained(seed: int, steps: int) -> tuple[Denoiser, dict[str, Denoiser]]:
    """The average of the weights after all steps, and the averages on the way, by the names of QUARTERS."""
    images, labels = (tensor.to(device()) for tensor in data.digits("train"))
    with seeded(seed):
        net = UNet(channels=CHANNELS, classes=CLASSES)
    D = Denoiser(net, RectifiedFlow(), "velocity", sigma_data=float(images.std(0).square().mean().sqrt())).to(device())
    ema, weak = EMA(D, 0.99), {}
    stream = label_dropout(data.batches(images, labels, batch_size=BATCH, seed=seed), CLASSES, 0.1, seed)
    logs = fit(
        lambda x0, t, eps, y: flow_matching(D, x0, t, eps, y),
        D.parameters(),
        noised(stream, low_discrepancy(logit_normal_density()), seed=seed),
        steps=steps,
        lr=4e-3,
        warmup=min(50, steps // 4),
        ema=ema,
    )
    for log in progress(logs, steps):
        for k, name in QUARTERS.items():
            if log.step == steps * k // 4:
                weak[name] = copy.deepcopy(ema.module)
    return ema.module, weak


def pushes(D: Denoiser, weak: dict[str, Denoiser]) -> dict[str, Family]:
    """The guided denoisers by the names of PUSHES."""
    by_label: dict[str, Family] = {
        "no label": lambda w, y: guidance.cfg(D, y, w),
        "no label, interval": lambda w, y: guidance.cfg(D, y, w, interval=INTERVAL),
    }
    by_age = {k: lambda w, y, bad=bad: guidance.autoguidance(D.given(y), bad.given(y), w) for k, bad in weak.items()}
    return by_label | by_age


def asked() -> Tensor:
    """The label of every sample: those of the held-out digits, COPIES times."""
    return data.digits("test")[1].repeat(COPIES).to(device())


@torch.no_grad()
def drawn(of_labels: Callable[[Tensor], DenoiserLike], seed: int, calls: int | None = None) -> Tensor:
    """A sample for each label asked, (n, 1, 8, 8), from noise that depends on the seed alone."""
    y = asked()
    x = torch.randn(len(y), 1, 8, 8, generator=torch.Generator().manual_seed(1000 + seed)).to(device())
    parts = zip(x.split(PART), y.split(PART), strict=True)
    return torch.cat([sample(of_labels(labels), noise, calls or CALLS) for noise, labels in parts])


@torch.no_grad()
def judged(x: Tensor, y: Tensor) -> dict[str, float]:
    """What is measured on pictures (n, 1, 8, 8) that should have the labels y (n,), in the judge's features.

    frechet: distance to the held-out digits. as_asked: how often the judge agrees. within: the total variance inside a
    class, in units of that of the held-out digits. recall: the share of these that the pictures cover.
    """
    judge = zoo.load("digits-classifier").to(x.device)
    real, names = (tensor.to(x.device) for tensor in data.digits("test"))
    features, reference = judge.features(x), judge.features(real)
    manifolds = metrics.precision_recall(features, reference)
    return {
        "frechet": metrics.frechet_distance(features, reference),
        "as_asked": metrics.class_accuracy(judge.head(features), y),
        "precision": manifolds.precision,
        "recall": manifolds.recall,
        "within": spread(features, y) / spread(reference, names),
        "copy_rate": metrics.copy_rate(x, data.digits("train")[0].to(x.device)),
    }


def spread(features: Tensor, y: Tensor) -> float:
    """The total variance of features (n, d) inside a class, the mean over the labels in y (n,)."""
    return float(torch.stack([features[y == k].var(0).sum() for k in y.unique()]).mean())


def floors() -> list[dict[str, float]]:
    """The same figures of training digits, chosen at random with the labels that are asked for, eight times."""
    images, labels = (tensor.to(device()) for tensor in data.digits("train"))
    y, rows = asked().sort().values, []
    for seed in range(8):
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed)).to(labels.device)
        chosen = [order[labels[order] == k][: int((y == k).sum())] for k in y.unique()]
        rows.append(judged(images[torch.cat(chosen)], y))
    return rows


@torch.no_grad()
def regression(of_scale: Family, seed: int) -> dict[str, float]:
    """The scale with the least loss on noisy held-out digits, the loss at w = 1 and the share that the best one saves.

    With Δ = D_2 − D_1, the change from w = 1 to w = 2, the loss is the parabola E‖x_0 − D_1 − (w − 1)Δ‖². Times and
    weight are those of the training.
    """
    x0, y = (torch.cat([tensor] * ROUNDS).to(device()) for tensor in data.digits("test"))
    generator = torch.Generator().manual_seed(2000 + seed)
    t = low_discrepancy(logit_normal_density())(len(x0), generator).to(device())
    x = RectifiedFlow().noise(x0, t, torch.randn(x0.shape, generator=generator).to(device()))
    one, two = (of_scale(w, y)(x, t) for w in (1.0, 2.0))
    weight = velocity(RectifiedFlow(), t.double()) / x0[0].numel()

    def mean(a: Tensor, b: Tensor) -> float:
        return float((weight * (a * b).flatten(1).sum(1)).mean())

    loss, along, square = mean(x0 - one, x0 - one), mean(x0 - one, two - one), mean(two - one, two - one)
    return {"scale": 1 + along / square, "loss": loss, "saved": along**2 / square / loss}


def compared(seed: int) -> dict[str, Any]:
    """All rows of one seed, the regressions, and a sample of each label at the scale SHOWN, packed."""
    first = [int((asked() == k).nonzero()[0]) for k in range(CLASSES)]
    (D, weak), (longer, _) = trained(seed, STEPS), trained(seed, LONGER * STEPS)
    families, rows, shown = pushes(D, weak), [], {}

    def row(push: str, w: float, calls: int, of_labels: Callable[[Tensor], DenoiserLike]) -> None:
        x = drawn(of_labels, seed)
        rows.append({"seed": seed, "push": push, "w": w, "calls": calls, **judged(x, asked())})
        print(rows[-1], flush=True)
        if w in (1.0, SHOWN):
            shown[push] = pictures.packed(x[first])

    row("none", 1.0, CALLS, D.given)
    row("longer", 1.0, CALLS, longer.given)
    for push, of_scale in families.items():
        for w in SCALES:
            row(push, w, calls(of_scale, w), lambda labels, w=w, of_scale=of_scale: of_scale(w, labels))
    families["longer"] = pushes(longer, {})["no label"]
    fits = {name: regression(of_scale, seed) for name, of_scale in families.items()}
    return {"rows": rows, "fits": {"seed": seed, **fits}, "shown": shown}


@torch.no_grad()
def calls(of_scale: Family, w: float) -> int:
    """Calls for a sample, of the two models together."""
    guided = of_scale(w, asked()[:1])
    counted = [metrics.CountCalls(part) for part in (guided.positive, guided.negative)]
    sample(guidance.Guided(*counted, w, guided.interval), torch.zeros(1, 1, 8, 8, device=device()), CALLS)
    return sum(part.calls for part in counted)


def finer(seed: int) -> dict[str, Any]:
    """The network alone in twice the calls, as many as a push takes."""
    x = drawn(trained(seed, STEPS)[0].given, seed, 2 * CALLS)
    return {"seed": seed, "push": "finer", "w": 1.0, "calls": 2 * CALLS, **judged(x, asked())}


def short() -> None:
    """guidance-short: everything for each seed, with the same figures of real digits."""
    made = [resume.once(FOLDER / f"short-{seed}.json", lambda s=seed: compared(s)) for seed in SEEDS]
    finely = [resume.once(FOLDER / f"short-finer-{seed}.json", lambda s=seed: finer(s)) for seed in SEEDS]
    stored = {
        **{"training_steps": STEPS, "longer": LONGER, "samples": len(asked())},
        "real": floors(),
        "rows": [row for of in made for row in of["rows"]] + finely,
        "fits": [of["fits"] for of in made],
        "shown": made[0]["shown"],
    }
    results.save("guidance-short", stored, "python -m minidiff.bench guidance short")
