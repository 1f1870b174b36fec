"""``diffuscope replay``: make an image again from its receipt."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from diffuscope.cli.flags import command
from diffuscope.cli.generate import AdapterFlags, ImageFlags
from diffuscope.model_source import ModelSource
from diffuscope.schema import Group


@dataclass(frozen=True)
class ReplayFlags:
    """What is repeated, and where the new image goes."""

    picture: Annotated[Path, Group("replay")]
    """a PNG with a receipt"""
    out: Annotated[Path | None, Group("output")] = None
    """where to write the new image; nowhere by default"""


@command(positional="picture")
def replay(flags: ReplayFlags, images: ImageFlags, source: ModelSource, adapters: AdapterFlags) -> None:
    """Make an image again from its receipt, and report whether it is identical and, if not, where it first differs.

    A receipt holds only hashes of start images, masks, LoRAs and embeddings, and the name of the model: if it used any,
    they have to be given again.
    """
    from diffuscope.images import check_output, write_png

    if flags.out is not None:
        check_output(flags.out, "out")

    from diffuscope.pipeline import replay as repeat

    again = repeat(
        flags.picture,
        model=source,
        image=images.image,
        mask_image=images.mask_image,
        lora_dir=adapters.lora_dir,
        embeddings=adapters.embedding,
    )
    sys.stdout.write(f"{again}\n")
    if flags.out is not None:
        write_png(flags.out, again.image)
