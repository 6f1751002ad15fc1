"""Docstrings are plain text: formulas such as |x0 − x̂0|², (B,*D) or x_t in them are shown as they stand.

Sphinx reads docstrings as reStructuredText, where `|`, `*` and a trailing `_` are markup. Here they are characters;
`code` in single or double backticks is code; a paragraph keeps its indentation; napoleon's sections (Args:) still work.
"""

from __future__ import annotations

import re

from sphinx.application import Sphinx

CODE = re.compile(r"(``.+?``|(?<!:)`[^`\n]+`)")
SECTION = re.compile(r"(Args|Arguments|Attributes|Examples?|Notes?|Raises|References|Returns|Yields):")
ITEM = re.compile(r"\s*([-+*]|\d+\.)\s")


def plain(text: str) -> str:
    """One line with its markup characters escaped, except in code."""
    parts = CODE.split(text)
    for number, part in enumerate(parts):
        if number % 2:
            parts[number] = f"``{part.strip('`')}``"
        else:
            parts[number] = re.sub(r"([\\*|]|_(?!\w)|`)", r"\\\1", part)
    return "".join(parts)


def paragraphs(lines: list[str]) -> list[str]:
    """The lines, escaped, with an empty line wherever the indentation changes, so that no change is an error."""
    shown: list[str] = []
    for line in lines:
        before = shown[-1] if shown else ""
        changed = indentation(line) != indentation(before)
        if line.strip() and before.strip() and changed and not SECTION.fullmatch(before.strip()):
            shown.append("")
        bullet = ITEM.match(line)
        start = bullet.end() if bullet else 0
        shown.append(line[:start] + plain(line[start:]))
    return shown


def indentation(line: str) -> int:
    """The number of leading spaces."""
    return len(line) - len(line.lstrip(" "))


def process(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Rewrite a docstring in place, before napoleon reads it."""
    lines[:] = paragraphs(lines)


def skip(app: Sphinx, what: str, name: str, obj: object, skip: bool, options: object) -> bool | None:
    """Leave out the fields of named tuples, of which Python itself says only "Alias for field number 0"."""
    return True if (getattr(obj, "__doc__", None) or "").startswith("Alias for field number") else None


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect the hooks; the first comes before napoleon's (priority 500)."""
    app.connect("autodoc-process-docstring", process, priority=400)
    app.connect("autodoc-skip-member", skip)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
