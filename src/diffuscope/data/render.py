"""Vector pictures to pixels, with resvg, on every core."""

import io
from collections.abc import Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from diffuscope.data.corpus import Corpus
from diffuscope.data.processes import in_order
from diffuscope.errors import InputError

_CHUNK = 64


def render(svg: str, size: int = 128) -> NDArray[np.uint8]:
    """One SVG document as [size,size,4] RGBA, colours not multiplied by alpha.

    Raises:
        InputError: resvg is not installed, or cannot draw the document.
    """
    try:
        import resvg_py
    except ImportError as error:
        raise InputError("drawing the corpus needs resvg; install the extra: pip install 'diffuscope[data]'") from error
    try:
        png = resvg_py.svg_to_bytes(svg_string=svg, width=size, height=size, dpi=96.0, skip_system_fonts=True)
    except ValueError as error:
        raise InputError(f"resvg cannot draw the picture ({error}); mend it or leave it out: {svg[:200]}") from error
    with Image.open(io.BytesIO(bytes(png))) as image:
        return np.array(image.convert("RGBA"))


def render_all(corpus: Corpus, size: int = 128, processes: int | None = None) -> NDArray[np.uint8]:
    """Every picture of ``corpus``, in its order.

    Args:
        corpus: what to draw.
        size: pixels a side.
        processes: how many to use; None is one per core. The result does not depend on it.

    Returns:
        [N,size,size,4] RGBA.
    """
    out = np.empty((len(corpus.pictures), size, size, 4), np.uint8)
    chunks = [[p.svg for p in corpus.pictures[i : i + _CHUNK]] for i in range(0, len(out), _CHUNK)]
    for index, done in enumerate(in_order(partial(_render_chunk, size=size), chunks, processes)):
        out[index * _CHUNK : index * _CHUNK + len(done)] = done
    return out


def _render_chunk(svgs: Sequence[str], size: int) -> NDArray[np.uint8]:
    return np.stack([render(svg, size) for svg in svgs])
