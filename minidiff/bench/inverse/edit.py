"""Held-out digits and attacked ones, noised part of the way and drawn again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from minidiff import data, times, zoo
from minidiff.bench import results, resume
from minidiff.inverse import sdedit, surviving_kl

KEPT = Path("build/inverse/edit.json")
EDITED = 200
TIMES = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
ATTACK = 0.3  # largest change of a pixel, in [−1, 1]


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


def measure() -> None:
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

    table = resume.rows(KEPT, TIMES, row)
    untouched = {"clean": agrees(images), "attacked": agrees(hurt), "size": ATTACK, "images": len(images)}
    results.save("inverse-edit", {**untouched, "table": table}, "python -m minidiff.bench inverse edit")
