"""The equation ledger: each displayed equation of the book with the test that verifies it.

A display carries a label: `eq-…` has a test marked `@pytest.mark.equation("eq-…")`, `def-…` is a definition.

python -m book._tools.ledger     checks this and writes book/appendix/equation-ledger.md
"""

from __future__ import annotations

import ast
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import NamedTuple

from book._tools.equations import Formula, Malformed, formulas
from book._tools.sources import LEDGER, ROOT, Book

LABEL = re.compile(r"(eq|def)-[a-z0-9]+(-[a-z0-9]+)*")
# A test that may not run, or may fail, verifies nothing.
IDLE = {"skip", "skipif", "xfail"}
HEAD = """# Equation ledger

Every displayed equation of this book has a number and a label. A label that begins with `def-` introduces a symbol,
so there is nothing to verify. Every other equation has a test: a function that evaluates both sides as printed,
independently of each other, on random inputs, and compares. `make test` runs them all, and `make book` fails if an
equation has none. This page is written by the build. It lists {equations} equations and {definitions} definitions.
"""


class Mark(NamedTuple):
    """`@pytest.mark.equation(label)` on the test function `test` in `file` at `line`."""

    label: str
    file: str
    test: str
    line: int


def is_mark(node: ast.AST, names: set[str]) -> bool:
    """Whether the node is `pytest.mark.NAME` with NAME among `names`."""
    return (
        isinstance(node, ast.Attribute)
        and node.attr in names
        and isinstance(node.value, ast.Attribute)
        and node.value.attr == "mark"
    )


def marks(book: Book) -> tuple[list[Mark], list[str]]:
    """The equation marks in `tests/**.py`, read without running them, and what is wrong with them."""
    found, problems = [], []
    for path in sorted((book.root / "tests").rglob("*.py")):
        tree, file = ast.parse(path.read_text(encoding="utf-8")), book.name(path)
        placed: set[ast.AST] = set()
        for function in ast.walk(tree):
            if not isinstance(function, ast.FunctionDef) or not function.name.startswith("test_"):
                continue
            nodes = [node for decorator in function.decorator_list for node in ast.walk(decorator)]
            calls = [node for node in nodes if isinstance(node, ast.Call) and is_mark(node.func, {"equation"})]
            placed.update(call.func for call in calls)
            for call in calls:
                constants = [argument.value for argument in call.args if isinstance(argument, ast.Constant)]
                if len(constants) != 1 or len(call.args) != 1 or not isinstance(constants[0], str):
                    problems.append(f"{file}:{call.lineno}: the mark takes one label, written out as a string")
                    continue
                found.append(Mark(constants[0], file, function.name, function.lineno))
                if any(is_mark(node, IDLE) for node in nodes):
                    problems.append(f"{file}:{call.lineno}: the test of {constants[0]} may be skipped or may fail")
                if not path.name.startswith("test_"):
                    problems.append(f"{file}:{call.lineno}: pytest does not collect this file, so nothing is verified")
        for node in ast.walk(tree):
            if is_mark(node, {"equation"}) and node not in placed:
                problems.append(f"{file}:{node.lineno}: an equation mark that decorates no test function")
    return found, problems


def problems(displays: list[Formula], found: list[Mark]) -> list[str]:
    """Displays without a label or test, labels used twice or badly formed, marks of equations that do not exist."""

    def each() -> Iterator[str]:
        labelled = Counter(display.label for display in displays if display.label)
        marked = {mark.label for mark in found}
        for display in displays:
            if display.label is None:
                yield f"{display.where}: a display without a label: {display.tex[:60]!r}"
            elif not LABEL.fullmatch(display.label):
                yield f"{display.where}: {display.label!r} is no label of the form eq-some-name or def-some-name"
            elif labelled[display.label] > 1:
                yield f"{display.where}: the label {display.label} is used {labelled[display.label]} times"
            elif display.label.startswith("eq-") and display.label not in marked:
                yield f'{display.where}: no test is marked @pytest.mark.equation("{display.label}")'
        for mark in found:
            if mark.label not in labelled:
                yield f"{mark.file}:{mark.line}: {mark.test} is marked {mark.label}, and no display has that label"

    return list(each())


def check(book: Book) -> tuple[list[Formula], list[Mark], list[str]]:
    """The book's displays, the marks of its tests, and everything that is wrong with either."""
    found, wrong = marks(book)
    try:
        displays = [formula for formula in formulas(book) if formula.display]
    except Malformed as error:
        return [], found, [*wrong, str(error)]
    return displays, found, [*wrong, *problems(displays, found)]


def page(book: Book, displays: list[Formula], found: list[Mark]) -> str:
    """The ledger as a MyST page: for each chapter in the order of the book, its equations and their tests."""
    tests, chapters = defaultdict(list), defaultdict(list)
    for mark in found:
        tests[mark.label].append(mark)
    for display in displays:
        chapters[display.page].append(display)
    titles, repository = book.titles, book.config["repository"]
    source = f"{repository['url']}/blob/{repository['branch']}"
    definitions = sum(display.label.startswith("def-") for display in displays)
    lines = [HEAD.format(equations=len(displays) - definitions, definitions=definitions)]
    for chapter in sorted(chapters, key=book.toc.index):
        lines += [f"## [{titles[chapter]}](/{chapter})", ""]
        for display in chapters[chapter]:
            tex = " ".join(display.tex.split())
            lines += [f"{{eq}}`{display.label}` · `{display.label}`", f": $\\displaystyle {tex}$"]
            lines += [
                f": [`{mark.file}::{mark.test}`]({source}/{mark.file}#L{mark.line})" for mark in tests[display.label]
            ]
            lines += ["" if tests[display.label] else ": definition\n"]
    return "\n".join(lines)


def write(book: Book) -> list[str]:
    """Write the page if everything is in order; returns the problems."""
    displays, found, wrong = check(book)
    if not wrong:
        path, text = book.root / f"{LEDGER}.md", page(book, displays, found)
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_text(encoding="utf-8") != text:  # else the build reads it again for nothing
            path.write_text(text, encoding="utf-8")
    return wrong


if __name__ == "__main__":
    trouble = write(Book(ROOT))
    print("\n".join(trouble) or f"{LEDGER}.md")
    sys.exit(bool(trouble))
