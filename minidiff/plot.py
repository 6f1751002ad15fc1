"""Figures in one colour-blind-safe style, with alternative text for readers who cannot see them.

Every function returns a matplotlib `Figure`; hand it to `show(fig, alt=...)`. The alternative text is given
in code, so that it is there in JupyterLab and on the page alike. A number and a caption for the page belong
to the cell's metadata: `{"mystnb": {"figure": {"name": "fig-denoising", "caption": "..."}}}`.
"""

from __future__ import annotations

import functools
import html
import io
from base64 import b64encode
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ParamSpec

import torch
from torch import Tensor

from minidiff.arguments import finite, positive_integer
from minidiff.extras import require

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

P = ParamSpec("P")

PAGE = 7.0  # the width of a page's text in inches
# Okabe and Ito's palette, distinguishable with every common kind of colour blindness; yellow last, it is
# faint on white.
BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, BLACK, YELLOW = COLOURS = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#000000",
    "#F0E442",
)
STYLE = {
    "figure.figsize": (PAGE, 4.2),
    "figure.facecolor": "white",
    "figure.constrained_layout.use": True,
    "font.size": 11,
    "axes.titlesize": 11,
    "axes.labelsize": 11,
    "xtick.labelsize": 10,
    "ytick.labelsize": 10,
    "legend.fontsize": 10,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.alpha": 0.3,
    "lines.linewidth": 1.8,
    "image.cmap": "cividis",
}


def use_style() -> None:
    """Make the book's style the default of all matplotlib figures that follow: labels ≥ 10 pt at page width."""
    cycle = require("cycler").cycler(color=COLOURS)
    require("matplotlib").rcParams.update(STYLE, **{"axes.prop_cycle": cycle})


def _styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Draw in the book's style whether or not `use_style` was called, and leave the defaults alone."""

    @functools.wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with require("matplotlib").rc_context(STYLE):
            return draw(*args, **kwargs)

    return drawn


