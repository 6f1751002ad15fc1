"""Restorations of held-out digits with the trained network."""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from typing import Any

import torch

from minidiff import zoo
from minidiff.bench import pictures, results, resume
from minidiff.bench.inverse import methods, tasks
from minidiff.denoiser import DenoiserLike

KEPT = Path("build/inverse/network.json")
RESTORED = 60  # held-out digits, one restoration each
RESTORERS = ("prior, y ignored", "DPS", "DPS as run, 0.3", "ΠGDM", "TMPD, rows", "DDNM", "RePaint, 4 times")


def restored(task: str, name: str, D: DenoiserLike, judge: torch.nn.Module) -> dict[str, Any]:
    """One restoration of each held-out digit by the network, without a label.

    fit: root mean square of (y − A x)/s, 1 for the truth. error: per pixel from the truth. same_class: share that the
    judge sees as the label. first: eight of them, packed.
    """
    A, s = tasks.operators()[task]
    images, y, labels = tasks.measurements(A, s, RESTORED)
    if name == "truth":
        made, seconds = images, 0.0
    else:
        generator = torch.Generator().manual_seed(20)
        x = torch.randn(images.shape, generator=generator)
        start = time.process_time()
        made, _ = methods.METHODS[name](D, x, A, y, s, generator)
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
        "first": pictures.packed(made[:8]),
    }


def measure() -> None:
    """inverse-network: restorations of held-out digits with the trained network."""
    D = zoo.load("digits-unet").requires_grad_(False)
    judge = zoo.load("digits-classifier").requires_grad_(False)
    settings = [
        (task, name)
        for task, name in itertools.product(tasks.operators(), ("truth", *RESTORERS))
        if task == "inpainting" or not name.startswith("RePaint")
    ]
    table = resume.rows(KEPT, settings, lambda setting: restored(*setting, D, judge))
    results.save(
        "inverse-network", {"calls": methods.CALLS, "table": table}, "python -m minidiff.bench inverse network"
    )
