"""Pictures of the samples of the benchmark, small enough for a page: one palette file for some methods and budgets."""

from __future__ import annotations

import base64
import io
import json
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
BUDGETS = (1, 2, 3, 5, 8, 10, 20, 35)
COLOURS = 128


def stored(folder: Path) -> dict[str, Any]:
    """The sheets of the kept cells of seed 0 as one picture, a row a method and a column a budget, with its places.

    Where a method has no run of its own for a budget, it is the one with the most calls below. Raises
    FileNotFoundError where there is none at all.
    """
    images = require("PIL.Image")
    cells = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(folder.glob("*-0.json"))]
    rows = []
    for method in METHODS:
        runs = {cell["budget"]: cell for cell in cells if cell["sampler"] == method and "sheet" in cell}
        if not runs or min(runs) > BUDGETS[0]:
            raise FileNotFoundError(f"no cell of {method!r} for {BUDGETS[0]} call in {folder}: run photos first")
        rows.append([runs[max(made for made in runs if made <= budget)] for budget in BUDGETS])
    sheets = [[images.open(io.BytesIO(base64.b64decode(cell["sheet"]))).convert("RGB") for cell in row] for row in rows]
    width, height = sheets[0][0].size
    whole = images.new("RGB", (width * len(BUDGETS), height * len(METHODS)))
    for i, row in enumerate(sheets):
        for j, sheet in enumerate(row):
            whole.paste(sheet, (j * width, i * height))
    buffer = io.BytesIO()
    whole.quantize(COLOURS).save(buffer, format="png", optimize=True)
    return {
        "methods": METHODS,
        "budgets": BUDGETS,
        "calls": [[cell["calls"] for cell in row] for row in rows],
        "size": [width, height],
        "png": base64.b64encode(buffer.getvalue()).decode(),
    }
