"""Benchmarks: `python -m minidiff.bench NAME` measures ours and every installed peer in one run.

Each benchmark is a module of this package with `main(argv)`; its first docstring line is what the list of
benchmarks prints.
"""

from __future__ import annotations

import pkgutil

SUPPORT = frozenset({"results"})  # modules of this package that benchmarks use and that are none themselves


def names() -> list[str]:
    """The names that `python -m minidiff.bench NAME` accepts, sorted."""
    modules = (module.name for module in pkgutil.iter_modules(__path__))
    return sorted(name for name in modules if not name.startswith("_") and name not in SUPPORT)
