"""``diffuscope replay``: generate an image again from its receipt."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from diffuscope.cli.common import ImageFlags
from diffuscope.cli.flags import command
from diffuscope.cli.generate import AdapterFlags
from diffuscope.cli.terminal import say
from diffuscope.model_source import ModelSource
from diffuscope.schema import Group


@dataclass(frozen=True)
class ReplayFlags:
    """What is repeated, and where the new image goes."""

    picture: Annotated[Path, Group("replay")]
    """a PNG with a receipt"""
    out: Annotated[Path | None, Group("output")] = None
    """file for the new image, with its receipt; not written by default; if it exists, out-2.png is written"""
    overwrite: bool = False
    """replace a file that exists"""


@command(positional="picture")
def replay(flags: ReplayFlags, images: ImageFlags, source: ModelSource, adapters: AdapterFlags) -> None:
    """Generate an image again from its receipt; report whether it is identical, or the first step that differs.

    A receipt has only the hashes of start images, masks, LoRAs and embeddings, so pass these files again. A model that
    is not shipped needs --model, or --models-dir with the file that the receipt names.
    """
    from diffuscope.output import check_output

    if flags.out is not None:
        check_output(flags.out, "out", overwrite=flags.overwrite)

    from diffuscope.reproduce import replay as repeat

    again = repeat(
        flags.picture,
        model=source,
        image=images.image,
        mask_image=images.mask_image,
        lora_dir=adapters.lora_dir,
        embeddings=adapters.embedding,
    )
    say(str(again))
    if flags.out is not None:
        (path,) = again.save(flags.out, overwrite=flags.overwrite)
        say(str(path))
