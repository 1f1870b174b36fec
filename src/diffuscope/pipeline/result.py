"""What a call returns."""

from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path

from PIL import Image
from torch import Tensor

from diffuscope.images import check_output, write_png
from diffuscope.pipeline import receipt as receipts
from diffuscope.pipeline.receipt import Receipt


@dataclass(frozen=True)
class Result:
    """Images, with what is needed to make them again."""

    images: list[Image.Image]
    latents: Tensor = field(repr=False)
    """[N,C,h,w] float32 on the CPU, in the network's scale: what ``Pipeline.decode`` takes."""
    seeds: list[int]
    """One per image."""
    receipt: Receipt = field(repr=False)
    """JSON values: everything needed to make the same images; ``save`` writes it into each file."""

    def save(self, path: str | PathLike[str], *, metadata: bool = True) -> list[Path]:
        """Write the images as PNG and return their paths: ``out.png``, or ``out-0.png`` and so on for several.

        Each file appears whole or not at all. Its text chunks are ``parameters``, which other programs read, and
        ``diffuscope``, our receipt as JSON; none without ``metadata``.

        Raises:
            InputError: the name does not end in .png.
            OutputError: no such folder, no permission, no space.
        """
        path = Path(path)
        several = len(self.images) > 1
        names = [path.with_stem(f"{path.stem}-{k}") if several else path for k in range(len(self.images))]
        for name in names:
            check_output(name)
        return [
            write_png(name, image, receipts.chunks(self.receipt, k) if metadata else None)
            for k, (name, image) in enumerate(zip(names, self.images, strict=True))
        ]
