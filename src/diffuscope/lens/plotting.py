"""What the figures share: colours that the colour-blind tell apart, a notebook's width, panels, pictures in them."""

from __future__ import annotations

import functools
import importlib
import io
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from PIL import Image

from diffuscope.errors import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
MAP, SIGNED, GREY = "cividis", "PuOr_r", "Greys"
WIDTH = 9.0  # inches


def axes(rows: int, columns: int, height: float, *, some: bool = True, sharey: bool = False) -> tuple[Figure, Any]:
    """An empty figure ``height`` inches high, and its panels in one list, row by row.

    Raises:
        InputError: there is nothing to draw, as ``some`` says, or matplotlib is not there.
    """
    if not some:
        raise InputError("nothing to draw; give at least one")
    figure: Figure = _shown_by_itself()(figsize=(WIDTH, height), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, sharey=sharey)
    for panel in panels.flat:
        panel.title.set_fontsize(9)
        panel.tick_params(labelsize=8)
    return figure, list(panels.flat)


@functools.cache
def _shown_by_itself() -> Callable[..., Figure]:
    """Matplotlib's Figure that a notebook shows as it stands, without pyplot and its state."""
    try:
        figure = importlib.import_module("matplotlib.figure").Figure
    except ImportError as error:
        raise InputError("figures need matplotlib, which is not there; install diffuscope[plot]") from error
    return type("Figure", (figure,), {"_repr_png_": _png})


def _png(figure: Figure) -> bytes:
    with io.BytesIO() as file:
        figure.savefig(file, format="png")
        return file.getvalue()


def show(panel: Any, picture: Image.Image, title: str) -> None:
    """Put a picture with its title into a panel, without ticks."""
    panel.imshow(picture.convert("RGB"))
    panel.set(xticks=[], yticks=[])
    panel.set_title(title, fontsize=8)
