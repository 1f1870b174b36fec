"""SVG documents to pixels, with resvg, on all cores."""

import io
from collections.abc import Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from diffuscope.data.corpus import Corpus
from diffuscope.data.processes import parallel_map
from diffuscope.errors import DiffuscopeError, InputError

_CHUNK = 64


def render(svg: str, size: int = 128) -> NDArray[np.uint8]:
    """One SVG document as [size,size,4] RGBA, not premultiplied."""
    try:
        import resvg_py
    except ImportError as error:
        raise DiffuscopeError("rendering needs resvg, which is not installed; run: pip install resvg-py") from error
    try:
        png = resvg_py.svg_to_bytes(svg_string=svg, width=size, height=size, dpi=96.0, skip_system_fonts=True)
    except ValueError as error:
        raise InputError("svg", svg, f"a document that resvg can render ({error})") from error
    with Image.open(io.BytesIO(bytes(png))) as image:
        return np.array(image.convert("RGBA"))


def render_all(corpus: Corpus, size: int = 128, processes: int | None = None) -> NDArray[np.uint8]:
    """[N,size,size,4] RGBA of all pictures of ``corpus``; ``processes`` of None is one per core."""
    out = np.empty((len(corpus.pictures), size, size, 4), np.uint8)
    chunks = [[p.svg for p in corpus.pictures[i : i + _CHUNK]] for i in range(0, len(out), _CHUNK)]
    for index, done in enumerate(parallel_map(partial(_render_chunk, size=size), chunks, processes)):
        out[index * _CHUNK : index * _CHUNK + len(done)] = done
    return out


def _render_chunk(svgs: Sequence[str], size: int) -> NDArray[np.uint8]:
    return np.stack([render(svg, size) for svg in svgs])
