"""The two editions of the notebooks, written outside `book/`: for students without solutions, for instructors with.

An exercise is a run of cells: its statement `{exercise}` with a permanent `:label:`, `{solution-start}`, the solution's
cells (tag `solution`), the check (tag `check`), `{solution-end}`. In a solution's code, what stands between
`### BEGIN SOLUTION` and `### END SOLUTION` is the answer and the rest is given.

python -m book._tools.editions student|instructor
"""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import nbformat
from nbformat import NotebookNode

from book._tools.nbclean import clean
from book._tools.sources import ROOT, Book, read, tags

ID = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*-\d\d")
ANSWER = re.compile(
    r"^(?P<indent>[ \t]*)### BEGIN SOLUTION[ \t]*\n.*?^[ \t]*### END SOLUTION[ \t]*$", re.MULTILINE | re.DOTALL
)
STATEMENT = re.compile(r"^(?:`{3,}|:{3,})\{exercise\}[^\n]*\n((?::[^\n]*\n)*)", re.MULTILINE)
LABEL = re.compile(r"^:label:[ \t]*(\S*)", re.MULTILINE)
GATE = re.compile(r"\A(?P<fence>`{3,}|:{3,})\{solution-(?P<kind>start|end)\}(?:[ \t]+(?P<label>\S+))?")
CHECK = re.compile(r"""\bcheck\(\s*["']([^"']+)["']""")
NOTE = {
    "student": "This edition leaves the answers to you: replace each `raise NotImplementedError` and run its check.",
    "instructor": "This edition has every solution. `make student` in the repository writes the one without.",
}


class Exercise(NamedTuple):
    """An exercise of a notebook: its id and the cells of its solution and its checks, in order."""

    label: str
    solution: list[NotebookNode]
    checks: list[NotebookNode]


def gate(cell: NotebookNode) -> tuple[str, str | None] | None:
    """("start", label) or ("end", None) where the cell opens or closes a solution."""
    match = GATE.match(cell.source) if cell.cell_type == "markdown" else None
    return (match["kind"], match["label"]) if match else None


def exercises(notebook: NotebookNode) -> list[Exercise]:
    """The exercises in order; raises ValueError that says what is wrong with their cells."""
    stated: list[str] = []
    found: list[Exercise] = []
    inside: Exercise | None = None
    for cell in notebook.cells:
        for options in STATEMENT.findall(cell.source) if cell.cell_type == "markdown" else []:
            label = "".join(LABEL.findall(options))
            if not ID.fullmatch(label):
                raise ValueError(f"{cell.id}: the exercise's label is {label!r}, not of the form chapter-01")
            stated.append(label)
        opens = gate(cell)
        if opens and opens[0] == "start":
            if inside is not None or opens[1] not in stated:
                raise ValueError(f"{cell.id}: a solution to {opens[1]} inside another or before its exercise")
            inside = Exercise(opens[1], [], [])
        elif opens:
            if inside is None:
                raise ValueError(f"{cell.id}: solution-end without solution-start")
            found.append(inside)
            inside = None
        elif inside is None and {"solution", "check"} & set(tags(cell)):
            raise ValueError(f"{cell.id}: tagged {tags(cell)} outside solution-start … solution-end")
        elif inside is not None:
            kind = {"solution", "check"} & set(tags(cell))
            if len(kind) != 1:
                raise ValueError(f"{cell.id}: a cell in the solution to {inside.label} is tagged solution or check")
            (inside.solution if "solution" in kind else inside.checks).append(cell)
    if inside is not None:
        raise ValueError(f"the solution to {inside.label} has no solution-end")
    if [exercise.label for exercise in found] != stated:
        raise ValueError(f"exercises {stated}, solutions to {[exercise.label for exercise in found]}")
    for exercise in found:
        code = [cell.source for cell in exercise.solution if cell.cell_type == "code"]
        if not code or not all(ANSWER.search(source) for source in code):
            raise ValueError(f"{exercise.label}: each code cell of a solution marks its answer with ### BEGIN SOLUTION")
        if exercise.label not in {name for cell in exercise.checks for name in CHECK.findall(cell.source)}:
            raise ValueError(f"{exercise.label}: no cell tagged check calls check({exercise.label!r}, …)")
    return found


def problems(book: Book) -> Iterator[str]:
    """What is wrong with the exercises of the book's notebooks."""
    seen: set[str] = set()
    for path in book.notebooks:
        try:
            labels = [exercise.label for exercise in exercises(read(path))]
        except ValueError as error:
            yield f"{book.name(path)}: {error}"
            continue
        for label in labels:
            if label in seen:
                yield f"{book.name(path)}: the id {label} is taken"
            seen.add(label)


def without_answers(source: str) -> str:
    """The code with each answer replaced by `raise NotImplementedError` at its indentation."""
    return ANSWER.sub(r"\g<indent>raise NotImplementedError", source)


def student(notebook: NotebookNode) -> NotebookNode:
    """The notebook with the statements, the given code and the checks, and nothing of the solutions."""
    exercises(notebook)  # raises where the cells are not as they must be
    cells = []
    for cell in notebook.cells:
        solution = "solution" in tags(cell)
        if gate(cell) or (solution and cell.cell_type == "markdown"):
            continue
        if solution:
            cell.source = without_answers(cell.source)
            cell.metadata.tags = ["exercise" if tag == "solution" else tag for tag in tags(cell)]
        cells.append(cell)
    notebook.cells = cells
    return notebook


def write(book: Book, edition: str) -> Path:
    """Write `_editions/EDITION`: the notebooks, and the stored results that they read; returns the folder."""
    folder = book.root / "_editions" / edition
    shutil.rmtree(folder, ignore_errors=True)
    for path in book.notebooks:
        notebook = read(path)
        if edition == "student":
            notebook = student(notebook)
        target = folder / path.relative_to(book.root)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(clean(nbformat.writes(notebook)), encoding="utf-8")
    results = book.root / "book" / "results"
    if results.is_dir():
        shutil.copytree(results, folder / "book" / "results")
    heading = f"# {book.config['title']}\n\n{NOTE[edition]}\n"
    (folder / "README.md").write_text(f"{heading}\nThe notebooks need `minidiff` with its `book` extra.\n")
    return folder


if __name__ == "__main__":
    if sys.argv[1:] not in (["student"], ["instructor"]):
        sys.exit("usage: python -m book._tools.editions student|instructor")
    trouble = list(problems(Book(ROOT)))
    if trouble:
        sys.exit("\n".join(trouble))
    print(f"written to {write(Book(ROOT), sys.argv[1]).relative_to(ROOT)}")
