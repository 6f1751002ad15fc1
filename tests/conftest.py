"""For every test: no network, in this process and in all that it starts, and one thread, as in `make test`."""

import os
import sys
from pathlib import Path

import pytest

GUARD = str(Path(__file__).parent / "_guard")

sys.path.insert(0, GUARD)
import sitecustomize  # noqa: E402  (`make test` has it imported already; a bare `pytest` has not)

if Path(sitecustomize.__file__).parent != Path(GUARD):  # a distribution's own module of that name came first
    del sys.modules["sitecustomize"]
    import sitecustomize

sitecustomize.install()
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [GUARD, os.environ.get("PYTHONPATH", "")]))
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture
def checkout(monkeypatch, tmp_path):
    """An empty checkout of the book, which is the current directory: what a benchmark stores goes there."""
    (tmp_path / "book" / "results").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path
