"""Finds every formula of the book with the parser that builds it: displays with their labels, and inline ones."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from myst_parser.config.main import MdParserConfig
from myst_parser.parsers.mdit import create_md_parser

from book._tools.sources import Book, Passage

# Directives whose body is not MyST text: what looks like a formula in there is code.
CODE = {"code", "code-block", "code-cell", "sourcecode", "literalinclude", "raw", "eval-rst", "bibliography", "toctree"}
DIRECTIVE = re.compile(r"\{(?P<name>[^\s}]+)\}\s*(?P<argument>.*)", re.DOTALL)
OPTIONS = re.compile(r"\A(?:---\n(?P<yaml>.*?)\n---\n|(?P<colons>(?::[\w-]+:[^\n]*\n?)+))", re.DOTALL)
LABEL = re.compile(r"^:?label:\s*(\S+)", re.MULTILINE)


class Formula(NamedTuple):
    """A formula, whether it is displayed, its label (None without), and where it stands."""

    tex: str
    display: bool
    label: str | None
    page: str
    where: str


class Malformed(ValueError):
    """A formula that the book would not show as its author meant."""


def parser(extensions: Iterable[str]) -> MarkdownIt:
    """The MyST parser with the extensions that the book is built with."""
    return create_md_parser(MdParserConfig(enable_extensions=set(extensions)), RendererHTML)


def formulas(book: Book) -> Iterator[Formula]:
    """Every formula in the book's Markdown pages, Markdown cells and captions, in reading order of each page."""
    markdown = parser(book.config["parse"]["myst_enable_extensions"])
    for passage in book.passages():
        yield from in_text(markdown, passage, passage.text)


def in_text(markdown: MarkdownIt, passage: Passage, text: str) -> Iterator[Formula]:
    """The formulas of one text, those in its directives included, those in its code not."""

    def formula(tex: str, display: bool, label: str | None = None) -> Formula:
        return Formula(tex.strip(), display, label or None, passage.page, passage.where)

    for token in markdown.parse(text):
        if token.type in {"math_block", "math_block_label"}:
            yield formula(token.content, True, token.info)
        elif token.type == "amsmath":
            yield formula(token.content, True)
        elif token.type in {"fence", "colon_fence"}:
            directive = DIRECTIVE.fullmatch(token.info.strip())
            if directive is None or directive["name"] in CODE:
                if directive and directive["name"] == "eval-rst" and re.search(r"\.\. math::", token.content):
                    raise Malformed(f"{passage.where}: a display in eval-rst; write it with dollars")
                continue
            options = OPTIONS.match(token.content)
            body = token.content[options.end() :] if options else token.content
            if directive["name"] == "math":
                label = LABEL.search(options.group()) if options else None
                yield formula(directive["argument"] + body, True, label and label[1])
                continue
            yield from in_text(markdown, passage, directive["argument"])
            yield from in_text(markdown, passage, body)
        elif token.type == "inline":
            for tex in inline(token.children or [], passage):
                yield formula(tex, False)


def inline(children: list[Token], passage: Passage) -> Iterator[str]:
    """The TeX of the formulas in a line. TeX outside a formula is an error, and so is `$$ … $$` amid text, which MyST
    would show as a formula between two dollars.
    """
    for before, token in zip([None, *children], children, strict=False):
        if token.type == "text" and (stray := re.search(r"\\[A-Za-z]+", token.content)):
            raise Malformed(f"{passage.where}: {stray.group()} outside a formula")
        if token.type.startswith("math_inline"):
            if before is not None and before.type == "text" and before.content.endswith("$"):
                raise Malformed(f"{passage.where}: $${token.content}$$ must stand in a paragraph of its own")
            yield token.content
        elif token.type == "myst_role" and token.meta["name"] == "math":
            yield token.content
