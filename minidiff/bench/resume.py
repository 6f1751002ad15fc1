"""Results on the way: what an interrupted benchmark has finished is kept in a file and not measured again."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any


def rows(kept: Path, settings: Sequence[Any], row: Callable[[Any], dict[str, Any]]) -> list[dict[str, Any]]:
    """row(setting) for each setting, those already in the file `kept` taken from there."""
    found = json.loads(kept.read_text()) if kept.exists() else []
    for setting in settings[len(found) :]:
        found.append(row(setting))
        print(found[-1], flush=True)
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps(found))
    return found


def once(kept: Path, make: Callable[[], Any]) -> Any:  # noqa: ANN401 (any JSON value)
    """make() as it is stored in the file `kept`, where it is made and stored if it is not there."""
    if not kept.exists():
        made = make()
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps(made))
    found = json.loads(kept.read_text())
    print(kept.stem, found, flush=True)
    return found
