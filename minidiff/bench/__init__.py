"""Benchmarks: `python -m minidiff.bench NAME` measures ours and every installed peer in one run.

Each benchmark is a module of this package with `main(argv)`; its first docstring line is what the list of
benchmarks prints.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Mapping, Sequence

# Modules of this package that benchmarks use and that are none themselves.
SUPPORT = frozenset(
    {"contenders", "contexts", "judging", "pictures", "problems", "reference", "results", "resume", "short", "sprites"}
)


def names() -> list[str]:
    """The names that `python -m minidiff.bench NAME` accepts, sorted."""
    modules = (module.name for module in pkgutil.iter_modules(__path__))
    return sorted(name for name in modules if not name.startswith("_") and name not in SUPPORT)


def run_stages(stages: Mapping[str, Callable[[], None]], argv: Sequence[str]) -> None:
    """Run the stages of a benchmark that argv names, or all of them. Raises ValueError for an unknown name."""
    for name in argv:
        if name not in stages:
            raise ValueError(f"stages are {list(stages)}, got {name!r}")
    for name in argv or stages:
        stages[name]()
