"""The site check finds what it is for; and the built site passes it."""

import os
from pathlib import Path

import pytest

from book._tools import browser, check_site
from book._tools.sources import ROOT, Book

REQUIRED = bool(os.environ.get("MINIDIFF_SITE_REQUIRED"))  # set by .ci/run: there a skip would hide a failure
SVG = "<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'><rect width='%d' height='9'/></svg>"
PIXEL = f"data:image/svg+xml,{SVG}"
SLIDER = """<div class="minidiff-slider"><input type="range" min="0" max="1" value="0"
oninput="this.nextElementSibling.src = `{source}`"><img src="{first}"></div>"""
GOOD = SLIDER.format(first=PIXEL % 2, source=PIXEL % 8)
DEAD = SLIDER.format(first=PIXEL % 2, source=PIXEL % 2)
EXPLORER = """<div class="minidiff-explorer">
<select onchange="this.closest('div').lastElementChild.style.width = '5px'"><option>a</option>
<option>b</option></select><input type="range" min="0" max="1" value="0"
oninput="this.nextElementSibling.src = `{source}`"><img src="{first}" style="width:9px;height:9px"></div>"""
HALF = EXPLORER.format(first=PIXEL % 2, source=PIXEL % 2)  # whose list works and whose slider does not
SEARCH = "<div id='search-results'><ul class='search'><li>posterior</li></ul></div>"


def missing():
    """What the check of the real site lacks, None if nothing."""
    if browser.find() is None:
        return "Chromium is needed: apt-get install chromium"
    if not (ROOT / "_build/html/index.html").exists():
        return "the site is needed: make book"
    return None


needs_browser = pytest.mark.skipif(
    browser.find() is None and not REQUIRED, reason="Chromium is needed: apt-get install chromium"
)


@pytest.mark.skipif(missing() is not None and not REQUIRED, reason=missing() or "")
def test_the_site_is_in_order():
    assert check_site.check(Book(ROOT)) == []


FAULTS = {
    "image": ('<img src="http://example.org/a.png">', "a request that leaves: http://example.org/a.png"),
    "fetch": ('<script>fetch("https://example.org/")</script>', "a request that leaves: https://example.org/"),
    "websocket": ('<script>new WebSocket("wss://example.org/")</script>', "a request that leaves: wss://example.org/"),
    "error": ('<script>console.error("told so")</script>', "console: told so"),
    "exception": ("<script>undefined.x</script>", "console: TypeError"),
    "gone": ('<img src="gone.png">', "console: Failed to load resource"),
    "macro": ('<mjx-merror title="no such macro"></mjx-merror>', "TeX: no such macro"),
    "unread": ('<div class="math">x</div>', "MathJax typeset 0 of 1 formulas"),
    "long": (
        '<div class="math" id="equation-eq-long"><mjx-container style="display:block;width:9em;overflow:auto">'
        '<p style="width:99em">x</p></mjx-container></div>',
        "eq-long is wider than the text",
    ),
    "dead": (DEAD, "slider 1: its picture stays the same"),
    "half": (
        EXPLORER.format(first=PIXEL % 2, source=PIXEL % 2),
        "slider 1: its picture stays the same under control 2",
    ),
    "wide": ('<div class="bd-article-container" style="width:3000px">x</div>', "the text is wider than the window"),
    "empty": ('<div class="minidiff-slider"><input type="range"></div>', "slider 1 shows no picture"),
}


def site(root, pages):
    """A built site of these pages (name -> body) that belongs to a book without notebooks."""
    (root / "_config.yml").write_text("repository: {url: https://github.com/a/b, branch: main}\n")
    html = root / "_build" / "html"
    html.mkdir(parents=True)
    for name, body in pages.items():
        page = f"<!DOCTYPE html><html><link rel=icon href='data:,'><body>{body}</body></html>"
        (html / f"{name}.html").write_text(page)
    return Book(root)


@needs_browser
def test_a_good_site_passes(tmp_path):
    pages = {"index": GOOD, "explorer": EXPLORER.format(first=PIXEL % 2, source=PIXEL % 8), "search": SEARCH}
    assert check_site.check(site(tmp_path, pages), tmp_path / "shots") == []
    assert (tmp_path / "shots" / "index.png").read_bytes().startswith(b"\x89PNG")


@needs_browser
def test_planted_faults_are_found(tmp_path, monkeypatch):
    monkeypatch.setattr(check_site, "PATIENCE", 1)
    pages = {"index": "", "search": ""} | {name: body for name, (body, _) in FAULTS.items()}
    found = check_site.check(site(tmp_path, pages))
    for name, (_, message) in FAULTS.items():
        assert any(problem.startswith(f"{name}.html: {message}") for problem in found), name
    assert "the search does not find 'posterior'" in found
    assert not any(problem.startswith("index.html") for problem in found)


@needs_browser
def test_a_site_without_sliders_is_found(tmp_path):
    found = check_site.check(site(tmp_path, {"index": "", "search": SEARCH}))
    assert found == ["no page has a slider (an element of class minidiff-slider)"]


def test_a_missing_site_is_said(tmp_path):
    assert check_site.check(Book(tmp_path)) == ["there is no site in _build/html: make book"]


def test_a_redirect_counts_as_its_target(tmp_path):
    (tmp_path / "book").mkdir()
    (tmp_path / "book" / "preface.html").touch()
    (tmp_path / "index.html").write_text('<meta http-equiv="Refresh" content="0; url=book/preface.html" />')
    assert check_site.pages(Path(tmp_path)) == ["book/preface.html"]
