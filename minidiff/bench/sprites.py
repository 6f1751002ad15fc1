"""Pictures of the samples of the benchmark, small enough for a page: one palette file for some methods and budgets."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from minidiff.extras import require

METHODS = (
    "minidiff.sample",
    "UniPC-2",
    "DPM++2M, log-SNR",
    "Euler, uniform t",
    "Heun, Karras",
    "Ancestral",
)
BUDGETS = (1, 2, 3, 4, 5, 6, 8, 20)
COLOURS = 128


def stored(folder: Path) -> dict[str, Any]:
    """The sheets of the kept cells of seed 0 as one picture, a row a method and a column a budget, with its places.

    Where a method has no run of its own for a budget, it is the one with the most calls below. Raises
    FileNotFoundError where there is none at all.
    """
    cells = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(folder.glob("*-0.json"))]
    rows = []
    for method in METHODS:
        runs = {cell["budget"]: cell for cell in cells if cell["sampler"] == method and "sheet" in cell}
        if not runs or min(runs) > BUDGETS[0]:
            raise FileNotFoundError(f"no cell of {method!r} for {BUDGETS[0]} call in {folder}: run photos first")
        rows.append([runs[max(made for made in runs if made <= budget)] for budget in BUDGETS])
    picture = mosaic([[base64.b64decode(cell["sheet"]) for cell in row] for row in rows])
    return {
        "methods": METHODS,
        "budgets": BUDGETS,
        "calls": [[cell["calls"] for cell in row] for row in rows],
        "png": base64.b64encode(picture).decode(),
    }


def mosaic(sheets: Sequence[Sequence[bytes]], colours: int = COLOURS) -> bytes:
    """PNG files of one size, edge to edge in rows, as one PNG file with a palette of `colours`."""
    images = require("PIL.Image")
    pictures = [[images.open(io.BytesIO(sheet)).convert("RGB") for sheet in row] for row in sheets]
    width, height = pictures[0][0].size
    whole = images.new("RGB", (width * len(pictures[0]), height * len(pictures)))
    for i, row in enumerate(pictures):
        for j, picture in enumerate(row):
            whole.paste(picture, (j * width, i * height))
    buffer = io.BytesIO()
    whole.quantize(colours).save(buffer, format="png", optimize=True)
    return buffer.getvalue()
