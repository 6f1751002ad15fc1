"""What moves on a page, and how it shows code: a slider through figures, an explorer of a table of pictures, and the
source of a function.

The book's build sets MINIDIFF_STATIC=1: slider and explorer are then drawn beforehand, in plain HTML that needs no
kernel, no network and no library. Without it, under a live kernel, they are ipywidgets that draw on demand.
"""

from __future__ import annotations

import ast
import html
import inspect
import io
import json
import os
import textwrap
from base64 import b64encode
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minidiff.extras import require
from minidiff.plot import close, image_tag, png

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 100
PALETTE = 128

# The range input carries the accessible name, its aria-valuetext the value; everything is found from the
# input itself, without ids, so that any number of sliders can share a page.
SLIDER = """<div class="minidiff-slider" style="margin:1em 0">
<label style="display:flex;gap:0.75em;align-items:center;max-width:7in">
<span>{label}</span>
<input type="range" min="0" max="{last}" step="1" value="0" autocomplete="off" aria-valuetext="{value}"
 style="flex:1" oninput="{script}">
<output style="min-width:5em">{value}</output>
</label>
{image}
<script type="application/json">{frames}</script>
</div>"""
SCRIPT = """
const box = this.closest('.minidiff-slider');
const [value, alt, source] = JSON.parse(box.querySelector('script').textContent)[this.value];
Object.assign(box.querySelector('img'), {alt: alt, src: source});
this.setAttribute('aria-valuetext', box.querySelector('output').value = value);
""".strip().replace("\n", " ")

# One picture holds all cells, and the box through which it is seen moves.
EXPLORER = """<div class="minidiff-explorer" style="margin:1em 0">
<div style="display:flex;flex-wrap:wrap;gap:0.75em 1.5em;align-items:center;max-width:7in">
<label>{row_label} <select autocomplete="off" onchange="{script}">{options}</select></label>
<label style="flex:1;display:flex;gap:0.75em;align-items:center"><span>{column_label}</span>
<input type="range" min="0" max="{last}" step="1" value="0" autocomplete="off" aria-valuetext="{value}"
 style="flex:1" oninput="{script}">
<output style="min-width:3em">{value}</output></label></div>
<svg role="img" aria-label="{alt}" viewBox="0 0 {width} {height}"
 style="display:block;width:{inches:g}in;max-width:100%;height:auto;background:white;margin-top:0.5em">
<image href="data:image/png;base64,{picture}" width="{all_width}" height="{all_height}"
 style="image-rendering:pixelated"></image></svg>
<script type="application/json">{cells}</script>
</div>"""
EXPLORE = """
const box = this.closest('.minidiff-explorer');
const row = box.querySelector('select').selectedIndex, slider = box.querySelector('input');
const cells = JSON.parse(box.querySelector('script').textContent);
const [value, alt] = cells.texts[row][slider.value], svg = box.querySelector('svg');
svg.setAttribute('viewBox', [slider.value * cells.width, row * cells.height, cells.width, cells.height].join(' '));
svg.setAttribute('aria-label', alt);
slider.setAttribute('aria-valuetext', box.querySelector('output').value = value);
""".strip().replace("\n", " ")

# In the book Sphinx's own style sheet colours the code, light or dark; JupyterLab has no such rules, but has
# variables.
LAB_STYLE = """<style>
.jp-OutputArea .minidiff-source pre {padding:0.6em;background:var(--jp-cell-editor-background);}
.jp-OutputArea .minidiff-source :is(.k,.kn,.kc,.ow)
{color:var(--jp-mirror-editor-keyword-color);font-weight:bold;} .jp-OutputArea .minidiff-source
:is(.s1,.s2,.sd,.sa,.si) {color:var(--jp-mirror-editor-string-color);} .jp-OutputArea .minidiff-source
:is(.c1) {color:var(--jp-mirror-editor-comment-color);font-style:italic;} .jp-OutputArea .minidiff-source
:is(.mi,.mf) {color:var(--jp-mirror-editor-number-color);} .jp-OutputArea .minidiff-source :is(.o)
{color:var(--jp-mirror-editor-operator-color);} .jp-OutputArea .minidiff-source :is(.nf,.nc)
{color:var(--jp-mirror-editor-def-color);} .jp-OutputArea .minidiff-source :is(.nb,.bp)
{color:var(--jp-mirror-editor-builtin-color);} .jp-OutputArea .minidiff-source :is(.nd)
{color:var(--jp-mirror-editor-meta-color);} </style>"""


