"""Five relatives beside diffusion on digits: distance and copies, likelihood, calls and costs (about 15 CPU-minutes).

python -m minidiff.bench relatives

Each family is trained from nothing with three seeds, for about as many CPU-seconds as any other, and without labels;
the zoo's `digits-unet`, trained for longer and with labels, stands beside them with three seeds of sampling. The
Fréchet distance is that of as many samples as there are digits to the held-out ones, and must be read beside the copy
rate: whoever returns the training set has the least. Settings were chosen on seed 7, which is not among the three.
Finished rows are kept in `build/relatives` and reused; delete the folder to start over.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from minidiff import data, metrics, train
from minidiff.bench import pictures, results, resume, run_stages
from minidiff.bench.relatives import energies, generators
from minidiff.bench.relatives.trained import STEPS, Trained

FOLDER = Path("build/relatives")
SEEDS = (0, 1, 2)
SHOWN = 12  # samples of each family that are stored
MAKERS: dict[str, Callable[[int], Trained]] = {
    "training set": generators.training_set,
    "neighbours": generators.neighbours,
    "PCA mixture": generators.mixture,
    "VAE": generators.vae,
    "GAN": generators.gan,
    "flow": generators.flow,
    "autoregressive": generators.autoregressive,
    "energy, NCE": energies.contrast,
    "energy, recovery": energies.recovery,
    "energy, denoising": energies.denoising,
    "diffusion": energies.diffusion,
    "diffusion, zoo": energies.zoo_diffusion,
}


def row(family: str, seed: int, judge: nn.Module) -> dict[str, Any]:
    """One training and all that is measured of it."""
    digits, training, test = (data.digits(split)[0] for split in ("all", "train", "test"))
    with train.seeded(seed), metrics.Timer() as training_time:  # seeded: weights at the start, and dropout
        made = MAKERS[family](seed)
    with torch.no_grad():
        with metrics.Timer() as sampling_time:
            x = made.sample(len(digits), torch.Generator().manual_seed(seed)).clamp(-1, 1)
        features = judge.features(x)
        bits = None if made.bits is None else made.bits(test)
        return {
            "family": family,
            "seed": seed,
            "frechet held-out": metrics.frechet_distance(features, judge.features(test)),
            "frechet all": metrics.frechet_distance(features, judge.features(digits)),
            "copy_rate": metrics.copy_rate(x, training),
            "nearest": float(metrics.nearest_distance(x, training).mean()),
            "bits": None if bits is None else float(bits.mean()),
            "bits error": None if bits is None else float(bits.std()) / len(bits) ** 0.5,
            "likelihood": made.kind,
            "calls": made.calls,
            "parameters": made.parameters,
            "training seconds": training_time.cpu,
            "sampling seconds": sampling_time.cpu,
            "shown": pictures.packed(x[:SHOWN]),
        }


MEASURED = ("frechet held-out", "frechet all", "copy_rate", "nearest", "bits", "training seconds", "sampling seconds")


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Mean and spread (standard deviation over seeds) of the measured columns of one family; costs as they are."""
    found: dict[str, Any] = {key: rows[0][key] for key in ("family", "likelihood", "calls", "parameters")}
    for key in MEASURED:
        values = [r[key] for r in rows if r[key] is not None]
        found[key] = statistics.fmean(values) if values else None
        found[f"{key} spread"] = statistics.stdev(values) if len(values) > 1 else None
    return found


def table() -> None:
    """`relatives-digits`: every row, their summary, what held-out digits would score; `relatives-samples`: pictures."""
    from minidiff import zoo

    judge = zoo.load("digits-classifier")
    settings = [(family, seed) for seed in SEEDS for family in MAKERS]
    rows = resume.rows(FOLDER / "rows.json", settings, lambda setting: row(*setting, judge))
    shown = {r["family"]: r["shown"] for r in rows if r["seed"] == SEEDS[0]}
    rows = [{key: value for key, value in r.items() if key != "shown"} for r in rows]
    (training, _), (test, _) = data.digits("train"), data.digits("test")
    with torch.no_grad():
        floor = metrics.frechet_floor(judge.features(data.digits("all")[0]))
    stored = {
        "steps": STEPS,
        "floor": {"mean": floor.mean, "std": floor.std, "n": floor.n},
        "held-out": {
            "copy_rate": metrics.copy_rate(test, training),
            "nearest": float(metrics.nearest_distance(test, training).mean()),
        },
        "rows": rows,
        "table": [summary([r for r in rows if r["family"] == family]) for family in MAKERS],
    }
    results.save("relatives-digits", stored, "python -m minidiff.bench relatives")
    results.save("relatives-samples", shown, "python -m minidiff.bench relatives")


def main(argv: Sequence[str]) -> None:
    """Run the stages that argv names, or all of them. Raises ValueError for an unknown name."""
    run_stages({"table": table}, argv)
