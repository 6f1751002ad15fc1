"""Opens every page of the built site in a headless browser that can reach nothing but the site.

Fails on a request that would leave, a console error, a formula that MathJax cannot read or that is wider than the text,
a slider or an explorer whose picture does not change, a search that does not find "posterior", and a launch button
whose notebook does not exist.

python -m book._tools.check_site [--shots FOLDER]
"""

from __future__ import annotations

import argparse
import functools
import http.server
import re
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from book._tools.browser import Tab, chromium, find
from book._tools.sources import ROOT, Book

SEARCH = "posterior"
PATIENCE = 30  # seconds until the search must have found it, or a moved slider's picture must have changed
# Typeset, and every script and image loaded: what is counted afterwards is final.
READY = """(async () => {
  if (document.readyState !== 'complete') await new Promise(done => addEventListener('load', done));
  if (window.MathJax && MathJax.startup) await MathJax.startup.promise;
  await document.fonts.ready;
  return true;
})()"""
FORMULAS = "document.querySelectorAll('div.math, span.math').length"
TYPESET = "document.querySelectorAll('.math mjx-container').length"
TEX_ERRORS = "[...document.querySelectorAll('mjx-merror')].map(e => e.getAttribute('title') || e.textContent)"
# Something that cannot be broken into lines, a long formula or name, has pushed the text out of the window.
PUSHED = """(() => {
  const article = document.querySelector('.bd-article-container');
  const box = article ? article.getBoundingClientRect() : {left: 0, right: 0};
  return box.left < 0 || box.right > innerWidth;
})()"""
# Displays that do not fit into their column and would have to be scrolled, by label.
WIDE = """[...document.querySelectorAll('div.math')]
  .filter(e => [...e.querySelectorAll('mjx-container')].some(box => box.scrollWidth > box.clientWidth + 1))
  .map(e => e.id.replace('equation-', ''))"""
COUNT = "document.querySelectorAll('.minidiff-slider, .minidiff-explorer').length"
# Where a slider's picture is: the largest visible thing that is drawn, so that neither the knob nor a label counts. It
# is scrolled into the window, where it is painted at once.
PICTURE = """(() => {
  const slider = document.querySelectorAll('.minidiff-slider, .minidiff-explorer')[%d];
  for (let d = slider.closest('details'); d; d = d.parentElement.closest('details')) d.open = true;
  const area = e => e.getBoundingClientRect().width * e.getBoundingClientRect().height;
  const drawn = [...slider.querySelectorAll('img, svg, canvas')].sort((a, b) => area(b) - area(a))[0];
  if (drawn) drawn.scrollIntoView({block: 'center', behavior: 'instant'});
  const box = drawn && drawn.getBoundingClientRect();
  return box && box.width * box.height > 0
    ? {x: box.x + scrollX, y: box.y + scrollY, width: box.width, height: box.height} : null;
})()"""
# How many things there are to move in a slider: its range, and an explorer's list before it.
CONTROLS = """document.querySelectorAll('.minidiff-slider, .minidiff-explorer')[%d]
  .querySelectorAll('select, input[type=range]').length"""
MOVE = """(() => {
  const slider = document.querySelectorAll('.minidiff-slider, .minidiff-explorer')[%d];
  const input = slider.querySelectorAll('select, input[type=range]')[%d];
  const list = input.tagName === 'SELECT', last = list ? input.options.length - 1 : Number(input.max);
  const now = list ? input.selectedIndex : Number(input.value), next = now === last ? 0 : last;
  if (list) input.selectedIndex = next; else input.value = next;
  for (const name of ['input', 'change']) input.dispatchEvent(new Event(name, {bubbles: true}));
})()"""
REDIRECT = re.compile(r'http-equiv="refresh"[^>]*url=([^"]+)"', re.IGNORECASE)
FOUND = "document.querySelectorAll('#search-results ul.search li').length"


