"""The real book: its sources are in order, its README's example runs, its reference is complete."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from book._tools import check_sources
from book._tools.sources import CHECKED, ROOT, Book, read, tags

BOOK = Book(ROOT)


@pytest.mark.parametrize("check", check_sources.CHECKS, ids=lambda check: check.__name__)
def test_the_sources_are_in_order(check):
    assert list(check(BOOK)) == []


def test_checked_cells_exist():
    assert any(CHECKED in tags(cell) for path in BOOK.notebooks for cell in read(path).cells)


def test_the_allowed_control_sequences_are_written_once():
    words = check_sources.ALLOWED.read_text().split()
    assert len(words) == len(set(words))
    assert all(word.startswith("\\") for word in words)


def readme_example():
    return re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[1]


def test_the_example_of_the_readme_runs(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", readme_example()], capture_output=True, text=True, cwd=tmp_path, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_the_example_of_the_readme_has_ten_lines():
    assert len([line for line in readme_example().split("\n") if line.strip()]) <= 10


def test_the_readme_names_the_commands_and_the_licences():
    text = (ROOT / "README.md").read_text()
    for word in ("make book", "make test", "MIT", "CC BY 4.0", "make serve", "download.pytorch.org/whl/cpu"):
        assert word in text


def test_ci_calls_the_commands_of_the_readme():
    script = (ROOT / ".ci" / "run").read_text()
    steps = [script.index(f"make {target}") for target in ("test", "lint", "book")]
    assert steps == sorted(steps)
    assert script.index("tests/test_site.py") > steps[-1]


def test_the_reference_lists_every_public_module():
    package = Path(ROOT) / "minidiff"
    tops = {path.stem for path in package.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    pages = "".join(path.read_text() for path in (ROOT / "book/appendix/api").glob("*.md"))
    listed = re.findall(r"automodule:: minidiff\.(\w+)", pages)
    assert {name for name in tops if not name.startswith("_")} == set(listed)


def test_every_public_name_has_a_docstring_in_the_reference():
    for path in (ROOT / "minidiff").rglob("*.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                assert ast.get_docstring(node), f"{path.name}: {node.name}"


def test_pages_cite_what_the_bibliography_has():
    keys = re.findall(r"^@\w+\{([^,]+),", (ROOT / "book/references.bib").read_text(), re.MULTILINE)
    assert len(keys) == len(set(keys))
    cited = {
        key.strip()
        for passage in BOOK.passages()
        for group in re.findall(r"\{cite(?::\w+)?\}`([^`]+)`", passage.text)
        for key in group.split(",")
    }
    assert cited <= set(keys)
