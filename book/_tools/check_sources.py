"""What the build itself would not notice, checked in the sources before anything is executed.

python -m book._tools.check_sources
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from book._tools import editions, ledger, nbclean
from book._tools.equations import Malformed, formulas
from book._tools.sources import CHECKED, LEDGER, ROOT, Book, read, tags

ALLOWED = Path(__file__).with_name("tex_allowed.txt")
SEQUENCE = re.compile(r"\\(?:begin\{[^}]*\}|[A-Za-z]+|.)", re.DOTALL)
DRAWS = re.compile(r"^[^#\n]*?\b(plot\.show|plt\.show|slider|explorer)\(", re.MULTILINE)
SETUP = """\
# Set-up: does nothing where minidiff is installed; Colab fetches and installs it.
import importlib.util

if importlib.util.find_spec("minidiff") is None:
    !git clone -q --depth 1 {url}
    %cd -q {name}/{folder}
    %pip install -q "{up}[book]\""""


def toc(book: Book) -> Iterator[str]:
    """Every page under book/ is in `_toc.yml`, once, and every entry of `_toc.yml` exists."""
    pages = {book.name(path.with_suffix("")) for path in book.pages}
    yield from (f"{page} is not in _toc.yml" for page in sorted(pages - set(book.toc) - {LEDGER}))
    for page in sorted(set(book.toc)):
        if page not in pages | {LEDGER}:
            yield f"_toc.yml lists {page}, and there is no such page"
        if book.toc.count(page) > 1:
            yield f"_toc.yml lists {page} {book.toc.count(page)} times"


def equations(book: Book) -> Iterator[str]:
    """Every display has a proper label and every equation a test: the ledger."""
    yield from ledger.check(book)[2]


def tex(book: Book) -> Iterator[str]:
    """Every TeX control sequence is in the committed list or a macro of `_config.yml`."""
    macros = book.sphinx["mathjax3_config"]["tex"]["macros"]
    allowed = {f"\\{name}" for name in macros} | set(ALLOWED.read_text(encoding="utf-8").split()) | {"\\ ", "\\\n"}
    try:
        for formula in formulas(book):
            for sequence in sorted(set(SEQUENCE.findall(formula.tex)) - allowed):
                yield f"{formula.where}: {sequence!r} is neither in {ALLOWED.name} nor a macro of _config.yml"
    except Malformed:
        return  # `equations` reports it


def clean(book: Book) -> Iterator[str]:
    """Notebooks are stored as nbclean writes them."""
    for path in nbclean.unclean(book.notebooks):
        yield f"{book.name(path)} is not clean: python -m book._tools.nbclean {book.name(path)}"


def setup_source(book: Book, path: Path) -> str:
    """The set-up cell that the notebook at `path` must have."""
    url = book.config["repository"]["url"]
    folder = path.parent.relative_to(book.root)
    up = "/".join([".."] * len(folder.parts))
    return SETUP.format(url=url, name=url.rsplit("/", 1)[1], folder=folder.as_posix(), up=up)


def setup(book: Book) -> Iterator[str]:
    """The first code cell of a notebook, and no other, is the set-up cell, the same everywhere but for the folder."""
    for path in book.notebooks:
        cells = [cell for cell in read(path).cells if cell.cell_type == "code"]
        if not cells or cells[0].source != setup_source(book, path) or tags(cells[0]) != ["setup", "hide-input"]:
            yield (
                f"{book.name(path)}: the first code cell must be tagged setup, hide-input and read\n"
                f"{setup_source(book, path)}"
            )
        if any("setup" in tags(cell) for cell in cells[1:]):
            yield f"{book.name(path)}: a second cell is tagged setup"


def launch(book: Book) -> Iterator[str]:
    """Colab and Binder open a notebook from the repository: it must be there, not ignored by git."""
    buttons, repository = book.config.get("launch_buttons", {}), book.config["repository"]
    if not buttons.get("colab_url") or not buttons.get("binderhub_url"):
        yield "_config.yml: launch_buttons needs colab_url and binderhub_url"
    inside = repository.get("path_to_book", "")
    if inside:
        yield f"_config.yml: path_to_book is {inside!r}, but pages are named from the repository's root"
    if (book.root / ".git").exists() and book.notebooks:
        command = ["git", "-C", str(book.root), "check-ignore", *map(str, book.notebooks)]
        ignored = subprocess.run(command, capture_output=True, text=True, check=False).stdout.split("\n")
        yield from (f"{path} is ignored by git, so no launch button can open it" for path in ignored if path)


def outputs(book: Book) -> Iterator[str]:
    """A cell whose output is compared has one: nbval passes in silence over one that has none."""
    for path in book.notebooks:
        for cell in read(path).cells:
            if CHECKED in tags(cell) and not cell.get("outputs"):
                yield (
                    f"{book.name(path)}, {cell.id} is tagged {CHECKED} and has no stored output: "
                    f"python -m book._tools.nbclean --execute {book.name(path)}"
                )


def drawings(book: Book) -> Iterator[str]:
    """A cell whose output is compared does not draw: a picture cannot be compared word by word."""
    for path in book.notebooks:
        for cell in read(path).cells:
            if CHECKED in tags(cell) and (drawn := DRAWS.search(cell.source)):
                yield f"{book.name(path)}, {cell.id} is tagged {CHECKED} and calls {drawn[1]}"


def exercises(book: Book) -> Iterator[str]:
    """Exercises have permanent ids, solutions and checks in the form that the editions need."""
    yield from editions.problems(book)


CHECKS: list[Callable[[Book], Iterator[str]]] = [
    toc,
    equations,
    tex,
    clean,
    setup,
    launch,
    outputs,
    drawings,
    exercises,
]


def problems(book: Book) -> list[str]:
    """Everything that is wrong with the sources."""
    return [problem for check in CHECKS for problem in check(book)]


if __name__ == "__main__":
    found = problems(Book(ROOT))
    print("\n".join(found) or f"sources in order: {', '.join(check.__name__ for check in CHECKS)}")
    sys.exit(bool(found))
