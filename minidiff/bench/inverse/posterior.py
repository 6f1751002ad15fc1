"""Every method against the exact posterior over the training digits."""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from typing import Any

import torch

from minidiff import data
from minidiff.analytic import Empirical
from minidiff.bench import results, resume
from minidiff.bench.inverse import methods, tasks
from minidiff.inverse import EmpiricalPosterior
from minidiff.metrics import nearest_index, total_variation, total_variation_floor
from minidiff.process import RectifiedFlow

KEPT = Path("build/inverse/posterior.json")
SAMPLES = 300  # from each posterior
MEASURED = 3  # held-out digits measured by each operator


def compared(
    task: str, name: str, prior: Empirical, samples: int | None = None, measured: int | None = None
) -> dict[str, Any]:
    """Total variation between drawn and exact indices, mean over measurements, and its floor.

    samples, measured: in place of SAMPLES and MEASURED. Samples count at the nearest data point. `off` is their root
    mean square distance from it, per pixel.
    """
    A, s = tasks.operators()[task]
    samples, measured = samples or SAMPLES, measured or MEASURED
    _, ys, _ = tasks.measurements(A, s, measured)
    found, floors, off, seconds = [], [], [], 0.0
    for i, y in enumerate(ys):
        generator = torch.Generator().manual_seed(10 + i)
        x = torch.randn(samples, *tasks.SHAPE, generator=generator)
        many = y.expand(samples, *y.shape).contiguous()
        law = EmpiricalPosterior(prior, A, y[None], s).log_weights[0].exp()
        start = time.process_time()
        made, weights = methods.METHODS[name](prior, x, A, many, s, generator)
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


def measure() -> None:
    """inverse-posterior: every method against the exact posterior over the training digits."""
    prior = Empirical(RectifiedFlow(), data.digits("train")[0])
    settings = [
        (task, name)
        for task, name in itertools.product(tasks.operators(), methods.METHODS)
        if task == "inpainting" or not name.startswith("RePaint")
    ]
    table = resume.rows(KEPT, settings, lambda setting: compared(*setting, prior))
    stored = {"calls": methods.CALLS, "samples": SAMPLES, "measured": MEASURED, "table": table}
    results.save("inverse-posterior", stored, "python -m minidiff.bench inverse posterior")
