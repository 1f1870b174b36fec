"""``diffuscope replay``: make a picture again from its receipt."""

import sys
from pathlib import Path

from tyro.conf import Positional


def replay(
    picture: Positional[Path],
    /,
    *,
    model: str | None = None,
    family: str | None = None,
    vae: str | None = None,
    image: Path | None = None,
    mask: Path | None = None,
    lora_dir: Path | None = None,
    embedding: tuple[Path, ...] = (),
    models_dir: Path | None = None,
    allow_pickle: bool = False,
    out: Path | None = None,
) -> None:
    """Make a picture again from its receipt, and say whether it is identical and, if not, where it first differs.

    Args:
        picture: a PNG with our receipt.
        model: the model that made it, where it is not a shipped one: a folder or a file.
        family: for a single file that cannot tell what it is, such as sd21 or sd21-v.
        vae: the VAE that took the place of the model's own, where there was one.
        image: the start picture, where there was one.
        mask: the mask, where there was one.
        lora_dir: the folder of the LoRAs, where there were any.
        embedding: the textual-inversion files, where there were any.
        models_dir: the folder of another program's models, used in place.
        allow_pickle: also read a model, a VAE or an embedding that torch pickled.
        out: where to write the new picture; nowhere if left out.
    """
    from diffuscope.images import check_output, write_png

    if out is not None:
        check_output(out)

    from diffuscope.pipeline import replay as repeat

    again = repeat(
        picture,
        model=model,
        image=image,
        mask_image=mask,
        lora_dir=lora_dir,
        embeddings=embedding,
        family=family,
        vae=vae,
        models_dir=models_dir,
        allow_pickle=allow_pickle,
    )
    sys.stdout.write(f"{again}\n")
    if out is not None:
        write_png(out, again.image)
