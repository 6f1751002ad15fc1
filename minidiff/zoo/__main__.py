"""The command `python -m minidiff.zoo [NAME ...]`: retrain the models of the zoo from nothing, on a CPU.

An interrupted run is taken up where it stopped (its state lies under build/zoo until it is done).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from minidiff import zoo
from minidiff.zoo import measure
from minidiff.zoo.recipes import RECIPES, train_model

LARGEST = 3_000_000  # bytes of a file of weights


def main(argv: Sequence[str]) -> None:
    """Train, measure and write each model named in argv, or all of them."""
    parser = argparse.ArgumentParser(prog="python -m minidiff.zoo", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(RECIPES)}; default: all")
    parser.add_argument("--into", type=Path, default=zoo.FOLDER, help="folder of the finished files (the package's)")
    parser.add_argument("--state", type=Path, default=Path("build/zoo"), help="folder of the unfinished runs")
    parser.add_argument("--steps", type=int, default=None, help="fewer steps than the recipe's, for a trial")
    chosen = parser.parse_args(argv)
    unknown = [name for name in chosen.names if name not in RECIPES]
    if unknown:
        parser.error(f"there are {', '.join(RECIPES)}, got {', '.join(unknown)}")
    for name in chosen.names or RECIPES:
        make(name, chosen.into, chosen.state, chosen.steps)


def make(name: str, into: Path, state: Path, steps: int | None = None) -> dict[str, Any]:
    """Train every seed of a model, write the first one's weights and the configuration; returns the configuration."""
    recipe = RECIPES[name]
    models, unfinished = {}, []
    for seed in recipe["seeds"]:
        unfinished.append(state / f"{name}-{seed}.safetensors")
        print(f"{name}, seed {seed}", flush=True)
        models[seed] = train_model(name, seed, unfinished[-1], steps)
    shipped = models[recipe["seeds"][0]]
    content = half_precision(shipped)
    settings = recipe | {
        "shipped seed": recipe["seeds"][0],
        "command": f"python -m minidiff.zoo {name}",
        "torch": torch.__version__,
        "parameters": sum(p.numel() for p in shipped.parameters()),
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    if steps is not None:
        settings["training"] = recipe["training"] | {"steps": steps}
    settings["measured"] = measured(name, models)
    into.mkdir(parents=True, exist_ok=True)
    replace(into / f"{name}.safetensors", content)
    replace(into / f"{name}.json", (json.dumps(settings, indent=1, ensure_ascii=False) + "\n").encode())
    for path in unfinished:
        path.unlink()
    print(f"{name}: {len(content) / 1e6:.2f} MB in {into}", flush=True)
    return settings


def measured(name: str, models: dict[int, nn.Module]) -> dict[str, Any]:
    """What the model reaches: the denoisers' first seed by its samples, the classifiers' seeds by their accuracy."""
    shipped = next(iter(models.values()))
    if name == "digits-unet":
        return measure.quality(shipped, zoo.load("digits-classifier"), measure.CALLS, measure.SEEDS)
    if name == "photos-unet":
        return measure.patch_quality(shipped, zoo.load("photos-classifier"), measure.CALLS, measure.SEEDS)
    accuracy = measure.accuracy if name == "digits-classifier" else measure.patch_accuracy
    return {"held-out accuracy by seed": {str(seed): accuracy(model) for seed, model in models.items()}}


def half_precision(model: nn.Module) -> bytes:
    """Round the parameters of the model to float16, in place, and return the file that holds them.

    So what is measured afterwards is what is shipped. Raises ValueError if a weight overflows or the file is above 3
    MB.
    """
    from safetensors.torch import save

    tensors = {name: value.to(torch.float16).contiguous() for name, value in model.state_dict().items()}
    overflown = [name for name, value in tensors.items() if not bool(torch.isfinite(value).all())]
    if overflown:
        raise ValueError(f"these weights do not fit in float16: {', '.join(overflown)}")
    content = save(tensors)
    if len(content) > LARGEST:
        raise ValueError(f"a file of the zoo must have at most {LARGEST} bytes, got {len(content)}")
    model.load_state_dict({name: value.float() for name, value in tensors.items()})
    return content


def replace(path: Path, content: bytes) -> None:
    """Write a file so that a reader sees the old one or the new one, never a half."""
    part = path.with_name(f"{path.name}.part")
    part.write_bytes(content)
    os.replace(part, path)


if __name__ == "__main__":
    main(sys.argv[1:])
