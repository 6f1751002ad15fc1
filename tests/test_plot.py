"""Figures: pictures hold the numbers they were given, in the right place, with labels and alternative text."""

import io
import sys
from base64 import b64decode
from itertools import combinations

import matplotlib
import numpy
import pytest
import torch
from matplotlib import pyplot
from matplotlib.colors import to_rgb
from PIL import Image, ImageChops, ImageStat

from minidiff import plot


@pytest.fixture(autouse=True)
def own_defaults():
    with matplotlib.rc_context():
        matplotlib.use("agg")
        yield
    pyplot.close("all")


def pixels(fig, **options):
    return Image.open(io.BytesIO(plot.png(fig, **options)))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("gap", [0, 1, 2])
def test_grid_puts_each_image_in_its_place(channels, gap):
    images = torch.rand(5, channels, 4, 3, generator=torch.Generator().manual_seed(0)) * 2 - 1
    picture = plot.make_grid(images, columns=3, gap=gap)
    assert picture.shape == (2 * 4 + 3 * gap, 3 * 3 + 4 * gap, channels)
    tile = torch.zeros(picture.shape[:2], dtype=torch.bool)
    for k, image in enumerate(images):
        top, left = gap + (k // 3) * (4 + gap), gap + (k % 3) * (3 + gap)
        torch.testing.assert_close(picture[top : top + 4, left : left + 3], (image.permute(1, 2, 0) + 1) / 2)
        tile[top : top + 4, left : left + 3] = True
    assert (picture[~tile] == 1).all()  # gaps, and the place that is left over


def test_grid_clamps_for_display():
    picture = plot.make_grid(torch.tensor([-3.0, -1, 0, 1, 9]).reshape(5, 1, 1, 1), columns=5, gap=0)
    assert picture.flatten().tolist() == [0, 0, 0.5, 1, 1]


def test_image_grid_shows_the_grid_with_its_labels():
    images = torch.rand(4, 3, 6, 6) * 2 - 1
    fig = plot.image_grid(images, columns=2, titles=["a", "b"], rows=["real", "model"])
    (ax,) = fig.axes
    torch.testing.assert_close(torch.tensor(ax.images[0].get_array()), plot.make_grid(images, 2))
    assert [label.get_text() for label in ax.get_xticklabels()] == ["a", "b"]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["real", "model"]
    # A label stands at the middle of its column: 1 + 3 and 8 + 3 pixels from the left edge.
    assert ax.get_xticks() == pytest.approx([4, 11], abs=0.6)
    assert fig.get_figwidth() <= plot.PAGE


@pytest.mark.parametrize(("n", "shape"), [(4, (1, 4)), (12, (2, 10))])
def test_image_grid_takes_ten_columns_at_most(n, shape):
    (ax,) = plot.image_grid(torch.zeros(n, 1, 8, 8)).axes
    assert ax.images[0].get_array().shape == (9 * shape[0] + 1, 9 * shape[1] + 1)


def test_field_draws_arrows_where_they_belong():
    fig = plot.field(vectors=lambda p: p @ torch.tensor([[0.0, 1.0], [-2.0, 0.0]]), limits=(-1, 2))
    (arrows,) = fig.axes[0].collections
    places = torch.tensor(arrows.get_offsets())
    assert (places.min(), places.max()) == (-1, 2)
    torch.testing.assert_close(torch.tensor(arrows.U), -2 * places[:, 1], check_dtype=False)
    torch.testing.assert_close(torch.tensor(arrows.V), places[:, 0], check_dtype=False)


def test_field_is_darkest_where_the_density_is_largest():
    # Increasing to the right and upwards: the right must be darker than the left, the top than the bottom.
    fig = plot.field(density=lambda p: p[:, 0] + 2 * p[:, 1])
    fig.axes[0].set_axis_off()
    grey = torch.tensor(numpy.asarray(pixels(fig).convert("L").resize((8, 8))))[1:-1, 1:-1]
    assert (grey[:, -1] < grey[:, 0]).all()
    assert (grey[0] < grey[-1]).all()
    assert grey[0, 0] < grey[-1, -1]  # upwards counts more than to the right


def test_field_draws_points_into_given_axes():
    fig, (left, right) = pyplot.subplots(1, 2)
    points = torch.randn(9, 2)
    assert plot.field(points=points, ax=right) is fig
    assert not left.collections
    torch.testing.assert_close(torch.tensor(right.collections[0].get_offsets()).float(), points)


def test_trajectories_are_lines_from_start_to_end():
    path = torch.randn(6, 4, 2)
    fig = plot.trajectories(path)
    lines, (start, end) = fig.axes[0].lines, fig.axes[0].collections
    for i, line in enumerate(lines):
        torch.testing.assert_close(torch.tensor(line.get_xydata()), path[:, i].double())
    assert len(lines) == 4
    torch.testing.assert_close(torch.tensor(start.get_offsets()).float(), path[0])
    torch.testing.assert_close(torch.tensor(end.get_offsets()).float(), path[-1])
    assert [text.get_text() for text in fig.axes[0].get_legend().get_texts()] == ["start", "end"]


def test_trajectories_against_time():
    path, times = torch.randn(6, 4), torch.linspace(1, 0, 6)
    (ax,) = plot.trajectories(path, times).axes
    for i, line in enumerate(ax.lines):
        torch.testing.assert_close(torch.tensor(line.get_xydata()), torch.stack([times, path[:, i]], 1).double())
    assert "time" in ax.get_xlabel()


def test_style_is_readable_and_the_default_after_use_style():
    plot.use_style()
    rc = matplotlib.rcParams
    sizes = ("font.size", "axes.labelsize", "axes.titlesize", "xtick.labelsize", "ytick.labelsize", "legend.fontsize")
    assert all(rc[size] >= 10 for size in sizes)
    assert rc["figure.figsize"][0] == plot.PAGE
    assert rc["axes.prop_cycle"].by_key()["color"] == list(plot.COLOURS)


def test_functions_draw_in_the_style_and_leave_the_defaults_alone():
    before = matplotlib.rcParams.copy()
    fig = plot.trajectories(torch.randn(3, 2, 2))
    assert fig.axes[0].get_xticklabels()[0].get_fontsize() == plot.STYLE["xtick.labelsize"]
    assert fig.axes[0].get_legend().get_texts()[0].get_fontsize() == plot.STYLE["legend.fontsize"]
    assert matplotlib.rcParams == before


# Machado, Oliveira and Fernandes 2009: how a protanope, a deuteranope and a tritanope see linear RGB.
BLINDNESS = {
    "normal": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
    "protan": [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
    "deutan": [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
    "tritan": [[1.256, -0.077, -0.179], [-0.078, 0.931, 0.148], [0.005, 0.691, 0.304]],
}


def nearest_pair(colours):
    """The smallest distance between two colours in RGB, over all kinds of colour vision."""
    linear = torch.tensor([to_rgb(colour) for colour in colours]) ** 2.2
    seen = [(linear @ torch.tensor(kind).float().mT).clamp(0, 1) ** (1 / 2.2) for kind in BLINDNESS.values()]
    return min(float((a - b).norm()) for view in seen for a, b in combinations(view, 2))


def test_colours_stay_apart_for_every_kind_of_colour_vision():
    # As many of matplotlib's own colours come twice as near to each other for somebody.
    usual = matplotlib.colormaps["tab10"].colors[: len(plot.COLOURS)]
    assert nearest_pair(plot.COLOURS) > 2 * nearest_pair(usual)


def test_show_displays_once_with_alternative_text_and_closes(monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda bundle, raw: shown.append((bundle, raw)))
    fig, _ = pyplot.subplots(figsize=(3, 2))
    plot.show(fig, alt='a "picture" of x < y')
    ((bundle, raw),) = shown
    assert raw
    assert bundle["text/plain"] == 'a "picture" of x < y'
    assert 'alt="a &quot;picture&quot; of x &lt; y"' in bundle["text/html"]
    assert "width:3in;max-width:100%" in bundle["text/html"]
    assert f"base64,{bundle['image/png']}" in bundle["text/html"]
    assert Image.open(io.BytesIO(b64decode(bundle["image/png"]))).size == (3 * 144, 2 * 144)
    assert not pyplot.get_fignums()


def test_a_palette_makes_the_file_smaller_and_keeps_the_picture():
    fig = plot.field(density=lambda p: torch.exp(-p.square().sum(1)), points=torch.randn(50, 2))
    fig.set_layout_engine("none")  # it would move the axes by a pixel between two drawings
    full, small = pixels(fig), pixels(fig, colours=128)
    assert small.mode == "P"
    assert len(plot.png(fig, colours=128)) < 0.6 * len(plot.png(fig))
    difference = ImageChops.difference(full.convert("RGB"), small.convert("RGB"))
    assert max(ImageStat.Stat(difference).rms) < 2  # of 255 levels


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: plot.make_grid(torch.zeros(2, 2, 4, 4), 2), r"\(N, 1 or 3, H, W\), N ≥ 1, got \(2, 2, 4, 4\)"),
        (lambda: plot.make_grid(torch.zeros(0, 1, 4, 4), 2), r"N ≥ 1, got \(0, 1, 4, 4\)"),
        (lambda: plot.make_grid(torch.zeros(1, 1, 4, 4) / 0, 2), "images must be finite"),
        (lambda: plot.image_grid(torch.zeros(4, 1, 4, 4), 0), "columns must be at least 1, got 0"),
        (lambda: plot.image_grid(torch.zeros(4, 1, 4, 4), 2, titles=["a"]), "titles must hold 2 labels, got 1"),
        (lambda: plot.image_grid(torch.zeros(4, 1, 4, 4), 4, rows=["a", "b"]), "rows must hold 1 labels, got 2"),
        (lambda: plot.field(), "needs a density, vectors or points"),
        (lambda: plot.field(points=torch.zeros(2, 2), limits=(1, 1)), r"limits must increase, got \(1, 1\)"),
        (lambda: plot.field(points=torch.zeros(2, 3)), r"points must have shape \(n, 2\), got \(2, 3\)"),
        (lambda: plot.field(vectors=lambda p: p[:, 0]), r"vectors must have shape \(n, 2\), got \(361,\)"),
        (lambda: plot.field(density=lambda p: p), r"map \(M, 2\) to \(M,\), got \(25600, 2\) for M = 25600"),
        (lambda: plot.trajectories(torch.zeros(3, 2, 3)), r"got \(3, 2, 3\) and None"),
        (lambda: plot.trajectories(torch.zeros(3, 2)), r"got \(3, 2\) and None"),
        (lambda: plot.trajectories(torch.zeros(3, 2), torch.zeros(2)), r"got \(3, 2\) and \(2,\)"),
        (lambda: plot.show(None, alt="  "), "must say what the figure shows"),
    ],
)
def test_plots_refuse(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_without_matplotlib_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"matplotlib is needed.*pip install \"minidiff\[book\]\""):
        plot.image_grid(torch.zeros(1, 1, 2, 2))
