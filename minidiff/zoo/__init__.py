"""Small pretrained models that ship with the package, each with its configuration and the command that retrains it.

`NAME.safetensors` holds the weights as float16, `NAME.json` the architecture, the training settings, the command, what
was measured, and the checksum. `python -m minidiff.zoo` (`make zoo`) trains them from nothing on a CPU.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from minidiff import nets, process
from minidiff.denoiser import Denoiser

FOLDER = Path(__file__).parent


def names() -> list[str]:
    """The names that `load` accepts, sorted."""
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def config(name: str) -> dict[str, Any]:
    """The configuration of a model: architecture, training settings, command, seeds, checksum and measured figures.

    Raises ValueError for an unknown name, listing the known ones, and for a damaged file.
    """
    if name not in names():
        raise ValueError(f"no model is called {name!r}; there are: {', '.join(names()) or 'none'}")
    try:
        return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(_damaged(f"{name}.json", f"is no JSON ({error})")) from error


def load(name: str) -> nn.Module:
    """A pretrained model in evaluation mode, float32, on the CPU.

    "digits-classifier": a `nets.Classifier` of 8×8 digits in [−1, 1]; its `.features(x)` (B, 64) are those of the
    book's Fréchet distances. "digits-unet": a `Denoiser` of the same images, conditional on the digit (label 10 or y =
    None: any digit). "photos-classifier" and "photos-unet": the same for 32×32 colour patches of photographs,
    conditional on the photograph (label 9 or y = None: any).

    Raises ValueError for an unknown name or a file whose checksum is wrong, FileNotFoundError for missing weights.
    """
    from safetensors.torch import load as tensors_of

    settings = config(name)
    path = FOLDER / f"{name}.safetensors"
    if not path.is_file():
        raise FileNotFoundError(_damaged(path.name, "is missing"))
    content = path.read_bytes()
    if (found := hashlib.sha256(content).hexdigest()) != settings.get("sha256"):
        raise ValueError(_damaged(path.name, f"({len(content)} bytes) has the wrong checksum {found[:12]}…"))
    model = build(settings)
    model.load_state_dict({key: value.to(torch.float32) for key, value in tensors_of(content).items()})
    return model.eval()


def build(settings: dict[str, Any]) -> nn.Module:
    """The untrained model of a configuration: its network, inside a `Denoiser` if it names a process."""
    net = _made(nets, settings["network"])
    if "process" not in settings:
        return net
    of = _made(process, settings["process"])
    return Denoiser(net, of, settings["predicts"], settings["sigma_data"], angle=settings.get("angle"))


def _made(module: Any, of: dict[str, Any]) -> Any:  # noqa: ANN401 (a module; an instance of any of its classes)
    return getattr(module, of["class"])(**of["arguments"])


def _damaged(file: str, what: str) -> str:
    return f"the zoo's {file} {what}: install minidiff again, or retrain with `python -m minidiff.zoo`"
