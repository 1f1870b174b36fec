"""Pictures in requests of other programs: base64 read, and what is put back around a masked area."""

import base64
import binascii
from dataclasses import dataclass

from PIL import Image

from diffuscope.errors import InputError, Unquoted
from diffuscope.images import fit_to_size

WANTED = "base64 of a PNG, JPEG or WebP file; no address is fetched"


@dataclass(frozen=True)
class Source:
    """The picture of a request, and its masked area."""

    image: Image.Image
    """RGB, what the model gets."""
    mask: Image.Image | None = None
    """Mode "L", of its size."""
    around: Image.Image | None = None
    """What is kept outside the masked area."""
    blend: Image.Image | None = None
    """Mode "L", of the size of ``around``: how much of the generation is seen."""
    box: tuple[int, int, int, int] | None = None
    """The part of ``around`` that is generated; all of it by default."""

    def finished(self, image: Image.Image) -> Image.Image:
        """The generation, put into what is kept around the masked area."""
        if self.around is None or self.blend is None:
            return image
        box = self.box or (0, 0, *self.around.size)
        whole = self.around.copy()
        whole.paste(fit_to_size(image, box[2] - box[0], box[3] - box[1]), box[:2])
        return Image.composite(whole, self.around, self.blend)


def decoded(value: object, argument: str) -> bytes:
    """The bytes of a base64 text, which may be a data URL.

    Raises:
        InputError: it is none, or an address.
    """
    if not isinstance(value, str) or value[:5].lower() in ("http:", "https", "file:"):
        raise InputError(argument, Unquoted("something else"), WANTED)
    text = value.partition(",")[2] if value.startswith("data:") else value
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        raise InputError(argument, Unquoted("other characters"), WANTED) from None
