"""minidiff: the package under the book *Efficient Diffusion Models: Derived, Measured, Tested*.

Submodules are imported on first use, so that `import minidiff` loads torch alone.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from minidiff.samplers import sample as sample

__version__ = "0.1.0"
_MODULES = (
    "affine_law",
    "analytic",
    "apps",
    "bench",
    "bound",
    "bridge",
    "checks",
    "cld",
    "clusters",
    "conditional",
    "continuous_bound",
    "data",
    "denoiser",
    "families",
    "fokker_planck",
    "grids",
    "guidance",
    "inverse",
    "learned_schedule",
    "likelihood",
    "linear",
    "local",
    "memorisation",
    "metrics",
    "nets",
    "objectives",
    "ode",
    "plot",
    "process",
    "samplers",
    "sparse",
    "times",
    "train",
    "uncertainty",
    "widgets",
    "zoo",
)
__all__ = [*_MODULES, "sample"]


def __getattr__(name: str) -> ModuleType | Any:  # noqa: ANN401
    if name == "sample":
        return importlib.import_module("minidiff.samplers").sample
    if name in _MODULES:
        return importlib.import_module(f"minidiff.{name}")
    raise AttributeError(f"module 'minidiff' has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