def make_grid(images: Tensor, columns: int, gap: int = 1) -> Tensor:
    """Tile images (N, C, H, W) in [−1, 1] row by row into one picture (H′, W′, C) in [0, 1] for display.

    White gaps of `gap` pixels run between the tiles and around them, places left over in the last row are
    white, and values outside [−1, 1] are clamped. Raises ValueError unless C is 1 or 3.
    """
    finite("images", images)
    positive_integer("columns", columns)
    if images.ndim != 4 or images.shape[1] not in (1, 3) or len(images) == 0:
        raise ValueError(f"images must have shape (N, 1 or 3, H, W), N ≥ 1, got {tuple(images.shape)}")
    images = images.detach().cpu().float().clamp(-1, 1) / 2 + 0.5
    n, channels, height, width = images.shape
    rows = -(-n // columns)
    tiles = torch.ones(rows * columns, channels, height + gap, width + gap)
    tiles[:n, :, gap:, gap:] = images
    sheet = tiles.reshape(rows, columns, channels, height + gap, width + gap).permute(0, 3, 1, 4, 2)
    picture = torch.ones(rows * (height + gap) + gap, columns * (width + gap) + gap, channels)
    picture[: rows * (height + gap), : columns * (width + gap)] = sheet.reshape(
        rows * (height + gap), columns * (width + gap), channels
    )
    return picture


@_styled
def image_grid(
    images: Tensor,
    columns: int | None = None,
    titles: Sequence[str] | None = None,
    rows: Sequence[str] | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Images (N, C, H, W) in [−1, 1], C = 1 (grey) or 3, on one sheet, pixels shown as squares.

    columns: images a row, all up to ten if None. titles: a label over each column. rows: a label left of each
    row. Raises ValueError if the number of labels is not that of the columns or rows.
    """
    columns = min(len(images), 10) if columns is None else columns
    picture = make_grid(images, columns)
    count = -(-len(images) // columns)
    for name, labels, needed in (("titles", titles, columns), ("rows", rows, count)):
        if labels is not None and len(labels) != needed:
            raise ValueError(f"{name} must hold {needed} labels, got {len(labels)}")
    height, width, _ = picture.shape
    fig, ax = _canvas(ax, (min(PAGE, 0.7 * columns + 0.3), min(PAGE, 0.7 * columns + 0.3) * height / width))
    ax.imshow(picture.squeeze(-1).numpy(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    ax.grid(False)
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0, top=True, labeltop=True, bottom=False, labelbottom=False)
    ax.set_xticks([(i + 0.5) * width / columns for i in range(columns)] if titles else [], titles or None)
    ax.set_yticks([(i + 0.5) * height / count for i in range(count)] if rows else [], rows or None)
    return fig


@_styled
def field(
    density: Callable[[Tensor], Tensor] | None = None,
    vectors: Callable[[Tensor], Tensor] | None = None,
    points: Tensor | None = None,
    limits: tuple[float, float] = (-3.0, 3.0),
    ax: Axes | None = None,
) -> Figure:
    """A scalar field as shades, a vector field as arrows, and points, in the square limits × limits of the
    plane.

    density maps points (M, 2) to (M,), e.g. exp of a log-density, darker where larger; vectors maps (M, 2) to
    (M, 2), e.g. a score, and its arrows are in proportion to it; points (n, 2) are dots. At least one must be
    given.
    """
    if density is None and vectors is None and points is None:
        raise ValueError("field needs a density, vectors or points, got none of them")
    if not limits[0] < limits[1]:
        raise ValueError(f"limits must increase, got {limits}")
    fig, ax = _canvas(ax, (4.6, 4.6))
    if density is not None:
        places = _lattice(limits, 160)
        values = density(places).detach().cpu()
        if values.shape != places.shape[:1]:
            raise ValueError(f"density must map (M, 2) to (M,), got {tuple(values.shape)} for M = {len(places)}")
        x, y, z = (v.reshape(160, 160) for v in (*places.mT, values))
        ax.contourf(x, y, z, levels=12, cmap="Blues")
    if points is not None:
        ax.scatter(*_plane("points", points), s=5, color=BLACK, alpha=0.5, linewidths=0)
    if vectors is not None:
        places = _lattice(limits, 19)
        ax.quiver(*places.mT, *_plane("vectors", vectors(places)), color=VERMILION, angles="xy", width=0.005)
    ax.set(xlim=limits, ylim=limits, aspect="equal")
    return fig


@_styled
def trajectories(path: Tensor, times: Tensor | None = None, ax: Axes | None = None) -> Figure:
    """The ways B points took through n states: path (n, B, 2) in the plane, or path (n, B) against times
    (n,).

    In the plane a circle marks each start and a dot each end. Raises ValueError for other shapes, and unless
    `times` is given exactly when the path is one-dimensional.
    """
    finite("path", path)
    if not (path.ndim == 3 and path.shape[2] == 2 and times is None) and not (
        path.ndim == 2 and times is not None and times.shape == path.shape[:1]
    ):
        raise ValueError(
            "path must have shape (n, B, 2) without times, or (n, B) with times (n,), got "
            f"{tuple(path.shape)} and {None if times is None else tuple(times.shape)}"
        )
    path = path.detach().cpu()
    fig, ax = _canvas(ax, (4.6, 4.6) if times is None else (PAGE, 3.6))
    if times is not None:
        ax.plot(times.cpu(), path, color=BLUE, alpha=0.5, linewidth=1)
        ax.set(xlabel="time t (0 = data, 1 = noise)", ylabel="x")
        return fig
    ax.plot(path[..., 0], path[..., 1], color=BLUE, alpha=0.5, linewidth=1)
    ax.scatter(*path[0].mT, s=14, facecolors="none", edgecolors=VERMILION, label="start", zorder=3)
    ax.scatter(*path[-1].mT, s=10, color=BLACK, label="end", zorder=3)
    ax.set_aspect("equal")
    ax.legend()
    return fig


def png(fig: Figure, dpi: int = 144, colours: int | None = None) -> bytes:
    """The figure as the bytes of a PNG file; a palette of `colours` (2…256) makes it several times smaller."""
    buffer = io.BytesIO()
    fig.savefig(buffer, format="png", dpi=dpi)
    if colours is None:
        return buffer.getvalue()
    picture = require("PIL.Image").open(buffer).convert("RGB").quantize(colours)
    buffer = io.BytesIO()
    picture.save(buffer, format="png", optimize=True)
    return buffer.getvalue()


def show(fig: Figure, alt: str) -> None:
    """Display a figure with alternative text, and close it, so that a notebook does not display it twice.

    alt says what the picture shows, for those who cannot see it; it becomes the image's `alt` on the page.
    Raises ValueError if it is empty.
    """
    if not alt.strip():
        raise ValueError("alt must say what the figure shows, got an empty text")
    picture = png(fig)
    width = fig.get_figwidth()
    close(fig)
    bundle = {"text/plain": alt, "text/html": image_tag(picture, alt, width), "image/png": b64encode(picture).decode()}
    require("IPython.display").display(bundle, raw=True)


def close(fig: Figure) -> None:
    """Forget the figure, if pyplot made it."""
    require("matplotlib.pyplot").close(fig)


def image_tag(picture: bytes, alt: str, width: float) -> str:
    """An HTML image from the bytes of a PNG file: `width` inches wide, but no wider than the page."""
    return (
        f'<img src="data:image/png;base64,{b64encode(picture).decode()}" alt="{html.escape(alt)}" '
        f'style="width:{width:g}in;max-width:100%;height:auto;background:white">'
    )


def _canvas(ax: Axes | None, size: tuple[float, float]) -> tuple[Figure, Axes]:
    """The axes to draw in and their figure: the given ones, or new ones."""
    if ax is not None:
        return ax.figure, ax
    fig = require("matplotlib.figure").Figure(figsize=size)
    return fig, fig.add_subplot()


def _lattice(limits: tuple[float, float], n: int) -> Tensor:
    """n² points (n², 2) in the square, x running fastest."""
    line = torch.linspace(*limits, n)
    y, x = torch.meshgrid(line, line, indexing="ij")
    return torch.stack([x.flatten(), y.flatten()], dim=1)


def _plane(name: str, x: Tensor) -> Tensor:
    """The two rows of coordinates of x (n, 2), on the CPU."""
    if x.ndim != 2 or x.shape[1] != 2:
        raise ValueError(f"{name} must have shape (n, 2), got {tuple(x.shape)}")
    return x.detach().cpu().mT
