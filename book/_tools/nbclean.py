"""Notebooks as they are stored: no outputs but the text of cells tagged `nbval-check-output`, stable ids, no noise.

python -m book._tools.nbclean [--check | --execute] [NOTEBOOK ...]     (default: every notebook of the book)
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

from book._tools.sources import CHECKED, Book, tags

METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
CELL_METADATA = ("mystnb", "tags")


def text_outputs(cell: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    """What the cell printed, as one stream, and its value as plain text."""
    printed = "".join(out.text for out in cell.outputs if out.output_type == "stream" and out.name == "stdout")
    outputs = [nbformat.v4.new_output("stream", name="stdout", text=printed)] if printed else []
    for out in cell.outputs:
        if out.output_type == "execute_result" and "text/plain" in out.data:
            value = {"text/plain": out.data["text/plain"]}
            outputs.append(nbformat.v4.new_output("execute_result", value, execution_count=1))
    return outputs


def clean(source: str) -> str:
    """The notebook's JSON text in the form in which it is stored; cleaning twice changes nothing."""
    notebook = nbformat.reads(source, as_version=4)
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number:03d}"
        cell.metadata = {key: cell.metadata[key] for key in CELL_METADATA if cell.metadata.get(key)}
        cell.source = "\n".join(line.rstrip() for line in cell.source.strip("\n").split("\n"))
        if cell.cell_type == "code":
            cell.outputs = text_outputs(cell) if CHECKED in tags(cell) else []
            cell.execution_count = 1 if cell.outputs else None
    notebook.metadata = METADATA
    notebook.nbformat_minor = 5
    return nbformat.writes(nbformat.from_dict(notebook)) + "\n"


def unclean(paths: list[Path]) -> list[Path]:
    """The notebooks that are not stored as `clean` writes them."""
    return [path for path in paths if (text := path.read_text(encoding="utf-8")) != clean(text)]


def execute(path: Path) -> None:
    """Run the notebook in its folder and keep the outputs in the file (for the cells whose text is compared)."""
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(path.parent)}}).execute()
    nbformat.write(notebook, path)


def main(argv: list[str]) -> int:
    """Clean the notebooks in place, or with --check only report; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--check", action="store_true", help="change nothing; fail if anything would change")
    mode.add_argument("--execute", action="store_true", help="run first, so that tagged cells get their outputs")
    parser.add_argument("notebooks", nargs="*", type=Path)
    arguments = parser.parse_args(argv)
    paths = arguments.notebooks or Book().notebooks
    if arguments.execute:
        for path in paths:
            execute(path)
    changed = unclean(paths)
    for path in changed:
        if arguments.check:
            print(f"{path}: not clean; run python -m book._tools.nbclean {path}")
        else:
            path.write_text(clean(path.read_text(encoding="utf-8")), encoding="utf-8")
            print(f"{path}: cleaned")
    return int(arguments.check and bool(changed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
