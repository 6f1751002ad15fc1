"""The command `python -m minidiff.bench [NAME [arguments]]`."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

from minidiff import bench

USAGE = """usage: python -m minidiff.bench NAME [arguments of the benchmark]

Peers are measured beside ours when they are installed: pip install "minidiff[interop]" brings diffusers;
smalldiffusion pins an old torch, so it goes in by hand: pip install --no-deps smalldiffusion

benchmarks:"""


def purpose(name: str) -> str:
    """The first docstring line of a benchmark, read without importing it (a peer may be missing)."""
    spec = importlib.util.find_spec(f"{bench.__name__}.{name}")
    source = Path(spec.origin).read_text(encoding="utf-8") if spec and spec.origin else ""
    return (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]


def main(argv: Sequence[str]) -> int:
    """Run the benchmark argv[0] with the arguments that follow, or list the benchmarks; returns the exit code."""
    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE)
        for name in bench.names():
            print(f"  {name:<12} {purpose(name)}")
        return 0
    name, *arguments = argv
    if name not in bench.names():
        known = ", ".join(bench.names()) or "none yet"
        print(f"no benchmark called {name!r}; there are: {known}", file=sys.stderr)
        return 2
    importlib.import_module(f"{bench.__name__}.{name}").main(arguments)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
