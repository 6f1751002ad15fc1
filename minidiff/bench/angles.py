"""Where the default sampler should work on the networks of the zoo, by their own paths (about 11 CPU-minutes).

python -m minidiff.bench angles [digits] [photos]      (default: both)

Each angle of a table around the answer of the spectrum is tried on paths from noise that no other benchmark uses.
Finished rows are kept in `build/angles` and reused, so an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from minidiff import metrics, zoo
from minidiff.bench import reference, results, resume, run_stages
from minidiff.denoiser import Angle, Denoiser
from minidiff.samplers import sample

FOLDER = Path("build/angles")
CALLS = (4, 5, 6, 8, 10)
SEED = 1000  # of the noise: the sampler benchmark's seeds are 0, 1, 2
FINE = 150  # calls of the reference solution
POWERS = (0.5, 0.6, 0.7, 0.8)
# Scale and middle in units of σ_data.
TABLES: dict[str, dict[str, Any]] = {
    "digits": {
        "network": "digits-unet",
        "shape": (1, 8, 8),
        "classes": 10,
        "paths": 200,
        "scales": (0.7, 1.0, 1.4, 2.0),
        "middles": (0.5, 0.7, 1.0, 1.4),
    },
    "photos": {
        "network": "photos-unet",
        "shape": (3, 32, 32),
        "classes": 9,
        "paths": 128,
        "scales": (4.0, 5.6, 8.0),
        "middles": (2.0, 2.8, 4.0, 5.6),
    },
}


def candidates(sigma_data: float, scales: Sequence[float], middles: Sequence[float]) -> list[Angle]:
    """Every angle of a table, in units of the data; a middle is never beyond the scale."""
    table = itertools.product(scales, POWERS, middles)
    return [Angle(s * sigma_data, power, m * sigma_data) for s, power, m in table if m <= s]


def row(D: Denoiser, labels: Tensor, x: Tensor, end: Tensor, angle: Angle) -> dict[str, Any]:
    """The path errors of `sample` with this angle: root mean square and median for each number of calls."""
    errors = [metrics.path_error(sample(D.given(labels), x, n, angle), end, D.sigma_data) for n in CALLS]
    return {
        "scale": angle.scale / D.sigma_data,
        "power": angle.power,
        "middle": (angle.middle or angle.scale) / D.sigma_data,
        "rms": [float(e.square().mean().sqrt()) for e in errors],
        "median": [float(e.median()) for e in errors],
    }


def tried(name: str) -> None:
    """angles-NAME: one row for each angle of its table."""
    table = TABLES[name]
    D = zoo.load(table["network"])
    labels = torch.arange(table["paths"]) % table["classes"]
    generator = torch.Generator().manual_seed(SEED)
    x = D.process.prior((table["paths"], *table["shape"]), generator)
    end = reference.solution(D.given(labels), x / float(D.process.sigma(torch.ones(()))), "one", FINE)
    angles = candidates(D.sigma_data, table["scales"], table["middles"])
    rows = resume.rows(FOLDER / f"{name}.json", angles, lambda angle: row(D, labels, x, end, angle))
    stored = {"calls": CALLS, "paths": table["paths"], "seed": SEED, "reference_calls": FINE, "rows": rows}
    results.save(f"angles-{name}", stored, f"OMP_NUM_THREADS=1 python -m minidiff.bench angles {name}")


def main(argv: Sequence[str]) -> None:
    """Run the benchmark; argv names stages."""
    run_stages({name: lambda name=name: tried(name) for name in TABLES}, argv)  # type: ignore[misc]
