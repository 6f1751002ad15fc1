"""What better spent calls are worth on digits: parallel sweeps, late starts, selection (about 7 CPU-minutes).

python -m minidiff.bench calls [parallel] [late] [selection]      (default: all three)

All with the zoo's `digits-unet`. Finished rows are kept in `build/calls` and reused; delete the folder to start over.
"""

from __future__ import annotations

from collections.abc import Sequence

from minidiff.bench import run_stages
from minidiff.bench.calls import late, parallel, selection

STAGES = {"parallel": parallel.measure, "late": late.measure, "selection": selection.measure}


def main(argv: Sequence[str]) -> None:
    """Run the stages that argv names, or all of them. Raises ValueError for an unknown name."""
    run_stages(STAGES, argv)
