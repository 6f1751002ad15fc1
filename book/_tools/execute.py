"""Executes the notebooks in parallel into the cache that the build reads; the first failure stops everything.

python -m book._tools.execute
"""

from __future__ import annotations

import multiprocessing
import os
import re
import resource
import sys
import time
from pathlib import Path
from typing import NamedTuple

import nbformat
from jupyter_cache import get_cache
from jupyter_cache.base import CacheBundleIn
from jupyter_cache.executors.utils import single_nb_execution

from book._tools.sources import ROOT, Book, read

TIMEOUT = 300  # seconds a cell may take
# One thread a process; the page shows frames made beforehand instead of widgets that need a kernel.
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "MINIDIFF_STATIC": "1"}


class Executed(NamedTuple):
    """A notebook with its outputs, what went wrong (None: nothing), and what it cost."""

    path: Path
    notebook: nbformat.NotebookNode
    trouble: str | None
    wall: float
    cpu: float


def run(path: Path) -> Executed:
    """Execute one notebook in its own folder, in a process made for it."""
    os.environ.update(ENVIRONMENT)
    notebook, start = read(path), time.perf_counter()
    result = single_nb_execution(
        notebook,
        cwd=str(path.parent),
        timeout=TIMEOUT,
        allow_errors=False,
        meta_override=False,
        extra_arguments=["--log-level=ERROR"],
    )
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)  # the kernel and what it started
    wall = time.perf_counter() - start
    trouble = re.sub(r"\x1b\[[0-9;]*m", "", str(result.err)) if result.err else None
    return Executed(path, notebook, trouble, wall, spent.ru_utime + spent.ru_stime)


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def execute(book: Book, processes: int | None = None) -> bool:
    """Execute the notebooks that the cache does not have; returns whether all succeeded."""
    folder = book.root / "_build" / ".jupyter_cache"
    folder.mkdir(parents=True, exist_ok=True)
    cache = get_cache(str(folder))

    def cached(path: Path) -> bool:
        try:
            return bool(cache.match_cache_notebook(read(path)))
        except KeyError:
            return False

    todo = [path for path in book.notebooks if not cached(path)]
    print(f"notebooks: {len(book.notebooks)}, of which {len(todo)} to execute", flush=True)
    if not todo:
        return True
    context = multiprocessing.get_context("spawn")
    processes = min(processes or cores(), len(todo))
    with context.Pool(processes, maxtasksperchild=1) as pool:  # leaving it terminates the others
        for done in pool.imap_unordered(run, todo, chunksize=1):
            state = "FAILED" if done.trouble else "done"
            print(f"  {book.name(done.path)}: {state}, {done.cpu:.0f} CPU-s in {done.wall:.0f} s", flush=True)
            if done.trouble:
                print(done.trouble, flush=True)
                return False
            bundle = CacheBundleIn(done.notebook, str(done.path), data={"execution_seconds": done.wall})
            cache.cache_notebook_bundle(bundle, check_validity=False, overwrite=True)
    return True


if __name__ == "__main__":
    sys.exit(not execute(Book(ROOT)))
