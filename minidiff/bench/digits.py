"""The generated digits: the five-minute chapter's network, the shipped one, and 1000 calls (about 30 CPU-minutes).

python -m minidiff.bench digits [live] [unet] [calls]      (default: all three)

Each figure is explained at `minidiff.zoo.measure.quality`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from minidiff import zoo
from minidiff.bench import results, run_stages
from minidiff.denoiser import Denoiser
from minidiff.zoo import measure

CHAPTER = "start/five-minutes.ipynb"
TAG = "live"  # of the chapter's cells that train its network
SEEDS = (0, 1, 2)
CALLS = (5, 10, 20, 50, 1000)


def train_live(seed: int) -> tuple[Denoiser, float]:
    """The network that the chapter trains, by the chapter's own cells, and the CPU seconds of its training."""
    path = results.folder().parent / CHAPTER
    namespace: dict[str, Any] = {"seed": seed}
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        if TAG in cell["metadata"].get("tags", []):
            exec(compile("".join(cell["source"]), f"{path.name}, {cell['id']}", "exec"), namespace)
    return namespace["D"], namespace["training"].cpu


def live() -> None:
    """digits-live: the chapter's network trained from three seeds, 1797 samples in 20 calls each."""
    judge, runs, measured = zoo.load("digits-classifier"), [], {}
    for seed in SEEDS:
        D, seconds = train_live(seed)
        measured = measure.quality(D, judge, calls=(20,), seeds=(seed,))
        runs.append({"training CPU-seconds": round(seconds, 1), **measured["samples"][0]})
        print(runs[-1], flush=True)
    results.save("digits-live", measured | {"samples": runs}, "python -m minidiff.bench digits live")


def unet() -> None:
    """digits-unet: the shipped network, three sampling seeds at 10 to 35 calls."""
    measured = measure.quality(zoo.load("digits-unet"), zoo.load("digits-classifier"))
    results.save("digits-unet", measured, "python -m minidiff.bench digits unet")


def calls() -> None:
    """digits-calls: the chapter's network, seed 0, from 5 calls to 1000."""
    D, _ = train_live(0)
    measured = measure.quality(D, zoo.load("digits-classifier"), calls=CALLS, seeds=(0,))
    results.save("digits-calls", measured, "python -m minidiff.bench digits calls")


STAGES = {"live": live, "unet": unet, "calls": calls}


def main(argv: Sequence[str]) -> None:
    """Run the stages named in argv, or all of them. Raises ValueError for an unknown name."""
    run_stages(STAGES, argv)
