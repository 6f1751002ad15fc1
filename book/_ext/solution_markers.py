"""Drops nbgrader's marker lines (`### BEGIN SOLUTION`, …) from the code that the pages show."""

from __future__ import annotations

import re

from docutils import nodes
from sphinx.application import Sphinx

MARKER = re.compile(r"^[ \t]*### (?:BEGIN|END) (?:SOLUTION|HIDDEN TESTS)[ \t]*\n?", re.MULTILINE)


def without_markers(code: str) -> str:
    """The code without the lines that are markers."""
    return MARKER.sub("", code).rstrip("\n") if MARKER.search(code) else code


def drop(app: Sphinx, doctree: nodes.document) -> None:
    """Rewrite every code block that has markers."""
    for block in doctree.findall(nodes.literal_block):
        code = block.astext()
        shown = without_markers(code)
        if shown != code:
            block.children = [nodes.Text(shown)]
            block.rawsource = shown


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect the hook."""
    app.connect("doctree-read", drop)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
