"""The slider, live and on the static page, and the source of functions."""

import ast
import io
import json
import re
import shutil
import subprocess
import sys
from base64 import b64decode
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

import minidiff
from minidiff import data, metrics, plot, widgets


@pytest.fixture
def shown(monkeypatch):
    """What was displayed: (object, whether it was a raw bundle)."""
    outputs = []
    monkeypatch.setattr("IPython.display.display", lambda thing, raw=False: outputs.append((thing, raw)))
    return outputs


@pytest.fixture
def static(monkeypatch):
    monkeypatch.setenv("MINIDIFF_STATIC", "1")


def shade(value):
    """A small figure filled with one grey."""
    return Figure(figsize=(1, 0.5), facecolor=str(value))


def grey(picture):
    return Image.open(io.BytesIO(picture)).convert("L").getpixel((5, 5)) / 255


class Page(HTMLParser):
    """All start tags with their attributes, and the text of scripts."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.scripts = [], []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, text):
        if self.lasttag == "script" and text.strip().startswith("["):
            self.scripts.append(text)

    def the(self, tag):
        (found,) = [attributes for name, attributes in self.tags if name == tag]
        return found


def test_static_slider_holds_every_frame(shown, static):
    widgets.slider(shade, [0.0, 0.25, 1.0], label="time t", alt="a grey square")
    ((bundle, raw),) = shown
    assert raw
    page = Page(bundle["text/html"])
    frames = json.loads(page.scripts[0])
    assert [value for value, _, _ in frames] == ["0", "0.25", "1"]
    assert [alt for _, alt, _ in frames] == [f"a grey square; time t = {v}" for v in ("0", "0.25", "1")]
    pictures = [b64decode(source.removeprefix("data:image/png;base64,")) for _, _, source in frames]
    assert [grey(picture) for picture in pictures] == pytest.approx([0, 0.25, 1], abs=0.01)
    control, image = page.the("input"), page.the("img")
    assert (control["type"], control["min"], control["max"], control["value"]) == ("range", "0", "2", "0")
    assert control["aria-valuetext"] == "0"
    assert (image["src"], image["alt"]) == (frames[0][2], frames[0][1])
    assert bundle["text/plain"] == "time t: 0, 0.25, 1"
    assert b64decode(bundle["image/png"]) == pictures[0]


def test_static_slider_needs_no_ids_and_nothing_from_elsewhere(shown, static):
    widgets.slider(shade, [0.0, 1.0], label="t")
    page = Page(shown[0][0]["text/html"])
    assert not [tag for tag, attributes in page.tags if "id" in attributes or "for" in attributes]
    assert not re.search(r"https?:|//[a-z]", re.sub(r"base64,[^\"\\]*", "", shown[0][0]["text/html"]))
    assert [tag for tag, _ in page.tags][:3] == ["div", "label", "span"]
    assert page.tags[0][1]["class"] == "minidiff-slider"


def test_static_slider_survives_hostile_texts(shown, static):
    hostile = '</script><b id="x">&"'
    widgets.slider(lambda _: shade(0.5), [hostile, "b"], label=hostile)
    page = Page(shown[0][0]["text/html"])
    assert [tag for tag, _ in page.tags] == ["div", "label", "span", "input", "output", "img", "script"]
    assert page.the("img")["alt"] == f"{hostile} = {hostile}"
    assert json.loads(page.scripts[0])[0][0] == hostile


def test_ten_small_frames_fit_in_150_kilobytes(shown, static):
    images, _ = data.digits("test")
    noise = torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    values = [i / 10 for i in range(10)]
    widgets.slider(lambda t: plot.image_grid((1 - t) * images[:16] + t * noise, 4), values, label="t")
    assert len(shown[0][0]["text/html"]) < 150_000


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def title_of(body, folder):
    """The title that a page with this body gives itself in a browser."""
    page = folder / "page.html"
    page.write_text(f"<!doctype html><meta charset='utf-8'><title></title>{body}", encoding="utf-8")
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}", "--dump-dom"]
    dom = subprocess.run([CHROMIUM, *options, page.as_uri()], capture_output=True, text=True, timeout=60).stdout
    return re.search("<title>(.*?)</title>", dom).group(1)


@pytest.mark.skipif(CHROMIUM is None, reason="needs a browser: apt-get install chromium")
def test_static_slider_moves_in_a_browser(shown, static, tmp_path):
    for label in ("first", "second"):
        widgets.slider(shade, [0.0, 0.5, 1.0], label=label)
    sliders = "\n".join(bundle["text/html"] for bundle, _ in shown)
    move = """<script>
    const inputs = document.querySelectorAll('.minidiff-slider input');
    inputs[1].value = 2; inputs[1].dispatchEvent(new Event('input'));
    document.title = [...document.querySelectorAll('.minidiff-slider')].map((box, i) =>
      [box.querySelector('img').alt, box.querySelector('output').value, inputs[i].ariaValueText,
       JSON.parse(box.querySelector('script').textContent).findIndex(f => f[2] == box.querySelector('img').src)]
      .join('|')).join('/');
    </script>"""
    assert title_of(sliders + move, tmp_path) == "first = 0|0|0|0/second = 1|1|1|2"


def test_live_slider_draws_on_demand_and_once(shown, monkeypatch):
    monkeypatch.delenv("MINIDIFF_STATIC", raising=False)
    drawn = []

    def counted(value):
        drawn.append(value)
        return shade(value)

    widgets.slider(counted, [0.0, 0.5, 1.0], label="time t", alt="a square")
    ((box, raw),) = shown
    assert not raw
    control, picture = box.children
    assert control.description == "time t"
    for i in (2, 0, 2, 1):
        control.index = i
        assert f'alt="a square; time t = {("0", "0.5", "1")[i]}"' in picture.value
        source = re.search('base64,([^"]*)"', picture.value).group(1)
        assert grey(b64decode(source)) == pytest.approx(i / 2, abs=0.01)
    assert drawn == [0.0, 1.0, 0.5]


def test_slider_refuses_no_values():
    with pytest.raises(ValueError, match="at least one value, got none"):
        widgets.slider(shade, [], label="t")


@pytest.mark.parametrize(
    ("module", "environment"), [("ipywidgets", "0"), ("matplotlib", "1"), ("IPython.display", "1")]
)
def test_a_missing_library_is_named_with_its_extra(monkeypatch, module, environment):
    monkeypatch.setenv("MINIDIFF_STATIC", environment)
    monkeypatch.setitem(sys.modules, module, None)
    if module == "matplotlib":
        monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match=rf"{module.split('.')[0]} is needed.*pip install \"minidiff\[book\]\""):
        widgets.slider(shade, [0.0], label="t")


def mosaic(rows=2, columns=3, size=(8, 4)):
    """A PNG file of rows × columns cells, each of one grey that tells its place."""
    picture = Image.new("L", (size[0] * columns, size[1] * rows))
    for i in range(rows):
        for j in range(columns):
            place = (j * size[0], i * size[1], (j + 1) * size[0], (i + 1) * size[1])
            picture.paste(40 * (1 + i * columns + j), place)
    buffer = io.BytesIO()
    picture.save(buffer, format="png")
    return buffer.getvalue()


def explore(rows=("a", "b"), columns=(1, 2, 5), **changes):
    options = {"row_label": "sampler", "column_label": "calls", "alt": "samples"} | changes
    widgets.explorer(mosaic(), rows, columns, **options)


def test_static_explorer_holds_the_picture_once(shown, static):
    explore()
    ((bundle, raw),) = shown
    assert raw
    page = Page(bundle["text/html"])
    assert [tag for tag, _ in page.tags].count("image") == 1
    stored = page.the("image")["href"].removeprefix("data:image/png;base64,")
    assert b64decode(stored) == mosaic()
    assert (page.the("image")["width"], page.the("image")["height"]) == ("24", "8")
    assert page.the("svg")["aria-label"] == "samples; a, 1" and page.the("svg")["role"] == "img"
    assert page.the("svg")["viewbox"] == "0 0 8 4"
    control = page.the("input")
    assert (control["type"], control["max"], control["aria-valuetext"]) == ("range", "2", "1")
    assert [tag for tag, _ in page.tags].count("option") == 2
    assert bundle["text/plain"] == "sampler: a, b; calls: 1, 2, 5"
    assert Image.open(io.BytesIO(b64decode(bundle["image/png"]))).getpixel((3, 2)) == 40


def test_static_explorer_needs_no_ids_and_nothing_from_elsewhere(shown, static):
    explore()
    page = Page(shown[0][0]["text/html"])
    assert not [tag for tag, attributes in page.tags if "id" in attributes or "for" in attributes]
    assert not re.search(r"https?:|//[a-z]", re.sub(r"base64,[^\"\\]*", "", shown[0][0]["text/html"]))


def test_static_explorer_survives_hostile_texts(shown, static):
    hostile = '</script><b id="x">&"'
    explore(rows=(hostile, "b"), columns=(hostile, 2, 3), row_label=hostile, column_label=hostile, alt=hostile)
    page = Page(shown[0][0]["text/html"])
    assert "b" not in [tag for tag, _ in page.tags]
    assert page.the("svg")["aria-label"] == f"{hostile}; {hostile}, {hostile}"


@pytest.mark.skipif(CHROMIUM is None, reason="needs a browser: apt-get install chromium")
def test_static_explorer_moves_in_a_browser(shown, static, tmp_path):
    explore()
    move = """<script>
    const box = document.querySelector('.minidiff-explorer'), list = box.querySelector('select');
    const told = [], tell = () => told.push([box.querySelector('svg').getAttribute('viewBox'),
      box.querySelector('svg').ariaLabel, box.querySelector('output').value,
      box.querySelector('input').ariaValueText].join('|'));
    list.selectedIndex = 1; list.dispatchEvent(new Event('change')); tell();
    box.querySelector('input').value = 2; box.querySelector('input').dispatchEvent(new Event('input')); tell();
    document.title = told.join('/');
    </script>"""
    text = shown[0][0]["text/html"]
    assert title_of(text + move, tmp_path) == "0 4 8 4|samples; b, 1|1|1/16 4 8 4|samples; b, 5|5|5"


def test_live_explorer_shows_the_cell_asked_for(shown, monkeypatch):
    monkeypatch.delenv("MINIDIFF_STATIC", raising=False)
    explore()
    ((box, raw),) = shown
    assert not raw
    controls, picture = box.children
    row, column = controls.children
    for i, j in ((0, 0), (1, 0), (1, 2), (0, 1)):
        row.index, column.index = i, j
        assert f'alt="samples; {"ab"[i]}, {(1, 2, 5)[j]}"' in picture.value
        cell = Image.open(io.BytesIO(b64decode(re.search('base64,([^"]*)"', picture.value).group(1))))
        assert cell.size == (8, 4) and cell.getpixel((3, 2)) == 40 * (1 + 3 * i + j)


@pytest.mark.parametrize(("rows", "columns"), [((), (1,)), (("a",), ())])
def test_explorer_refuses_an_empty_table(rows, columns):
    with pytest.raises(ValueError, match="explorer needs rows and columns, got"):
        explore(rows, columns)


def test_explorer_refuses_a_picture_of_another_size():
    with pytest.raises(ValueError, match="2 rows and 5 columns do not divide a picture of"):
        explore(columns=range(5))


def twice(x):
    """Two lines

    of docstring.
    """

    # A comment that stays.
    def inner(y):
        """Inner."""
        return 2 * y  # 'a string' & "another" < 3

    return inner(x)


class Pair:
    """A class."""

    left = 1

    def right(self):
        """A method."""
        return "not a docstring", self.left


def without_docstrings(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node):
            node.body = node.body[1:]
    return ast.dump(tree)


@pytest.mark.parametrize(
    "thing", [twice, Pair, Pair.right, metrics.mmd, data.digits, metrics.CountCalls, plot.image_grid, plot.show]
)
def test_source_is_the_code_without_its_docstrings(shown, thing):
    import inspect
    import textwrap

    widgets.source(thing)
    plain = shown[0][0]["text/plain"]
    original = ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(thing))))
    assert ast.dump(ast.parse(plain)) == without_docstrings(original)
    assert '"""' not in plain


