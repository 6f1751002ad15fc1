"""The state of a run as one safetensors file, with its numbers and settings as JSON in the header. No pickle."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from minidiff.train.ema import EMA


def _tensors(params: list[Tensor], optimizer: torch.optim.Optimizer, ema: EMA | None) -> dict[str, Tensor]:
    """Every tensor of the state by name, the live ones (not copies)."""
    tensors = {}
    for i, p in enumerate(params):
        tensors[f"parameter.{i}"] = p.detach()
        tensors |= {f"optimizer.{i}.{name}": value for name, value in optimizer.state[p].items()}
    if ema is not None:
        tensors |= {f"ema.{name}": value for name, value in ema.module.state_dict().items()}
        tensors |= {f"buffer.{name}": value for name, value in ema.source.named_buffers()}
    return tensors


def save(
    path: Path,
    step: int,
    settings: dict[str, Any],
    params: list[Tensor],
    optimizer: torch.optim.Optimizer,
    ema: EMA | None,
) -> None:
    """Write the state after `step` steps: a reader sees the old file or the new one, never a half."""
    from safetensors.torch import save_file

    header = {"step": step, "settings": settings, "ema_updates": ema.updates if ema else 0}
    tensors = {name: value.clone().contiguous() for name, value in _tensors(params, optimizer, ema).items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    save_file(tensors, part, metadata={"minidiff": json.dumps(header)})
    os.replace(part, path)


@torch.no_grad()
def load(
    path: Path, settings: dict[str, Any], params: list[Tensor], optimizer: torch.optim.Optimizer, ema: EMA | None
) -> int:
    """Put a saved state back in place; returns its number of steps.

    Raises ValueError for a file that cannot be read or belongs to another run, and says what differs.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})["minidiff"])
            stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, KeyError, OSError) as error:
        raise ValueError(f"the checkpoint {path} cannot be read ({error}): delete it to start over") from error
    differing = [
        f"{name} = {value} there, {settings[name]} here"
        for name, value in header["settings"].items()
        if value != settings[name]
    ]
    if differing:
        raise ValueError(f"the checkpoint {path} is of another run: {'; '.join(differing)}")

    for i, p in enumerate(params):
        prefix = f"optimizer.{i}."
        optimizer.state[p] = {
            name.removeprefix(prefix): value.to(value.device if name.endswith(".step") else p.device)
            for name, value in stored.items()
            if name.startswith(prefix)
        }
    current = _tensors(params, optimizer, ema)
    shapes = {name: tuple(value.shape) for name, value in stored.items()}
    if shapes != (expected := {name: tuple(value.shape) for name, value in current.items()}):
        differing = [name for name in shapes.keys() | expected.keys() if shapes.get(name) != expected.get(name)]
        name = min(differing, key=lambda name: (not name.startswith("parameter"), name))
        raise ValueError(
            f"the checkpoint {path} is of another network: "
            f"{name} is {shapes.get(name)} there, {expected.get(name)} here"
        )
    for name, value in current.items():
        value.copy_(stored[name])
    if ema is not None:
        ema.updates = header["ema_updates"]
    return header["step"]
