"""`make book`: check the sources, write the ledger, execute the notebooks, build the site into _build/html.

python -m book._tools.build
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from book._tools import check_sources, ledger
from book._tools.execute import ENVIRONMENT, execute
from book._tools.sources import ROOT, Book

# What the outputs of the notebooks depend on, the notebooks themselves apart: the cache knows those.
CODE = ("minidiff", "book/results", "requirements.txt", "constraints.txt")
# What every page depends on.
LOOKS = ("_config.yml", "book/_ext", "book/_static", "constraints.txt")


def digest(root: Path, names: Iterable[str]) -> str:
    """A hash over the names and contents of the files at or under `names`; bytecode does not count."""
    total = hashlib.sha256()
    for name in names:
        start = root / name
        for path in sorted(start.rglob("*")) if start.is_dir() else [start]:
            if path.is_file() and "__pycache__" not in path.parts:
                content = hashlib.sha256(path.read_bytes()).hexdigest()
                total.update(f"{path.relative_to(root).as_posix()} {content}\n".encode())
    return total.hexdigest()


def keep_only_fresh(root: Path) -> None:
    """Remove `_build` if the outputs may be stale, the pages alone if only their looks changed."""
    build = root / "_build"
    for names, stale in ((CODE, [build]), (LOOKS, [build / "html", build / ".doctrees"])):
        key = build / f".key-{names[0].strip('_').partition('.')[0]}"
        current = digest(root, names)
        if not key.is_file() or key.read_text() != current:
            for folder in stale:
                shutil.rmtree(folder, ignore_errors=True)
            build.mkdir(exist_ok=True)
            key.write_text(current)


def sphinx(book: Book) -> list[str]:
    """Run Jupyter Book with every warning an error; returns what is wrong, and prints it as it appears."""
    clean = not (book.root / "_build" / ".doctrees").exists()
    jupyter_book = str(Path(sys.executable).with_name("jupyter-book"))
    command = [jupyter_book, "build", str(book.root), "-W", "-n", "--keep-going"]
    used, executed = 0, 0
    with (
        (book.root / "_build" / "book.log").open("w", encoding="utf-8") as log,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=os.environ | ENVIRONMENT
        ) as process,
    ):
        for line in process.stdout:
            log.write(line)
            plain = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", line)
            used += "Using cached notebook" in plain
            executed += "Executing notebook using" in plain
            if process.poll() is None and re.search(r"\b(WARNING|ERROR|[A-Z]\w*Error)\b", plain):
                print(plain.rstrip(), flush=True)
    wrong = []
    if process.returncode:
        wrong.append(f"the build failed (exit code {process.returncode}); all it said is in _build/book.log")
    elif executed or used > len(book.notebooks) or (clean and used != len(book.notebooks)):
        wrong.append(
            f"{len(book.notebooks)} notebooks, yet the build used the cache {used} times and executed {executed}"
        )
    if wrong:  # else the next run would find the pages up to date, and pass
        shutil.rmtree(book.root / "_build" / ".doctrees", ignore_errors=True)
    return wrong


def build(book: Book) -> list[str]:
    """All steps, stopping at the first that fails; returns what is wrong."""

    def step(text: str) -> None:
        print(f"[{time.perf_counter() - start:5.1f} s] {text}", flush=True)

    start = time.perf_counter()
    step("checking the sources")
    wrong = check_sources.problems(book) or ledger.write(book)
    if wrong:
        return wrong
    keep_only_fresh(book.root)
    step("executing notebooks")
    if not execute(book):
        return ["a notebook failed"]
    step("building the site")
    wrong = sphinx(book)
    if not wrong:
        step("the book is in _build/html; make serve shows it at http://127.0.0.1:8000")
    return wrong


if __name__ == "__main__":
    trouble = build(Book(ROOT))
    sys.exit("\n".join(trouble) or None)
