"""The tools that check, clean, build and edit the book, on small planted books."""

import json
import shutil
from typing import NamedTuple

import nbformat
import pytest
from docutils import nodes
from docutils.utils import new_document

from book._ext import joined_math, plain_docstrings, solution_markers
from book._tools import build, check_sources, editions, nbclean
from book._tools.execute import execute
from book._tools.sources import Book, read

CONFIG = """
title: A book
repository: {url: https://github.com/a/b, branch: main, path_to_book: ""}
launch_buttons: {colab_url: https://colab.research.google.com, binderhub_url: https://mybinder.org}
parse: {myst_enable_extensions: [colon_fence, deflist, dollarmath]}
sphinx: {config: {mathjax3_config: {tex: {macros: {E: x}}}}}
"""
STATEMENT = "````{exercise} Add one\n:label: add-01\n\nWrite it.\n````"
START = "````{solution-start} add-01\n:class: dropdown\n````"
END = "```{solution-end}\n```"
ANSWER = "def f(x):\n    ### BEGIN SOLUTION\n    secret = 1\n    return x + secret\n    ### END SOLUTION"


def markdown(source, *tags):
    return nbformat.v4.new_markdown_cell(source, metadata={"tags": list(tags)} if tags else {})


def code(source, *tags):
    return nbformat.v4.new_code_cell(source, metadata={"tags": list(tags)} if tags else {})


def exercise(label="add-01", answer=ANSWER, check='check("add-01", f)'):
    return [
        markdown(STATEMENT.replace("add-01", label)),
        markdown(START),
        markdown("The secret is addition.", "solution"),
        code(answer, "solution"),
        code(check, "check"),
        markdown(END),
    ]


@pytest.fixture
def book(tmp_path):
    """A good book of one notebook with an equation and an exercise."""
    book = Book(tmp_path)
    (tmp_path / "_config.yml").write_text(CONFIG)
    (tmp_path / "_toc.yml").write_text("root: book/a/one\n")
    (tmp_path / "book" / "a").mkdir(parents=True)
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_one.py").write_text('@pytest.mark.equation("eq-one")\ndef test_one(): ...\n')
    store(book, [markdown("# One\n\n$$\\E = 1$$ (eq-one)"), setup(book), *exercise()])
    return book


def setup(book):
    return code(check_sources.setup_source(book, book.root / "book/a/one.ipynb"), "setup", "hide-input")


def store(book, cells):
    """Write the notebook book/a/one.ipynb as nbclean stores it."""
    notebook = nbformat.v4.new_notebook(cells=cells)
    (book.root / "book/a/one.ipynb").write_text(nbclean.clean(nbformat.writes(notebook)))


def test_a_good_book_has_no_problems(book):
    assert check_sources.problems(book) == []


def test_the_set_up_cell_is_the_agreed_one(book):
    assert check_sources.setup_source(book, book.root / "book/a/one.ipynb").split("\n") == [
        "# Set-up: does nothing where minidiff is installed; Colab fetches and installs it.",
        "import importlib.util",
        "",
        'if importlib.util.find_spec("minidiff") is None:',
        "    !git clone -q --depth 1 https://github.com/a/b",
        "    %cd -q b/book/a",
        '    %pip install -q "../..[book]"',
    ]


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ([code("import importlib", "setup", "hide-input")], "the first code cell must be tagged setup, hide-input"),
        ([code("x = 1"), "setup"], "the first code cell must be tagged setup, hide-input"),
        (["setup", "setup"], "a second cell is tagged setup"),
        (["setup", markdown(r"$\bm x$")], r"'\\bm' is neither in tex_allowed.txt nor a macro of _config.yml"),
        (["setup", markdown(r"$\begin{align}x\end{align}$")], "align"),
        (["setup", markdown("$$x$$")], "a display without a label"),
        (["setup", code("print(1)", "nbval-check-output")], "is tagged nbval-check-output and has no stored output"),
        (["setup", code("print(1)\nplot.show(fig, alt=a)", "nbval-check-output")], "and calls plot.show"),
        (["setup", code("if x:\n    slider(f, [1], label=b)", "nbval-check-output")], "and calls slider"),
        (["setup", code("widgets.explorer(f, a, b)", "nbval-check-output")], "and calls explorer"),
        (["setup", *exercise(label="1-01")], "the exercise's label is '1-01', not of the form chapter-01"),
        (["setup", *exercise(), *exercise()], "the id add-01 is taken"),
        (["setup", *exercise(label="add-02")], "a solution to add-01 inside another or before its exercise"),
        (["setup", *exercise(check="print(f)")], "no cell tagged check calls check('add-01', …)"),
        (["setup", *exercise(answer="def f(x):\n    return x + 1")], "marks its answer with ### BEGIN SOLUTION"),
        (["setup", *exercise()[:-1]], "the solution to add-01 has no solution-end"),
        (["setup", *exercise()[:1]], "exercises ['add-01'], solutions to []"),
        (["setup", code(ANSWER, "solution")], "outside solution-start"),
        (["setup", *exercise()[:3], code("y = 2"), *exercise()[3:]], "is tagged solution or check"),
    ],
)
def test_a_planted_fault_is_found(book, cells, message):
    store(book, [markdown("$$x$$ (eq-one)"), *(setup(book) if cell == "setup" else cell for cell in cells)])
    assert any(message in problem for problem in check_sources.problems(book))