def slider(fn: Callable[[Any], Figure], values: Sequence[Any], label: str, alt: str | None = None) -> None:
    """Display the figure fn(value) under a slider over `values`.

    fn returns a matplotlib figure, and should return figures of one size. label names the value ("time t").
    alt says what the pictures show; each picture's alternative text is alt, the label and the value. Live, a
    figure is drawn when it is first asked for; with MINIDIFF_STATIC=1 in the environment all are drawn now
    and stored on the page. Raises ValueError if there are no values.
    """
    values = list(values)
    if not values:
        raise ValueError("slider needs at least one value, got none")
    frames = _Frames(fn, values, label, alt)
    display = require("IPython.display").display
    if os.environ.get("MINIDIFF_STATIC") == "1":
        bundle = {
            "text/plain": f"{label}: {', '.join(frames.texts)}",
            "text/html": _static_slider(frames),
            "image/png": b64encode(frames[0][0]).decode(),
        }
        display(bundle, raw=True)
    else:
        display(_live_slider(frames))


class _Frames:
    """The pictures, drawn once each: frames[i] is (PNG bytes, alternative text, width in inches)."""

    def __init__(self, fn: Callable[[Any], Figure], values: list[Any], label: str, alt: str | None) -> None:
        self.fn, self.values, self.label, self.alt = fn, values, label, alt
        self.texts = [f"{value:.4g}" if isinstance(value, float) else str(value) for value in values]
        self.drawn: dict[int, tuple[bytes, str, float]] = {}

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, i: int) -> tuple[bytes, str, float]:
        if i not in self.drawn:
            fig = self.fn(self.values[i])
            place = f"{self.label} = {self.texts[i]}"
            self.drawn[i] = (png(fig, DPI, PALETTE), f"{self.alt}; {place}" if self.alt else place, fig.get_figwidth())
            close(fig)
        return self.drawn[i]


def _static_slider(frames: _Frames) -> str:
    pictures = [frames[i] for i in range(len(frames))]
    stored = json.dumps(
        [
            (text, alt, f"data:image/png;base64,{b64encode(picture).decode()}")
            for text, (picture, alt, _) in zip(frames.texts, pictures, strict=True)
        ]
    )
    return SLIDER.format(
        label=html.escape(frames.label),
        last=len(frames) - 1,
        value=html.escape(frames.texts[0]),
        script=SCRIPT,
        image=image_tag(*pictures[0]),
        frames=stored.replace("<", "\\u003c"),  # a text must not be able to end the script element
    )


def _live_slider(frames: _Frames) -> Any:  # noqa: ANN401 - an ipywidget, and ipywidgets is optional
    widgets = require("ipywidgets")
    options = [(text, i) for i, text in enumerate(frames.texts)]
    control = widgets.SelectionSlider(
        options=options,
        description=frames.label,
        style={"description_width": "initial"},
        layout={"width": "7in"},
    )
    picture = widgets.HTML(image_tag(*frames[0]))

    def draw(change: dict[str, Any]) -> None:
        picture.value = image_tag(*frames[change["new"]])

    control.observe(draw, names="value")
    return widgets.VBox([control, picture])


def explorer(
    picture: bytes,
    rows: Sequence[str],
    columns: Sequence[Any],
    *,
    row_label: str,
    column_label: str,
    alt: str,
    inches: float = 7.0,
) -> None:
    """Display one cell of a table of pictures, under a list that chooses its row and a slider that chooses its column.

    picture: a PNG file with the cells edge to edge, one line of them for each of `rows`; it is stored on the page once.
    A cell's alternative text is alt with the names of its row and column; inches is the width of a cell. Works as
    `slider` does with and without MINIDIFF_STATIC=1. Raises ValueError if there are no rows or columns, or the size of
    the picture is no multiple of their numbers.
    """
    table = _Table(picture, [str(row) for row in rows], [str(column) for column in columns], alt, inches)
    display = require("IPython.display").display
    if os.environ.get("MINIDIFF_STATIC") != "1":
        display(_live_explorer(table, row_label, column_label))
        return
    texts = [[(column, table.alt(i, j)) for j, column in enumerate(table.columns)] for i in range(len(table.rows))]
    cells = json.dumps({"width": table.width, "height": table.height, "texts": texts})
    page = EXPLORER.format(
        row_label=html.escape(row_label),
        column_label=html.escape(column_label),
        options="".join(f"<option>{html.escape(row)}</option>" for row in table.rows),
        last=len(table.columns) - 1,
        value=html.escape(table.columns[0]),
        script=EXPLORE,
        alt=html.escape(table.alt(0, 0)),
        width=table.width,
        height=table.height,
        all_width=table.width * len(table.columns),
        all_height=table.height * len(table.rows),
        inches=inches,
        picture=b64encode(picture).decode(),
        cells=cells.replace("<", "\\u003c"),
    )
    text = f"{row_label}: {', '.join(table.rows)}; {column_label}: {', '.join(table.columns)}"
    first = b64encode(table.cell(0, 0)).decode()
    display({"text/plain": text, "text/html": page, "image/png": first}, raw=True)


