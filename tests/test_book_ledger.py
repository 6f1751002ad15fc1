"""The equation ledger: the real book is in order, and every way of being out of order is found."""

import pytest

from book._tools import equations, ledger
from book._tools.sources import ROOT, Book, Passage

CONFIG = """
repository: {url: https://github.com/a/b, branch: main}
parse: {myst_enable_extensions: [colon_fence, deflist, dollarmath]}
"""
PASSING = '@pytest.mark.equation("eq-one")\ndef test_one(): ...\n'


@pytest.fixture
def plant(tmp_path):
    """A book of one page and one test file."""

    def write(page, tests=PASSING, name="tests/equations/test_page.py"):
        (tmp_path / "_config.yml").write_text(CONFIG)
        (tmp_path / "_toc.yml").write_text("root: book/page\n")
        for path, text in (("book/page.md", page), (name, f"import pytest\n{tests}")):
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_text(text)
        return Book(tmp_path)

    return write


def test_the_book_is_in_order():
    displays, marks, wrong = ledger.check(Book(ROOT))
    assert wrong == []
    assert {mark.label for mark in marks} >= {display.label for display in displays if display.label.startswith("eq-")}


def test_the_book_has_equations():
    labels = [display.label for display in ledger.check(Book(ROOT))[0]]
    assert sum(label.startswith("eq-") for label in labels) >= 20
    assert len(labels) == len(set(labels))


def test_a_good_page_is_written(plant):
    book = plant("# A page\n\n$$x = 1$$ (eq-one)\n\n$$y$$ (def-y)\n")
    assert ledger.write(book) == []
    page = (book.root / f"{ledger.LEDGER}.md").read_text()
    assert "## [A page](/book/page)" in page
    assert "{eq}`eq-one`" in page
    assert "[`tests/equations/test_page.py::test_one`](https://github.com/a/b/blob/main/tests/equations" in page
    assert "1 equations and 1 definitions" in page


@pytest.mark.parametrize(
    ("page", "tests", "message"),
    [
        ("$$x$$", "", "a display without a label"),
        ("> $$x$$", "", "a display without a label"),
        ("- item\n\n  $$x$$", "", "a display without a label"),
        ("Term\n: $$x$$", "", "a display without a label"),
        ("```{note}\n$$x$$\n```", "", "a display without a label"),
        (":::{note}\n$$x$$\n:::", "", "a display without a label"),
        ("````{exercise} T\n:label: a-01\n```{note}\n$$x$$\n```\n````", "", "a display without a label"),
        ("```{math}\nx\n```", "", "a display without a label"),
        ("$$x$$ (one)", "", "'one' is no label of the form"),
        ("$$x$$ (eq-One_1)", "", "'eq-One_1' is no label of the form"),
        ("$$x$$ (eq-one)\n\n$$x$$ (eq-one)", PASSING, "the label eq-one is used 2 times"),
        ("$$x$$ (eq-one)\n\n```{math}\n:label: eq-one\nx\n```", PASSING, "the label eq-one is used 2 times"),
        ("$$x$$ (eq-two)\n\n$$x$$ (eq-one)", PASSING, 'no test is marked @pytest.mark.equation("eq-two")'),
        ("text", PASSING, "test_one is marked eq-one, and no display has that label"),
        ("text $$x$$ (eq-one) text", PASSING, "must stand in a paragraph of its own"),
        ("\\begin{align}\nx\n\\end{align}", "", "\\begin outside a formula"),
        ("the mean $\\mu and the variance", "", "\\mu outside a formula"),
        ("```{eval-rst}\n.. math:: x\n```", "", "a display in eval-rst"),
        ("$$x$$ (eq-one)", f"@pytest.mark.skip\n{PASSING}", "may be skipped or may fail"),
        ("$$x$$ (eq-one)", f"@pytest.mark.skipif(True, reason='')\n{PASSING}", "may be skipped or may fail"),
        ("$$x$$ (eq-one)", f"@pytest.mark.xfail\n{PASSING}", "may be skipped or may fail"),
        ("$$x$$ (eq-one)", f"label = 'x'\n@pytest.mark.equation(label)\n{PASSING}", "takes one label, written out"),
        ("$$x$$ (eq-one)", f'{PASSING}@pytest.mark.equation("eq-one")\ndef helper(): ...', "decorates no test"),
        ("$$x$$ (eq-one)", f'{PASSING}pytestmark = pytest.mark.equation("eq-one")', "decorates no test"),
    ],
)
def test_a_planted_fault_is_found(plant, page, tests, message):
    wrong = ledger.check(plant(page, tests))[2]
    assert wrong
    assert all(message in problem for problem in wrong)


def test_a_mark_that_pytest_does_not_collect_is_found(plant):
    wrong = ledger.check(plant("$$x$$ (eq-one)", name="tests/equations/ddpm.py"))[2]
    assert len(wrong) == 1
    assert "pytest does not collect this file" in wrong[0]


def test_nothing_is_written_when_something_is_wrong(plant):
    book = plant("$$x$$")
    assert ledger.write(book)
    assert not (book.root / f"{ledger.LEDGER}.md").exists()


def test_code_is_no_equation(plant):
    page = "`$$x$$`\n\n```\n$$x$$\n```\n\n```python\n$$x$$\n```\n\n    $$x$$\n\n```{code-block} tex\n$$x$$\n```\n"
    assert ledger.check(plant(page, ""))[2] == []


def test_marks_in_parameters_count(plant):
    tests = (
        '@pytest.mark.parametrize("x", [pytest.param(1, marks=pytest.mark.equation("eq-one"))])\ndef test_x(x): ...\n'
    )
    assert ledger.check(plant("$$x$$ (eq-one)", tests))[2] == []


def test_formulas_are_found_where_they_are():
    text = "a $b$ {math}`c`\n\n$$d$$ (eq-d)\n\n```{note} T $e$\n:class: tip\n\n$f$\n```\n\n"
    text += "```{math}\n:label: def-g\ng\n```"
    parser = equations.parser(["colon_fence", "dollarmath"])
    found = list(equations.in_text(parser, Passage("p", "w", text), text))
    assert [(formula.tex, formula.display, formula.label) for formula in found] == [
        ("b", False, None),
        ("c", False, None),
        ("d", True, "eq-d"),
        ("e", False, None),
        ("f", False, None),
        ("g", True, "def-g"),
    ]
