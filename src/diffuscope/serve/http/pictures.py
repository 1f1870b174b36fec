"""Pictures by id: those that were made, and those that were sent in. No path and no address is ever opened."""

import hashlib
import io
import warnings

from PIL import Image

from diffuscope.errors import ImageError, InputError, Unquoted
from diffuscope.images import FORMATS, open_image, png_bytes
from diffuscope.pipeline import receipt as receipts
from diffuscope.pipeline.result import ArrayResult
from diffuscope.serve.engine import Engine
from diffuscope.serve.http.errors import NotFoundError
from diffuscope.serve.store import Store

MAX_PIXELS = 1 << 24
"""Of a picture that is sent in; a larger one is refused by its header, before decoding."""

BUDGET = 1 << 28
"""Bytes of the files that were sent in and are kept."""

INPUTS = ("image", "mask_image")
"""Arguments of a job that are pictures; "JOB-image" is the id of such a one."""

FILE = "a whole PNG, JPEG or WebP file of one frame"


def opened(content: bytes, argument: str, *, mode: str | None = None) -> Image.Image:
    """A picture that was sent in, as RGB over white; with ``mode`` in that mode, as it is.

    Raises:
        InputError: no image, several frames, or too many pixels.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of damaged EXIF
            with Image.open(io.BytesIO(content), formats=FORMATS) as image:
                if image.width * image.height > MAX_PIXELS:
                    size = Unquoted(f"{image.width}x{image.height}")
                    raise InputError(argument, size, f"a picture of at most {MAX_PIXELS:,} pixels")
                if getattr(image, "n_frames", 1) != 1:
                    raise InputError(argument, Unquoted("several frames"), FILE)
                return open_image(content) if mode is None else image.convert(mode)
    except InputError:
        raise
    except (ImageError, Image.DecompressionBombError, OSError, SyntaxError, ValueError, EOFError) as error:
        raise InputError(argument, Unquoted("other bytes"), FILE) from error


class Pictures:
    """The pictures of an Engine's jobs, and those that callers have sent in."""

    def __init__(self, engine: Engine, budget: int = BUDGET) -> None:
        self._engine = engine
        self._sent: Store[bytes] = Store(budget)

    def add(self, content: bytes) -> tuple[str, Image.Image]:
        """Keep the file of a picture; its id, which is its hash, and the picture."""
        image = opened(content, "picture")
        id = hashlib.sha256(content).hexdigest()[:32]
        self._sent.put(id, content, len(content))
        return id, image

    def content(self, id: str) -> bytes:
        """The file of a picture: as it was sent in, as PNG with its receipt, or as PNG what a job began with.

        Raises:
            NotFoundError: no picture of that id, or it is forgotten.
        """
        sent = self._sent.get(id)
        if sent is not None:
            return sent
        name, _, index = id.partition("-")
        job = self._engine.job(name)
        if job is not None and index in INPUTS:
            given = getattr(job.request, index, None)
            if isinstance(given, Image.Image):
                return png_bytes(given)
        if job is not None and index.isdecimal() and len(index) < 6 and int(index) < len(job.results):
            result = job.results[int(index)]
            if result is not None and not isinstance(result, ArrayResult):
                return png_bytes(result.images[0], receipts.chunks(result.receipt, 0))
        raise NotFoundError("no picture of that id; it may be forgotten, or not done yet")

    def inputs(self, image: str | None, mask_image: str | None) -> dict[str, Image.Image]:
        """The pictures of a call by their ids, as its arguments.

        Raises:
            InputError: there is no such picture.
        """
        ids = {"image": image, "mask_image": mask_image}
        return {name: self.image(id, name) for name, id in ids.items() if id is not None}

    def image(self, id: str, argument: str) -> Image.Image:
        """A picture by its id, as an input.

        Raises:
            InputError: no picture of that id.
        """
        try:
            return opened(self.content(id), argument)
        except NotFoundError:
            raise InputError(argument, id, "the id of a picture that was sent in or made, and is still kept") from None