class _Table:
    """The cells of an explorer's picture, all of one size."""

    def __init__(self, picture: bytes, rows: list[str], columns: list[str], alt: str, inches: float) -> None:
        if not rows or not columns:
            raise ValueError(f"explorer needs rows and columns, got {len(rows)} and {len(columns)}")
        self.whole = require("PIL.Image").open(io.BytesIO(picture))
        self.rows, self.columns, self.text, self.inches = rows, columns, alt, inches
        size = self.whole.size
        self.width, self.height = size[0] // len(columns), size[1] // len(rows)
        if size != (self.width * len(columns), self.height * len(rows)) or not self.width * self.height:
            raise ValueError(f"{len(rows)} rows and {len(columns)} columns do not divide a picture of {size} pixels")

    def alt(self, row: int, column: int) -> str:
        return f"{self.text}; {self.rows[row]}, {self.columns[column]}"

    def cell(self, row: int, column: int) -> bytes:
        left, top = column * self.width, row * self.height
        buffer = io.BytesIO()
        self.whole.crop((left, top, left + self.width, top + self.height)).save(buffer, format="png")
        return buffer.getvalue()


def _live_explorer(table: _Table, row_label: str, column_label: str) -> Any:  # noqa: ANN401 - an ipywidget
    widgets = require("ipywidgets")
    style = {"description_width": "initial"}
    row = widgets.Dropdown(options=[(t, i) for i, t in enumerate(table.rows)], description=row_label, style=style)
    column = widgets.SelectionSlider(
        options=[(t, j) for j, t in enumerate(table.columns)],
        description=column_label,
        style=style,
        layout={"width": "4in"},
    )
    picture = widgets.HTML()

    def draw(change: dict[str, Any] | None = None) -> None:
        place = row.value, column.value
        picture.value = image_tag(table.cell(*place), table.alt(*place), table.inches)

    for control in (row, column):
        control.observe(draw, names="value")
    draw()
    return widgets.VBox([widgets.HBox([row, column]), picture])


def source(*functions: Callable | type, docstring: bool = False) -> None:
    """Display the source of functions or classes, highlighted, each under its dotted name and file.

    This is how a chapter shows code: from the package that runs, never a second copy. Docstrings are left out
    unless `docstring` is true. Raises TypeError for anything without Python source.
    """
    if not functions:
        raise ValueError("source needs at least one function or class, got none")
    parts = [_Source(function, docstring) for function in functions]
    bundle = {
        "text/plain": "\n".join(f"# {part.name}, {part.file}\n{part.code}" for part in parts),
        "text/html": "\n".join(part.html() for part in parts) + LAB_STYLE,
    }
    require("IPython.display").display(bundle, raw=True)


class _Source:
    """The code of one function or class, its dotted name and its file."""

    def __init__(self, function: Callable | type, docstring: bool) -> None:
        try:
            code = textwrap.dedent(inspect.getsource(function))
            path = Path(inspect.getsourcefile(inspect.unwrap(function)))
        except (TypeError, OSError) as error:
            raise TypeError(f"source needs functions or classes written in Python, got {function!r}") from error
        root = Path(__file__).parent
        self.name = f"{function.__module__}.{function.__qualname__}"
        self.file = path.relative_to(root.parent).as_posix() if path.is_relative_to(root) else path.name
        self.code = code if docstring else _without_docstrings(code)

    def html(self) -> str:
        """The heading, and the code in the markup of Sphinx's highlighted blocks, which its themes know."""
        formatter = require("pygments.formatters").HtmlFormatter(nowrap=True)
        lexer = require("pygments.lexers").PythonLexer()
        code = require("pygments").highlight(self.code, lexer, formatter)
        return (
            '<div class="minidiff-source">'
            f'<div style="margin-top:1em"><code style="color:inherit">{html.escape(self.name)}</code>'
            f" · {html.escape(self.file)}</div>"
            '<div class="highlight-python notranslate"><div class="highlight">'
            f"<pre>{code}</pre></div></div></div>"
        )


def _without_docstrings(code: str) -> str:
    """The code less the lines of its docstrings, and the blank line that follows one in a class."""
    lines = code.splitlines(keepends=True)
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and ast.get_docstring(node):
            first, last = node.body[0].lineno, node.body[0].end_lineno
            if len(node.body) > 1 and not lines[last].strip():
                last += 1
            lines[first - 1 : last] = [""] * (last - first + 1)
    return "".join(lines)
