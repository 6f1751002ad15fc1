"""Parallel sweeps and speculation beside the sequential methods, on the same trajectories of digits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from minidiff import data, metrics, times
from minidiff.bench import results, resume
from minidiff.linear import Wiener
from minidiff.samplers import ddim, heun, last, parareal, picard, sample, speculative
from minidiff.train import device

KEPT = Path("build/calls/parallel.json")
BATCH = 20  # trajectories
REFERENCE = 150  # steps of Heun's method
STEPS = (16, 36, 64, 144)
CHAINS = (25, 50, 100, 200, 400)  # steps of the chains that are speculated on
DRAFTS = 16


def compared(D: nn.Module, settings: Sequence[tuple[Any, ...]], kept: Path) -> dict[str, Any]:
    """Depth, calls and error of sequential and parallel methods on the same trajectories, and speculation on chains."""
    labels = torch.arange(BATCH, device=device()) % 10
    of_class = D.given(labels)
    shape = data.digits("test")[0].shape[1:]
    z = D.process.prior((BATCH, *shape), torch.Generator().manual_seed(0)).to(device())
    reference = last(heun(of_class, z, times.uniform(REFERENCE)))
    cheap_draft = Wiener.of_data(D.process, data.digits("train")[0].to(device()))

    def error(x: Tensor, goal: Tensor) -> float:
        return float(metrics.path_error(x, goal, D.sigma_data).mean())

    def row(setting: tuple[Any, ...]) -> dict[str, Any]:
        name, n, *rest = setting
        found: dict[str, Any] = {"method": name, "steps": n}
        grid = times.uniform(n)
        if name == "default":
            return found | {"depth": n, "calls": n, "error": error(sample(of_class, z, n), reference)}
        if name == "ddim":
            return found | {"depth": n, "calls": n, "error": error(last(ddim(of_class, z, grid)), reference)}
        if name == "speculative":
            draft = None if rest[0] == "held" else cheap_draft
            with_seed = torch.Generator().manual_seed(1)
            made = speculative(of_class, z, grid, length=DRAFTS, draft=draft, generator=with_seed)
            return found | {
                "draft": rest[0],
                "length": DRAFTS,
                "depth": float(made.rounds.double().mean()),
                "calls": float(made.calls.double().mean()),
                "accepted": int(made.accepted.sum()) / int(made.tested.sum()),
                "rejected at": _rejections(made.tested, made.accepted),
            }
        if name == "picard":
            cheap, window, tolerance = rest
            sweeps = picard(of_class, z, grid, cheap=cheap, window=window, tolerance=tolerance)
            found |= {"cheap": cheap, "window": window, "tolerance": tolerance}
        else:
            blocks, tolerance = rest
            sweeps = parareal(of_class, z, grid, blocks=blocks, tolerance=tolerance)
            found |= {"blocks": blocks, "tolerance": tolerance}
        goal, curve = last(ddim(of_class, z, grid)), []
        for sweep in sweeps:
            curve.append({"depth": sweep.depth, "calls": sweep.calls, "to sequential": error(sweep.x, goal)})
            if curve[-1]["to sequential"] < 1e-6 and tolerance == 0:
                break
        return found | curve[-1] | {"sweeps": len(curve) - 1, "error": error(sweep.x, reference), "curve": curve}

    return {"batch": BATCH, "reference steps": REFERENCE, "table": resume.rows(kept, settings, row)}


def _rejections(tested: Tensor, accepted: Tensor, bins: int = 5) -> list[float]:
    """The share of drafts that were not kept, in equal parts of the chain from noise to data."""
    parts = zip(tested.tensor_split(bins), accepted.tensor_split(bins), strict=True)
    return [1 - int(kept.sum()) / max(1, int(tried.sum())) for tried, kept in parts]


def _settings() -> list[tuple[Any, ...]]:
    settings: list[tuple[Any, ...]] = [
        *(("default", n) for n in (4, 6, 8, 12, 20)),
        *(("ddim", n) for n in (8, *STEPS)),
    ]
    for n in STEPS:
        settings += [("picard", n, "linear", None, 1e-2), ("picard", n, "identity", None, 1e-2)]
        settings += [("parareal", n, math.isqrt(n), 1e-2)]
    settings += [("picard", 64, "linear", None, 0.0), ("picard", 64, "identity", None, 0.0), ("parareal", 64, 8, 0.0)]
    settings += [("picard", 64, "linear", window, 1e-2) for window in (8, 16, 32)]
    return [*settings, *(("speculative", n, "held") for n in CHAINS), ("speculative", 100, "Wiener")]


def measure() -> None:
    """The stage `parallel`, stored as calls-parallel."""
    from minidiff import zoo

    D = zoo.load("digits-unet").to(device())
    with torch.no_grad():
        stored = compared(D, _settings(), KEPT)
    results.save("calls-parallel", stored, "python -m minidiff.bench calls parallel")
