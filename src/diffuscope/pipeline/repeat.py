"""Make a picture again from the receipt in its file, and say whether it is the same."""

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TypedDict, Unpack

import torch
from PIL import Image
from torch import Tensor

from diffuscope import library
from diffuscope.errors import InputError, ModelNotFoundError
from diffuscope.images import ImageSources, image_hash, open_image
from diffuscope.loading import shipped_models
from diffuscope.pipeline import receipt as receipts
from diffuscope.pipeline.opening import load
from diffuscope.pipeline.pipeline import Pipeline
from diffuscope.pipeline.receipt import Receipt
from diffuscope.pipeline.result import Result
from diffuscope.prompt.lora_tags import parse_lora_tags

PICTURES = {"image": "start image", "mask_image": "mask"}
"""What a receipt holds only the hashes of, by their names in a call."""

REPEATED = (
    "negative_prompt",
    "num_inference_steps",
    "guidance_scale",
    "guidance_options",
    "seed",
    "sampler",
    "sampler_options",
    "final_sigma",
    "thresholding",
    "denoising_start",
    "denoising_end",
    "height",
    "width",
    "num_images_per_prompt",
    "clip_skip",
    "original_size",
    "crops_coords_top_left",
    "target_size",
    "upscale",
)
"""What a call takes under the name that it has in a receipt."""


class Opening(TypedDict, total=False):
    """What ``load`` may need beside a model's path, under the names that it has there."""

    family: str | None
    vae: str | PathLike[str] | None
    allow_pickle: bool
    models_dir: str | PathLike[str] | None


@dataclass(frozen=True)
class Replay:
    """What came of making a picture again. ``str()`` says it."""

    identical: bool
    """Whether every pixel is the same."""
    first_difference: int | None
    """The first recorded step at which the clean estimate differs, in any bit; None where all are the same."""
    image: Image.Image
    """The picture made now."""
    result: Result
    """The whole call, which is repeated as it was: in the same batch."""
    circumstances: tuple[str, ...]
    """What is not as it was: versions, device, dtype, threads."""

    def __str__(self) -> str:
        if self.identical:
            verdict = "identical: every pixel is the same"
        elif self.first_difference is None:
            verdict = "not identical: the latents are the same at every recorded step, the pixels are not"
        else:
            verdict = f"not identical: it first differs at step {self.first_difference}"
        return "; ".join([verdict, *self.circumstances])


def replay(
    path: str | PathLike[str],
    *,
    model: Pipeline | str | PathLike[str] | None = None,
    image: ImageSources | Tensor | None = None,
    mask_image: ImageSources | None = None,
    lora_dir: str | PathLike[str] | None = None,
    embeddings: Sequence[str | PathLike[str]] = (),
    **opening: Unpack[Opening],
) -> Replay:
    """Repeat the call that made the picture at ``path``, and compare.

    Args:
        path: a PNG with our receipt.
        model: a Pipeline, or what ``load`` takes; None is the shipped model that the receipt names.
        image: the start image or images, or latents, where there were any: a receipt has only their hash.
        mask_image: likewise the mask or masks.
        lora_dir: the folder of the LoRAs that the receipt names and that ``model`` does not have loaded.
        embeddings: the files of the embeddings that it names and that ``model`` does not have loaded; they are loaded
            into it. Those in ``models_dir`` are found by themselves.
        opening: ``family``, ``vae``, ``allow_pickle`` and ``models_dir``, as ``load`` takes them; not for a Pipeline.

    Raises:
        ImageError: the file has no receipt, or a damaged one.
        InputError: the receipt names other weights, LoRAs or embeddings, another start image or mask, or what no
            receipt can repeat; or a Pipeline is given with what it is opened with.
        ModelNotFoundError: there is no such model.
    """
    old = receipts.read(path)
    _check_repeatable(old, Path(path))
    pipe = _opened(old, model, opening)
    _load_words(old, pipe, embeddings, opening)
    _check_weights(old, pipe)
    _check_given(old, "image", image)
    _check_given(old, "mask_image", mask_image)
    arguments = {name: old[name] for name in REPEATED}
    if lora_dir is not None:
        pipe.lora_dir = lora_dir
    with pipe.adapters.exactly(old["loras"]):
        _check_words(old, pipe)
        result = pipe(
            old["prompt"],
            **arguments,
            sigmas=old["spacing"],
            image=image,
            mask_image=mask_image,
            strength=0.8 if old["strength"] is None else old["strength"],
        )
    for key, what in PICTURES.items():
        if result.receipt[key] != old[key]:
            raise InputError(f"the {what} is not the one that the receipt names; give the same picture")
    picture = old["picture"]
    again = result.images[picture]
    return Replay(
        identical=image_hash(again) == image_hash(open_image(path)),
        first_difference=receipts.first_difference(old, result.receipt, picture),
        image=again,
        result=result,
        circumstances=_circumstances(old, result.receipt),
    )


