"""``diffuscope replay``: make a picture again from its receipt."""

import sys
from pathlib import Path

from tyro.conf import Positional


def replay(
    picture: Positional[Path],
    /,
    *,
    model: str | None = None,
    image: Path | None = None,
    mask: Path | None = None,
    lora_dir: Path | None = None,
    out: Path | None = None,
) -> None:
    """Make a picture again from its receipt, and say whether it is identical and, if not, where it first differs.

    Args:
        picture: a PNG with our receipt.
        model: the model that made it, where it is not a shipped one: a folder.
        image: the start picture, where there was one.
        mask: the mask, where there was one.
        lora_dir: the folder of the LoRAs, where there were any.
        out: where to write the new picture; nowhere if left out.
    """
    from diffuscope.images import check_output, write_png

    if out is not None:
        check_output(out)

    from diffuscope.pipeline import replay as repeat

    again = repeat(picture, model=model, image=image, mask_image=mask, lora_dir=lora_dir)
    sys.stdout.write(f"{again}\n")
    if out is not None:
        write_png(out, again.image)
