"""Stored results: JSON under `book/results/` with the device, command, commit, versions and date that made them."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("minidiff", "torch", "numpy", "scikit-learn", "scikit-image", "diffusers", "smalldiffusion")
NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


def folder(start: Path | None = None) -> Path:
    """The nearest `book/results` at or above `start` (default: the current directory).

    Raises FileNotFoundError where there is none: stored results belong to a checkout of the book.
    """
    start = (start or Path.cwd()).resolve()
    for parent in (start, *start.parents):
        if (parent / "book" / "results").is_dir():
            return parent / "book" / "results"
    raise FileNotFoundError(f"no book/results at or above {start}: run this inside a checkout of the book")


def device_name() -> str:
    """The accelerator's name where there is one, else the processor's."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text(encoding="utf-8", errors="replace") if cpuinfo.exists() else ""
    model = re.search(r"^model name\s*:\s*(.+)$", text, flags=re.MULTILINE)
    processor = model.group(1).strip() if model else platform.processor() or platform.machine()
    return f"CPU, {processor}"


def commit(where: Path) -> str | None:
    """The commit checked out at `where`, with `+changes` if tracked files differ from it; None without git.

    Stored results do not count: one that the same run saved before is no change of what makes the next.
    """

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(where), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changes = git("status", "-s", "-uno", "--", ":/", ":(top,exclude)book/results")
        return git("rev-parse", "--short=12", "HEAD") + ("+changes" if changes else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def versions() -> dict[str, str]:
    """Versions of Python and of every package named in PACKAGES that is installed."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def save(name: str, data: Any, command: str) -> Path:  # noqa: ANN401 (any JSON value)
    """Write `book/results/NAME.json`: the data with what is needed to make it again; returns its path.

    `data` is any JSON value with finite numbers; `command` is the shell command that remakes it. Raises
    ValueError for a name that is not lower-case-with-dashes, an empty command, NaN or infinity, and TypeError for
    what JSON cannot hold (tensors: call `.tolist()` first).
    """
    path = folder() / f"{_checked(name)}.json"
    if not command.strip():
        raise ValueError("command must be the shell command that remakes the result, got an empty string")
    stored = {
        "data": data,
        "device": device_name(),
        "command": command,
        "commit": commit(path.parent),
        "versions": versions(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }
    text = json.dumps(stored, indent=1, ensure_ascii=False, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")
    return path


def load(name: str) -> dict[str, Any]:
    """Read `book/results/NAME.json`: a dictionary with `data`, `device`, `command`, `commit`, `versions`, `date`.

    Raises FileNotFoundError, naming the results there are, for an unknown name.
    """
    path = folder() / f"{_checked(name)}.json"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in path.parent.glob("*.json"))) or "none"
        raise FileNotFoundError(f"no stored result {name!r} in {path.parent}; there are: {known}")
    return json.loads(path.read_text(encoding="utf-8"))


def _checked(name: str) -> str:
    if not NAME.fullmatch(name):
        raise ValueError(f"a result's name is lower-case words joined by dashes, such as 'ddpm-bound', got {name!r}")
    return name
