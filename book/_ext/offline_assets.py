"""The site asks no other server for anything: MathJax comes from an installed package, and nothing else is loaded."""

from __future__ import annotations

import importlib.metadata
import shutil
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.config import Config

PACKAGE = "sphinx-mathjax-offline"
# Of the package's 24 MB the pages use 2.2: the component that reads TeX and writes HTML, its fonts, its TeX extensions.
PARTS = ("tex-mml-chtml.js", "output/chtml/fonts/woff-v2/", "input/tex/extensions/")


def mathjax_files() -> dict[str, Path]:
    """The files of MathJax that the pages may ask for: path under `mathjax/` -> installed file."""
    files = {}
    for file in importlib.metadata.files(PACKAGE) or ():
        inside = file.as_posix().partition("/static/mathjax/")[2]
        if inside.startswith(PARTS):
            files[inside] = Path(file.locate())
    if PARTS[0] not in files:
        raise FileNotFoundError(f"{PACKAGE} is installed without {PARTS[0]}: reinstall it")
    return files


def configure(app: Sphinx, config: Config) -> None:
    """Use our copy of MathJax, and no widget manager: sliders are plain HTML on the pages."""
    config.mathjax_path = "mathjax/tex-mml-chtml.js"
    config.nb_ipywidgets_js = {}


def drop_thebe(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: object) -> None:
    """Take sphinx-thebe's scripts out: they need a server elsewhere, and declare a constant twice on every page."""

    def wanted(script: Any) -> bool:
        body = (getattr(script, "attributes", None) or {}).get("body") or ""
        return "THEBE_JS_URL" not in body and "sphinx-thebe" not in str(getattr(script, "filename", script))

    context["script_files"] = [script for script in context.get("script_files", []) if wanted(script)]


def copy(app: Sphinx, exception: Exception | None) -> None:
    """Put MathJax into the built site."""
    if exception is not None or app.builder.format != "html":
        return
    for inside, source in mathjax_files().items():
        target = Path(app.outdir) / "_static" / "mathjax" / inside
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect the three hooks, each after those of the extensions that it corrects."""
    app.connect("config-inited", configure, priority=900)
    app.connect("html-page-context", drop_thebe, priority=900)
    app.connect("build-finished", copy)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
