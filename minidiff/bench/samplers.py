"""Every sampler at every budget of calls: path error and Fréchet distance side by side (about 25 CPU-minutes each).

python -m minidiff.bench samplers [digits] [photos] [sprites]      (default: all)

digits: the network of the zoo for 8×8 digits; photos: the one for 32×32 patches. Both columns are about the same
samples: all methods begin with the same noise. The path error is the distance to the same network's own solution, the
Fréchet distance is the zoo's judge's. sprites: one picture of samples for each of some methods and budgets, from what
photos has kept. Finished cells lie in `build/samplers`, one JSON file each; an interrupted run goes on from them.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from minidiff import metrics
from minidiff.bench import results, run_stages
from minidiff.bench.contenders import FAR, Contender, calls_made, contenders, run
from minidiff.bench.judging import Setting, digits, photos

FOLDER = Path("build/samplers")
COMMAND = "OMP_NUM_THREADS=1 python -m minidiff.bench samplers"
BUDGETS = (1, 2, 3, 4, 5, 6, 8, 10, 15, 20, 35, 50, 100)
FEW = 8  # the largest budget that is repeated with other noise
LONG = 1000  # calls of the two discretised reverse equations
LONG_METHODS = ("Ancestral", "Euler–Maruyama")
REPEATED = (
    "minidiff.sample",
    "Euler, uniform t",
    "Heun, Karras",
    "DPM++2M, log-SNR",
    "DPM++2M, log-SNR, cut",
    "UniPC-2",
    "Ancestral",
)
MANY = (  # at 15 calls and beyond 20
    "minidiff.sample",
    "Euler, uniform t",
    "Heun, Karras",
    "DPM++2M, log-SNR",
    "DPM++3M corrected",
    "UniPC-2",
)
SEEDS = (0, 1, 2)
TARGET = ("Heun, Karras", 35)  # what few calls are compared with: three seeds
PHOTO_BUDGETS = (1, 2, 3, 4, 5, 6, 8, 10, 15, 20, 35, 50)
PHOTO_METHODS = (
    "minidiff.sample",
    "minidiff.sample, σ_data alone",
    "Euler, uniform t",
    "Heun, Karras",
    "DPM++2M, log-SNR",
    "DPM++2M, log-SNR, cut",
    "DPM++2M, uniform t",
    "UniPC-2",
    "DEIS tAB3",
    "Ancestral",
    "SA-Solver, τ = 1",
)
PHOTO_MANY = ("minidiff.sample", "Euler, uniform t", "Heun, Karras", "DPM++2M, log-SNR", "Ancestral")
PHOTO_REPEATED = (("minidiff.sample", 5), ("minidiff.sample", 8), TARGET)

Cell = tuple[str, int, int]  # sampler, budget, seed


def digit_cells() -> list[list[Cell]]:
    """The phases of the run: what the tables need first, what takes long last."""
    names = [contender.name for contender in contenders() if contender.spectrum]  # these networks know none
    return [
        [(name, calls, 0) for calls in BUDGETS if calls <= FEW for name in names] + [(*TARGET, seed) for seed in SEEDS],
        [(name, calls, 0) for calls in (10, 20) for name in names],
        [(name, calls, seed) for seed in SEEDS[1:] for calls in BUDGETS if calls <= FEW for name in REPEATED],
        [(name, calls, 0) for calls in BUDGETS if calls > 10 for name in MANY],
        [(name, LONG, 0) for name in LONG_METHODS],
    ]


def photo_cells() -> list[list[Cell]]:
    """The phases of the run."""
    return [
        [(name, calls, 0) for calls in PHOTO_BUDGETS if calls <= FEW for name in PHOTO_METHODS],
        [(name, calls, seed) for seed in SEEDS for name, calls in PHOTO_REPEATED],
        [(name, calls, 0) for calls in (10, 20) for name in PHOTO_METHODS],
        [(name, calls, 0) for calls in PHOTO_BUDGETS if calls > 10 for name in PHOTO_MANY],
    ]


def distinct(phases: Sequence[Sequence[Cell]], setting: Setting) -> list[list[tuple[Contender, int, int]]]:
    """The cells of each phase, each once, without those in which a smaller budget makes as many calls."""
    known = {contender.name: contender for contender in contenders()}
    seen: set[Cell] = set()
    kept: list[list[tuple[Contender, int, int]]] = []
    for cells in phases:
        kept.append([])
        for name, budget, seed in cells:
            made = (name, calls_made(known[name], setting.D, setting.shape, budget), seed)
            if made[1] and made not in seen:
                seen.add(made)
                kept[-1].append((known[name], budget, seed))
    return kept


def drawn(setting: Setting, contender: Contender, budget: int, seed: int) -> tuple[Tensor, dict[str, Any]]:
    """The samples of a cell, and what they cost: calls, CPU seconds, CPU milliseconds a call and sample."""
    generator = torch.Generator().manual_seed(1000 + seed)  # of the noise that a stochastic method adds
    parts = list(zip(setting.start_noise(seed).split(setting.part), setting.labels.split(setting.part), strict=True))
    with metrics.Timer() as timer:
        runs = [run(contender, setting.D.given(y), eps, budget, generator) for eps, y in parts]
    x, calls = torch.cat([made.x for made in runs]), runs[0].calls
    cost = {"calls": calls, "cpu_seconds": timer.cpu, "ms_per_call": 1e3 * timer.cpu / calls / len(x)}
    return x, {**cost, "from_one": runs[0].from_one}


def cell(setting: Setting, contender: Contender, budget: int, seed: int) -> dict[str, Any]:
    """One cell of the table: both errors, the judge's other figures, and the cost."""
    x, cost = drawn(setting, contender, budget, seed)
    row = {"sampler": contender.name, "budget": budget, "seed": seed, "stochastic": contender.stochastic, **cost}
    if not contender.stochastic:
        own = "one" if cost["from_one"] else "far"
        for key, start in (("path", own), ("path_from_one", "one")):
            reference = setting.reference(seed, start)
            errors = metrics.path_error(x[: len(reference)], reference, setting.D.sigma_data)
            row |= {f"{key}_rms": float(errors.square().mean().sqrt()), f"{key}_median": float(errors.median())}
    return row | setting.judged(x)


