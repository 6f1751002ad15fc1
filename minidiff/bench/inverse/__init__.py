"""What the chapter on inverse problems stores: posteriors, restorations, edits, structured noise (about 9 CPU-minutes).

python -m minidiff.bench inverse [posterior] [network] [edit] [structured]      (default: all)

Finished rows are kept in `build/inverse` and reused; delete the folder to start over.
"""

from __future__ import annotations

from collections.abc import Sequence

from minidiff.bench import run_stages
from minidiff.bench.inverse import edit, methods, network, posterior, structured, tasks

__all__ = ["STAGES", "edit", "main", "methods", "network", "posterior", "structured", "tasks"]

STAGES = {
    "posterior": posterior.measure,
    "network": network.measure,
    "edit": edit.measure,
    "structured": structured.measure,
}


def main(argv: Sequence[str]) -> None:
    """Run the stages that argv names, or all of them. Raises ValueError for an unknown name."""
    run_stages(STAGES, argv)
