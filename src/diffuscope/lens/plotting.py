"""What the figures share: colours, panels, lines, heat maps and images."""

from __future__ import annotations

import functools
import io
from collections.abc import Callable, Mapping, Sequence, Sized
from typing import TYPE_CHECKING, Any

from PIL import Image

from diffuscope.errors import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BLUE, ORANGE = "#0072B2", "#D55E00"
COLOURS = (BLUE, ORANGE, "#009E73", "#CC79A7")
MARKERS = "osD^v<"
MAP, SIGNED, GREY = "cividis", "PuOr_r", "Greys"
WIDTH = 9.0  # inches

Points = tuple[Sequence[float], Sequence[float]]
"""x and y."""


def check_some(argument: str, values: Sized) -> None:
    """Refuse an empty argument."""
    if not len(values):
        raise InputError(argument, values, "at least one to draw")


def axes(rows: int, columns: int, height: float, *, sharey: bool = False) -> tuple[Figure, list[Any]]:
    """An empty figure ``height`` inches high, and its panels row by row."""
    figure: Figure = _figure_class()(figsize=(WIDTH, height), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, sharey=sharey)
    for panel in panels.flat:
        panel.title.set_fontsize(9)
        panel.tick_params(labelsize=8)
    return figure, list(panels.flat)


def grid(count: int, columns: int) -> tuple[Figure, list[Any]]:
    """A figure of ``count`` square panels with titles, in rows of ``columns``."""
    columns = min(columns, count)
    rows = -(-count // columns)
    figure, panels = axes(rows, columns, rows * (WIDTH / columns + 0.35))
    for panel in panels[count:]:
        panel.remove()
    return figure, panels[:count]


def lines(panel: Any, points: Mapping[str, Points], *, connected: bool = True) -> None:
    """One line of markers for each name, over a grid; the name "" has no place in the legend."""
    for number, (name, (x, y)) in enumerate(points.items()):
        panel.plot(
            x,
            y,
            color=COLOURS[number % len(COLOURS)],
            marker=MARKERS[number % len(MARKERS)],
            markersize=4,
            linestyle="-" if connected else "none",
            label=name or None,
        )
    panel.grid(alpha=0.3)
    if any(points):
        panel.legend(fontsize=8)


def heat_map(panel: Any, values: Any, *, bar: bool = True, ticks: bool = False, **options: Any) -> None:
    """An array as colours, with a colour bar; ``options`` are those of ``imshow``."""
    drawn = panel.imshow(values, **({"cmap": MAP} | options))
    if not ticks:
        panel.set(xticks=[], yticks=[])
    if bar:
        panel.figure.colorbar(drawn, ax=panel, shrink=0.8)


def show(panel: Any, image: Image.Image, title: str) -> None:
    """An image with its title, without ticks."""
    panel.imshow(image.convert("RGB"))
    panel.set(xticks=[], yticks=[])
    panel.set_title(title, fontsize=8)


@functools.cache
def _figure_class() -> Callable[..., Figure]:
    """Matplotlib's Figure, shown by a notebook without pyplot and its state."""
    from matplotlib.figure import Figure  # on first use: its import takes as long as torch's

    return type("Figure", (Figure,), {"_repr_png_": _png})


def _png(figure: Figure) -> bytes:
    with io.BytesIO() as file:
        figure.savefig(file, format="png")
        return file.getvalue()