def kept(setting: Setting, contender: Contender, budget: int, seed: int) -> dict[str, Any]:
    """The stored cell, or a new one, written so that a file is there whole or not at all."""
    file = setting.folder / f"{slug(contender.name)}-{budget}-{seed}.json"
    if not file.exists():
        replace(file, json.dumps(cell(setting, contender, budget, seed)))
    return json.loads(file.read_text(encoding="utf-8"))


def slug(name: str) -> str:
    """A file name."""
    for letter, spelled in {"+": "p", "η": "eta", "τ": "tau", "σ": "sigma"}.items():
        name = name.replace(letter, spelled)
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def replace(file: Path, text: str) -> None:
    """Write a file atomically."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(".part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, file)


def beside(setting: Setting) -> dict[str, Any]:
    """What stands beside the cells: floors and ceilings, the check of the reference solutions, the bits."""
    return {
        "n": len(setting.labels),
        "paths": setting.paths,
        "far": FAR,
        "reference": setting.reference_check(),
        "real": setting.real(),
        "bits": setting.bits(),
    }


def stage(name: str, make: Callable[[Path], Setting], phases: Callable[[], list[list[Cell]]]) -> None:
    """Run the cells of a setting, and store `samplers-NAME` after each phase, `missing` the number of cells left."""
    torch.set_num_threads(1)
    setting = make(FOLDER / name)
    plan, rows, start = distinct(phases(), setting), [], time.perf_counter()
    total = sum(map(len, plan))
    for cells in plan:
        for contender, budget, seed in cells:
            row = kept(setting, contender, budget, seed)
            rows.append({key: value for key, value in row.items() if key != "sheet"})
            path = f"path {row['path_rms']:.3f}" if "path_rms" in row else "path     –"
            said = f"{contender.name:24} {row['calls']:4} calls, seed {seed}: {path}, FD {row['frechet']:7.2f}"
            print(f"{len(rows):4}/{total} {said}  ({time.perf_counter() - start:.0f} s)", flush=True)
        stored = {**beside(setting), "missing": total - len(rows), "rows": rows}
        results.save(f"samplers-{name}", stored, f"{COMMAND} {name}")


def sprites() -> None:
    """samplers-sprites: one picture a method and budget, from the cells of photos."""
    from minidiff.bench.sprites import stored

    results.save("samplers-sprites", stored(FOLDER / "photos"), f"{COMMAND} photos sprites")


STAGES = {
    "digits": lambda: stage("digits", digits, digit_cells),
    "photos": lambda: stage("photos", photos, photo_cells),
    "sprites": sprites,
}


def main(argv: Sequence[str]) -> None:
    """Run the stages named in argv, or all of them. Raises ValueError for an unknown name."""
    run_stages(STAGES, argv)
