"""What a call returns."""

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from diffuscope.errors import InputError, Unquoted
from diffuscope.images import tiled, write_png
from diffuscope.output import check_output, numbered
from diffuscope.pipeline import receipt as receipts
from diffuscope.pipeline.receipt import Receipt


@dataclass(frozen=True, repr=False)
class Result:
    """Images, with what is needed to make them again."""

    images: list[Image.Image]
    latents: Tensor = field(repr=False)
    """[N,C,h,w] float32 on the CPU, in the network's scale: what ``Pipeline.decode`` takes."""
    seeds: list[int]
    """One per image."""
    receipt: Receipt = field(repr=False)
    """JSON values: everything needed to make the same images; ``save`` writes it into each file."""

    def __repr__(self) -> str:
        several = "s" * (len(self.seeds) > 1)
        seeds = ", ".join(map(str, self.seeds[:4])) + (f" ... {self.seeds[-1]}" if len(self.seeds) > 4 else "")
        notes = "".join(f"; note: {note}" for note in self.notes)
        return f"{type(self).__name__}({self._about()}, seed{several} {seeds}{notes})"

    def _about(self) -> str:
        width, height = self.images[0].size
        return f"{len(self.images)} image{'s' * (len(self.images) > 1)} of {width}x{height}"

    def _repr_png_(self) -> bytes | None:
        """The images for a notebook, several in rows of four."""
        with io.BytesIO() as file:
            tiled(self.images, 4).save(file, format="PNG")
            return file.getvalue()

    @property
    def notes(self) -> list[str]:
        """What the call has to say: words that were cut off, files read otherwise, latents out of range ..."""
        return list(self.receipt["notes"])

    def save(self, path: str | PathLike[str], *, metadata: bool = True, overwrite: bool = True) -> list[Path]:
        """Write the images as PNG and return their paths: ``out.png``, or ``out-0.png`` and so on for several.

        Each file appears whole or not at all. Its text chunks are ``parameters``, which other programs read, and
        ``diffuscope``, our receipt as JSON; none without ``metadata``. Without ``overwrite`` files that exist stay, and
        the new ones get the next free number: ``out-2.png``, or ``out-2-0.png`` and so on.

        Raises:
            InputError: the name does not end in .png.
            OutputError: no such folder, no permission, no space.
        """
        return write_images(self, range(len(self.images)), Path(path), metadata=metadata, overwrite=overwrite)


@dataclass(frozen=True, repr=False)
class ArrayResult(Result):
    """The result of a call with another ``output_type``: ``images`` is an array, a tensor or the latents, not saved."""

    images: NDArray[np.float32] | Tensor = field(repr=False)  # type: ignore[assignment]

    def _about(self) -> str:
        return f"{type(self.images).__name__} {list(self.images.shape)}"

    def _repr_png_(self) -> None:
        """Nothing to show."""


def write_images(
    result: Result, indices: Sequence[int], path: Path, *, metadata: bool = True, overwrite: bool = True
) -> list[Path]:
    """Write these images of a result; see ``Result.save``."""
    if isinstance(result, ArrayResult):
        raise InputError("output_type", Unquoted("arrays"), "'pil', for images that can be saved")
    check_output(path, count=len(indices), overwrite=overwrite)
    names = numbered(path, len(indices), overwrite=overwrite)
    for k, index in enumerate(indices):
        texts = receipts.chunks(result.receipt, index) if metadata else None
        while True:
            try:
                write_png(names[k], result.images[index], texts, overwrite=overwrite)
                break
            except FileExistsError:  # another process has taken the name meanwhile
                names[k:] = numbered(path, len(indices), overwrite=False)[k:]
    return names