@pytest.mark.parametrize(
    ("source", "tag"),
    [("plot.show(fig, alt=a)", "hide-input"), ("print(1)  # plot.show(fig) is below", "nbval-check-output")],
)
def test_only_checked_cells_may_not_draw(book, source, tag):
    store(book, [setup(book), code(source, tag)])
    assert not any("and calls" in problem for problem in check_sources.problems(book))


@pytest.mark.parametrize(
    ("path", "text", "message"),
    [
        ("book/a/two.md", "# Two", "book/a/two is not in _toc.yml"),
        (
            "_toc.yml",
            "root: book/a/one\nchapters: [{file: book/gone}]",
            "_toc.yml lists book/gone, and there is no",
        ),
        ("_toc.yml", "root: book/a/one\nchapters: [{file: book/a/one}]", "_toc.yml lists book/a/one 2 times"),
        ("tests/test_one.py", "", "no test is marked"),
        ("_config.yml", CONFIG.replace("https://github.com/a/b", "https://github.com/a/c"), "the first code cell must"),
        ("_config.yml", CONFIG.replace("colab_url", "colab"), "launch_buttons needs colab_url"),
        ("_config.yml", CONFIG.replace('path_to_book: ""', "path_to_book: book"), "path_to_book is 'book'"),
    ],
)
def test_a_fault_in_the_files_around_is_found(book, path, text, message):
    (book.root / path).write_text(text)
    assert any(message in problem for problem in check_sources.problems(Book(book.root)))


def test_a_notebook_that_git_ignores_is_found(book, monkeypatch):
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    check_sources.subprocess.run(["git", "init", "-q", str(book.root)], check=True)
    assert check_sources.problems(book) == []
    (book.root / ".gitignore").write_text("*.ipynb\n")
    assert any("is ignored by git" in problem for problem in check_sources.problems(book))


def test_an_unclean_notebook_is_found(book):
    path = book.notebooks[0]
    notebook = read(path)
    notebook.cells[1].execution_count = 7
    nbformat.write(notebook, path)
    assert any("is not clean" in problem for problem in check_sources.problems(book))
    assert nbclean.main([str(path)]) == 0
    assert check_sources.problems(book) == []


def test_cleaning_keeps_the_text_of_checked_cells_alone():
    image = nbformat.v4.new_output("display_data", {"image/png": "aGk="})
    value = nbformat.v4.new_output("execute_result", {"text/plain": "2", "text/html": "<b>2</b>"}, execution_count=9)
    streams = [nbformat.v4.new_output("stream", name="stdout", text=text) for text in ("a\n", "b\n")]
    noise = nbformat.v4.new_output("stream", name="stderr", text="warning")
    cells = [code("x", "nbval-check-output"), code("y")]
    for cell in cells:
        cell.outputs, cell.execution_count = [streams[0], image, noise, streams[1], value], 9
        cell.metadata["execution"] = {"iopub.execute_input": "now"}
    cleaned = nbclean.clean(nbformat.writes(nbformat.v4.new_notebook(cells=cells, metadata={"widgets": {}})))
    first, second = nbformat.reads(cleaned, 4).cells
    assert [out.get("text") or out.data for out in first.outputs] == ["a\nb\n", {"text/plain": "2"}]
    assert (first.id, first.execution_count, first.metadata) == ("cell-000", 1, {"tags": ["nbval-check-output"]})
    assert (second.outputs, second.execution_count) == ([], None)
    assert json.loads(cleaned)["metadata"] == nbclean.METADATA
    assert nbclean.clean(cleaned) == cleaned


def test_the_student_edition_has_no_answers(book):
    notebook = read(editions.write(book, "student") / "book/a/one.ipynb")
    text = nbformat.writes(notebook)
    assert "secret" not in text
    assert "SOLUTION" not in text
    assert "solution" not in text
    assert [cell.source for cell in notebook.cells if cell.cell_type == "code"][1:] == [
        "def f(x):\n    raise NotImplementedError",
        'check("add-01", f)',
    ]


def test_the_instructor_edition_is_whole(book):
    (book.root / "book/results").mkdir()
    (book.root / "book/results/x.json").write_text("{}")
    folder = editions.write(book, "instructor")
    assert (folder / "book/a/one.ipynb").read_text() == book.notebooks[0].read_text()
    assert (folder / "book/results/x.json").exists()


@pytest.mark.parametrize(
    ("source", "left"),
    [
        (ANSWER, "def f(x):\n    raise NotImplementedError"),
        ("### BEGIN SOLUTION\nx = 1\n### END SOLUTION\ny = x", "raise NotImplementedError\ny = x"),
        ("a\n  ### BEGIN SOLUTION\n  b\n  ### END SOLUTION\nc\n### BEGIN SOLUTION\nd\n### END SOLUTION",
         "a\n  raise NotImplementedError\nc\nraise NotImplementedError"),
    ],
)  # fmt: skip
def test_answers_are_taken_out(source, left):
    assert editions.without_answers(source) == left


