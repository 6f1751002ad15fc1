"""Keeps an inline formula on one line with the bracket before it and the comma, full stop or suffix after it.

A browser may break a line on either side of a formula, so a line could begin with the comma that follows one.
"""

from __future__ import annotations

import re

from docutils import nodes
from sphinx.application import Sphinx

BEFORE = re.compile(r"[(\[“‘]+$")
AFTER = re.compile(r"[,.;:!?)\]”’]+(?:s\b)?|-\w+[,.;:!?)\]]*")


def halves(text: str) -> tuple[str, str]:
    """What stays of the text before a formula, and what is joined to the formula."""
    found = BEFORE.search(text)
    return (text[: found.start()], found.group()) if found else (text, "")


def rest(text: str) -> tuple[str, str]:
    """What is joined to the formula of the text after it, and what stays."""
    found = AFTER.match(text)
    return (found.group(), text[found.end() :]) if found else ("", text)


def join(app: Sphinx, doctree: nodes.document) -> None:
    """Wrap every inline formula that touches punctuation in a span of class `joined`, which is not broken."""
    for formula in list(doctree.findall(nodes.math)):
        parent, place = formula.parent, formula.parent.index(formula)
        before = parent[place - 1] if place else None
        after = parent[place + 1] if place + 1 < len(parent) else None
        kept, opening = halves(before.astext()) if isinstance(before, nodes.Text) else ("", "")
        closing, left = rest(after.astext()) if isinstance(after, nodes.Text) else ("", "")
        if not opening and not closing:
            continue
        if closing:
            parent[place + 1] = nodes.Text(left)
        if opening:
            parent[place - 1] = nodes.Text(kept)
        span = nodes.inline("", "", classes=["joined"])
        parent[place] = span
        span += [nodes.Text(opening), formula, nodes.Text(closing)]


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect the hook."""
    app.connect("doctree-read", join)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