def test_source_keeps_comments_and_can_keep_docstrings(shown):
    widgets.source(twice)
    widgets.source(twice, docstring=True)
    (short, _), (whole, _) = shown
    assert "# A comment that stays." in short["text/plain"]
    assert "of docstring." not in short["text/html"]
    assert "of docstring." in whole["text/html"]


def test_source_names_functions_and_files(shown):
    widgets.source(metrics.frechet_distance, data.digits, twice)
    page = shown[0][0]["text/html"]
    assert "minidiff.metrics.frechet.frechet_distance</code> · minidiff/metrics/frechet.py" in page
    assert "minidiff.data.images.digits</code> · minidiff/data/images.py" in page
    assert "twice</code> · test_widgets.py" in page
    assert page.count('<div class="highlight-python notranslate"><div class="highlight"><pre>') == 3


def test_source_is_highlighted_and_its_text_is_the_code(shown):
    widgets.source(twice)
    page = shown[0][0]["text/html"]
    code = re.search("<pre>(.*?)</pre>", page, re.DOTALL).group(1)
    assert '<span class="k">def</span>' in code
    import html

    plain = shown[0][0]["text/plain"].partition("\n")[2]
    assert html.unescape(re.sub("<[^>]*>", "", code)) == plain


def test_source_of_an_empty_body_keeps_its_line(shown):
    widgets.source(minidiff.denoiser.DenoiserLike)
    ast.parse(shown[0][0]["text/plain"])


@pytest.mark.parametrize("thing", [len, 3, "minidiff", torch.zeros(1)])
def test_source_refuses_what_has_none(thing):
    with pytest.raises(TypeError, match="functions or classes written in Python, got"):
        widgets.source(thing)


def test_source_refuses_nothing():
    with pytest.raises(ValueError, match="at least one function or class, got none"):
        widgets.source()


def test_importing_plot_and_widgets_loads_neither_matplotlib_nor_ipywidgets():
    code = "import sys, minidiff.plot, minidiff.widgets, minidiff.data, minidiff.metrics"
    code += "; assert not {'matplotlib', 'ipywidgets', 'IPython', 'sklearn', 'PIL'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(minidiff.__file__).parents[1])
