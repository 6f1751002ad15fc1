"""The exercises of the book: solutions pass their checks, stubs and wrong answers do not, and no answer leaks."""

import ast
import time

import pytest
from test_checks import WRONG

from book._tools import editions
from book._tools.sources import ROOT, Book, read, tags
from minidiff import checks

BOOK = Book(ROOT)
SECONDS = 2  # a check may take


def code(path, edition):
    """For each exercise of a notebook its id, the code of its answer in that edition, and its check."""
    for exercise in editions.exercises(read(path)):
        answer = "\n".join(cell.source for cell in exercise.solution if cell.cell_type == "code")
        if edition == "student":
            answer = editions.without_answers(answer)
        yield exercise.label, answer, "\n".join(cell.source for cell in exercise.checks)


def namespace(path):
    """What the notebook imports: all that a solution may use besides earlier solutions."""
    names = {"__name__": "chapter"}
    for cell in read(path).cells:
        if cell.cell_type == "code" and not {"setup", "solution", "check"} & set(tags(cell)):
            for node in ast.walk(ast.parse(cell.source)):
                if isinstance(node, ast.Import | ast.ImportFrom):
                    exec(ast.unparse(node), names)
    return names


NOTEBOOKS = [path for path in BOOK.notebooks if editions.exercises(read(path))]
named = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def test_every_chapter_has_exercises():
    assert all(path in NOTEBOOKS for path in BOOK.notebooks)


def test_exercises_have_checks_and_wrong_answers():
    stated = [exercise.label for path in NOTEBOOKS for exercise in editions.exercises(read(path))]
    assert sorted(stated) == checks.known()
    assert {label for label in WRONG if WRONG[label]} >= set(stated)


@named
def test_solutions_pass_their_checks_in_time(path, monkeypatch, capsys):
    monkeypatch.chdir(path.parent)
    names = namespace(path)
    for label, answer, check in code(path, "instructor"):
        exec(compile(answer, label, "exec"), names)
        start = time.process_time()
        exec(compile(check, label, "exec"), names)
        assert time.process_time() - start < SECONDS, label
        assert f"{label}: all properties hold" in capsys.readouterr().out


@named
def test_stubs_of_the_student_edition_fail(path, monkeypatch):
    monkeypatch.chdir(path.parent)
    names = namespace(path)
    for label, answer, check in code(path, "student"):
        exec(compile(answer, label, "exec"), names)
        with pytest.raises(checks.CheckFailed, match=rf"{label}: .*NotImplementedError"):
            exec(compile(check, label, "exec"), names)


@named
def test_no_line_of_a_solution_is_in_the_student_edition(path):
    notebook = read(path)
    removed = set()
    for exercise in editions.exercises(notebook):
        for cell in exercise.solution:
            given = editions.without_answers(cell.source) if cell.cell_type == "code" else ""
            removed |= lines(cell.source) - lines(given)
    elsewhere = {line for cell in notebook.cells if "solution" not in tags(cell) for line in lines(cell.source)}
    left = {line for cell in editions.student(read(path)).cells for line in lines(cell.source)}
    assert removed
    assert not (removed - elsewhere) & left
    assert not any("SOLUTION" in line or "solution-" in line for line in left)


def lines(source):
    """The lines of a text, without indentation, that say something."""
    return {line.strip() for line in source.split("\n") if line.strip()}