class Quiet(http.server.SimpleHTTPRequestHandler):
    """A file server that does not log."""

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve the folder from loopback; yields the address."""
    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


class Visit:
    """One page in a tab of its own: what it asked for beyond the site, and what its console said."""

    def __init__(self, devtools: str, site: str, page: str) -> None:
        self.site, self.page = site, page
        self.left: list[str] = []
        self.errors: list[str] = []
        self.tab = Tab(devtools, self.listen)
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.tab.call(f"{domain}.enable")
        self.tab.call("Fetch.enable", patterns=[{"urlPattern": "*"}])
        self.tab.call("Page.navigate", url=f"{site}/{page}")
        self.tab.wait(f"location.href.startsWith('{site}')")
        self.tab.evaluate(READY)

    def listen(self, tab: Tab, event: str, data: dict[str, Any]) -> None:
        """Let requests to the site pass, refuse and note all others; note errors."""
        if event == "Fetch.requestPaused":
            url = data["request"]["url"]
            if url.startswith((f"{self.site}/", "data:", "blob:")):
                tab.send("Fetch.continueRequest", requestId=data["requestId"])
            else:
                self.left.append(url)
                tab.send("Fetch.failRequest", requestId=data["requestId"], errorReason="BlockedByClient")
        elif event == "Network.webSocketCreated":
            self.left.append(data["url"])
        elif event == "Runtime.exceptionThrown":
            details = data["exceptionDetails"]
            self.errors.append(details.get("exception", {}).get("description") or details["text"])
        elif event == "Runtime.consoleAPICalled" and data["type"] in {"error", "assert"}:
            self.errors.append(" ".join(str(argument.get("value", "")) for argument in data["args"]))
        elif event == "Log.entryAdded" and data["entry"]["level"] == "error":
            self.errors.append(f"{data['entry']['text']} {data['entry'].get('url', '')}")

    def sliders(self) -> Iterator[str]:
        """What is wrong with the sliders and explorers; moving each of their controls must change the picture."""
        for number in range(self.tab.evaluate(COUNT)):
            before = self.tab.evaluate(PICTURE % number)
            if before is None:
                yield f"slider {number + 1} shows no picture"
                continue
            # An explorer's range before its list: in the first column all rows may be the same, as with one call.
            for control in reversed(range(self.tab.evaluate(CONTROLS % number))):
                first = self.settled(before)
                self.tab.evaluate(MOVE % (number, control))
                after = self.moved(PICTURE % number, first)
                if after is None:
                    yield f"slider {number + 1}: its picture stays the same under control {control + 1}"
                before = after or before

    def settled(self, box: dict[str, float]) -> bytes:
        """The picture in the box once two in a row agree: the first ones may be taken before it is painted."""
        deadline, last = time.monotonic() + PATIENCE, self.tab.picture(box)
        while time.monotonic() < deadline:
            picture = self.tab.picture(box)
            if picture == last:
                break
            last = picture
        return last

    def moved(self, where: str, first: bytes) -> dict[str, float] | None:
        """Where the picture is once it has changed, and not just for a moment; None if it does not."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            box = self.tab.evaluate(where)
            if box is not None and self.settled(box) != first:
                return box
        return None

    def problems(self) -> Iterator[str]:
        """Everything that is wrong with the page."""
        formulas, typeset = self.tab.evaluate(FORMULAS), self.tab.evaluate(TYPESET)
        if typeset < formulas:
            yield f"MathJax typeset {typeset} of {formulas} formulas"
        yield from (f"TeX: {error}" for error in self.tab.evaluate(TEX_ERRORS))
        yield from (f"{label} is wider than the text" for label in self.tab.evaluate(WIDE))
        if self.tab.evaluate(PUSHED):
            yield "the text is wider than the window"
        yield from self.sliders()
        yield from (f"a request that leaves: {url}" for url in self.left)
        yield from (f"console: {error}" for error in self.errors)


def pages(html: Path) -> list[str]:
    """Every page of the site, relative to its folder; one that only sends the reader to another counts as that one."""
    found = set()
    for path in html.rglob("*.html"):
        if path.relative_to(html).parts[0] not in {"_static", "_sources"}:
            redirect = REDIRECT.search(path.read_text(encoding="utf-8"))
            found.add((path.parent / redirect[1] if redirect else path).relative_to(html).as_posix())
    return sorted(found)


def buttons(book: Book, html: Path) -> Iterator[str]:
    """Launch buttons that point to another repository or branch, or to a file that is not there."""
    repository = book.config["repository"]
    slug = repository["url"].removeprefix("https://github.com/")
    start = f"https://colab.research.google.com/github/{slug}/blob/{repository['branch']}/"
    binder = f"https://mybinder.org/v2/gh/{slug}/{repository['branch']}?urlpath=lab/tree/"
    for path in book.notebooks:
        page = book.name(path.with_suffix(".html"))
        links = re.findall(r'href="(https://(?:colab|mybinder)[^"]+)"', (html / page).read_text(encoding="utf-8"))
        for kind, address in (("Colab", start), ("Binder", binder)):
            if f"{address}{book.name(path)}" not in links:
                yield f"{page}: no {kind} button that opens {book.name(path)}: {links}"


def check(book: Book, shots: Path | None = None) -> list[str]:
    """Check the site in `_build/html`; with `shots`, also write a picture of every page into that folder."""
    html, path = book.root / "_build" / "html", find()
    if not (html / "index.html").exists():
        return ["there is no site in _build/html: make book"]
    if path is None:
        return ["no Chromium: apt-get install chromium"]
    found, sliders = [*buttons(book, html)], 0
    with served(html) as site, chromium(path) as devtools:
        for page in pages(html):
            visit = Visit(devtools, site, page)
            if shots:
                shots.mkdir(parents=True, exist_ok=True)
                (shots / f"{page.removesuffix('.html').replace('/', '-')}.png").write_bytes(visit.tab.picture())
            sliders += visit.tab.evaluate(COUNT)
            found += [f"{page}: {problem}" for problem in visit.problems()]
            visit.tab.close()
        visit = Visit(devtools, site, f"search.html?q={SEARCH}")
        if not visit.tab.wait(FOUND, PATIENCE):
            found.append(f"the search does not find {SEARCH!r}")
        found += [f"search: {problem}" for problem in visit.problems()]
    if not sliders:
        found.append("no page has a slider (an element of class minidiff-slider)")
    print(f"{len(pages(html))} pages, {sliders} sliders")
    return found


def main(argv: list[str]) -> int:
    """Check the site and print what is wrong; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shots", type=Path, metavar="FOLDER", help="write a picture of every page there")
    found = check(Book(ROOT), parser.parse_args(argv).shots)
    print("\n".join(found) or "the site is in order")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