def test_the_page_shows_no_markers():
    assert solution_markers.without_markers(ANSWER) == "def f(x):\n    secret = 1\n    return x + secret"
    assert solution_markers.without_markers("### BEGIN HIDDEN TESTS\nx\n### END HIDDEN TESTS") == "x"
    assert solution_markers.without_markers("x = 1\n") == "x = 1\n"


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("the norm |x0 - x|² of (B,*D)", r"the norm \|x0 - x\|² of (B,\*D)"),
        ("x_t and x_", r"x_t and x\_"),
        ("`f(*x)` and ``g_``", "``f(*x)`` and ``g_``"),
        ("- item *", r"- item \*"),
    ],
)
def test_docstrings_are_shown_as_they_stand(written, shown):
    assert plain_docstrings.paragraphs([written]) == [shown]


def test_a_change_of_indentation_begins_a_paragraph():
    assert plain_docstrings.paragraphs(["a", "  b", "c"]) == ["a", "", "  b", "", "c"]
    assert plain_docstrings.paragraphs(["Args:", "    x: y"]) == ["Args:", "    x: y"]


def test_fields_of_named_tuples_are_not_listed():
    class Pair(NamedTuple):
        """Two numbers."""

        first: int

    assert plain_docstrings.skip(None, "class", "Pair.first", Pair.first, False, {}) is True
    assert plain_docstrings.skip(None, "class", "Pair", Pair, False, {}) is None


def test_changed_code_makes_outputs_stale_and_changed_looks_the_pages(tmp_path):
    for name in ("minidiff/a.py", "book/results/r.json", "requirements.txt", "constraints.txt", "_config.yml"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")

    def survivors(change=None):
        for name in ("html", ".doctrees", ".jupyter_cache"):
            (tmp_path / "_build" / name).mkdir(parents=True, exist_ok=True)
        if change:
            (tmp_path / change).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / change).write_text("y")
        build.keep_only_fresh(tmp_path)
        return sorted(path.name for path in (tmp_path / "_build").iterdir() if path.is_dir())

    everything = [".doctrees", ".jupyter_cache", "html"]
    assert survivors() == []
    assert survivors() == everything
    assert survivors("minidiff/__pycache__/a.pyc") == everything
    assert survivors("minidiff/a.py") == []
    assert survivors("book/results/r.json") == []
    assert survivors("minidiff/zoo/new.safetensors") == []
    assert survivors("constraints.txt") == []
    assert survivors("_config.yml") == [".jupyter_cache"]
    assert survivors() == everything


def test_execution_fills_the_cache_once_and_stops_at_a_failure(book, capfd):
    store(book, [code("import os\nprint(os.getcwd(), os.environ['OMP_NUM_THREADS'])")])
    assert execute(book, processes=1)
    assert execute(book, processes=1)
    told = capfd.readouterr().out
    assert "of which 1 to execute" in told
    assert "book/a/one.ipynb: done" in told
    assert "of which 0 to execute" in told
    store(book, [code("1 / 0")])
    assert not execute(book, processes=1)
    told = capfd.readouterr().out
    assert "book/a/one.ipynb: FAILED" in told
    assert "ZeroDivisionError" in told
    shutil.rmtree(book.root / "_build")


@pytest.mark.parametrize(
    ("before", "after", "opening", "closing"),
    [
        ("at ", ", and", "", ","),
        ("(", "), so", "(", "),"),
        ("the ", "-th step", "", "-th"),
        ("a (", " b)", "(", ""),
        ("all (of ", " (and)", "", ""),
        ("2", "2", "", ""),
    ],
)
def test_a_formula_is_joined_to_its_punctuation(before, after, opening, closing):
    document, paragraph = new_document("page"), nodes.paragraph()
    formulas = nodes.math("", "x"), nodes.math("", "y")
    paragraph += [nodes.Text(before), formulas[0], nodes.Text(after), formulas[1]]
    document += paragraph
    joined_math.join(None, document)
    assert paragraph.astext() == f"{before}x{after}y"
    spans = list(paragraph.findall(nodes.inline))
    assert [span.astext() for span in spans] == ([f"{opening}x{closing}"] if opening or closing else [])
    assert all(span["classes"] == ["joined"] for span in spans)
    assert list(paragraph.findall(nodes.math)) == list(formulas)


def test_the_bracket_before_a_second_formula_is_its_own():
    document, paragraph = new_document("page"), nodes.paragraph()
    paragraph += [nodes.math("", "x"), nodes.Text(", ("), nodes.math("", "y"), nodes.Text(").")]
    document += paragraph
    joined_math.join(None, document)
    assert [span.astext() for span in paragraph.findall(nodes.inline)] == ["x,", "(y)."]