def _check_repeatable(old: Receipt, path: Path) -> None:
    if old["edits"]:
        raise InputError(
            f"{path} was made with {', '.join(old['edits'])}, which its receipt cannot hold; run the code that made it"
        )


def _check_weights(old: Receipt, pipe: Pipeline) -> None:
    networks = {part: digest for part, digest in old["weights"].items() if part != receipts.CLIP}
    wrong = [part for part, digest in networks.items() if pipe.weights.get(part) != digest]
    if wrong and receipts.dtype_name(pipe.dtype) == old["dtype"]:
        vae = "" if old["vae"] is None else f", and its VAE {old['vae']!r} as vae"
        raise InputError(
            f"the receipt was made with other weights of {', '.join(wrong)} than {pipe.config.name!r} has here; "
            f"give the model {old['model']!r} that made it{vae}"
        )
    if receipts.CLIP in old["weights"] and pipe.clip_hash != old["weights"][receipts.CLIP]:
        raise InputError(
            "the image was guided by a CLIP score with other weights than this installation has; install "
            f"diffuscope {old['versions'].get('diffuscope')}, which made it"
        )


def _check_schedule(old: Receipt, pipe: Pipeline) -> None:
    for name, was in old["schedule"].items():
        now = getattr(pipe.config.schedule, name)
        if was != now:
            raise InputError(
                f"the picture was made with {name}={was!r}, and the Pipeline has {now!r}; "
                f"open it with schedule={old['schedule']}"
            )


def _check_words(old: Receipt, pipe: Pipeline) -> None:
    used = pipe.words.used(parse_lora_tags(text).text for text in [*old["prompt"], *old["negative_prompt"]])
    differing = {each["word"] for each in old["embeddings"] + used if each not in old["embeddings"] or each not in used}
    if differing:
        raise InputError(
            f"the embedding {min(differing)!r} is not the one that the picture was made with; give the same "
            "file among the embeddings, and no other under a word of the prompt"
        )


def _opened(old: Receipt, model: Pipeline | str | PathLike[str] | None, opening: Opening) -> Pipeline:
    if isinstance(model, Pipeline):
        if opening:
            raise InputError(f"a Pipeline is given, which is open already; leave out {', '.join(opening)}")
        _check_schedule(old, model)
        return model
    if model is None and old["model"] not in shipped_models():  # a stranger's receipt must not say which folder to open
        raise ModelNotFoundError(
            f"no model {old['model']!r}, which the receipt names, is part of this installation; give the folder of the "
            "model that made the picture"
        )
    device = old["device"] if _is_here(old["device"]) else "auto"
    path = old["model"] if model is None else model
    return load(path, device=device, dtype=old["dtype"], schedule=old["schedule"], **opening)


def _load_words(old: Receipt, pipe: Pipeline, given: Sequence[str | PathLike[str]], opening: Opening) -> None:
    place = opening.get("models_dir")
    named = [] if place is None else library.named_embeddings(place, (*old["prompt"], *old["negative_prompt"]))
    for path in (*given, *named):
        pipe.load_embedding(path, allow_pickle=opening.get("allow_pickle", False))


def _is_here(device: str) -> bool:
    return device == "cpu" or (device == "cuda" and torch.cuda.is_available())


def _check_given(old: Receipt, key: str, given: object) -> None:
    what = PICTURES[key]
    if old[key] is None:
        if given is not None:
            raise InputError(f"a {what} is given, but the picture was made without one; leave it out")
    elif given is None:
        raise InputError(
            f"the picture was made from a {what}, of which the receipt has only the hash; give it as {key}"
        )


def _circumstances(old: Receipt, new: Receipt) -> tuple[str, ...]:
    pairs = {
        **{f"{name} version": (was, new["versions"].get(name)) for name, was in old["versions"].items()},
        **{name: (old[name], new[name]) for name in ("device", "dtype", "threads")},
    }
    return tuple(f"{name} was {was}, is {now}" for name, (was, now) in pairs.items() if was != now)
