"""Make an image again from the receipt in its file, and compare."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from diffuscope import library
from diffuscope.diffusion.samplers import TABLE
from diffuscope.errors import InputError, ModelNotFoundError, Unquoted, shown
from diffuscope.images import ImageSources, image_hash, open_image
from diffuscope.model_files import shipped_models
from diffuscope.model_source import ModelSource
from diffuscope.pipeline import receipt as receipts
from diffuscope.pipeline.open import open_model
from diffuscope.pipeline.pipeline import Pipeline
from diffuscope.pipeline.receipt import Receipt
from diffuscope.pipeline.result import Result, write_images
from diffuscope.pipeline.run import Run
from diffuscope.prompt.lora_tags import parse_lora_tags
from diffuscope.request import Request
from diffuscope.schema import Options, options
from diffuscope.weights.store.hashing import named_bytes
from diffuscope.weights.store.host import Host

Model = Pipeline | ModelSource | str | PathLike[str] | None


class Files(NamedTuple):
    """What a receipt does not hold; see ``replay``."""

    image: ImageSources | Tensor | None = None
    mask_image: ImageSources | None = None
    lora_dir: str | PathLike[str] | None = None
    embeddings: Sequence[str | PathLike[str]] = ()


IMAGES = ("image", "mask_image")  # inputs of which a receipt holds only the hashes


@dataclass(frozen=True)
class Replay:
    """The outcome of a replay; ``str()`` is one line."""

    identical: bool
    """Whether every pixel is the same."""
    first_difference: int | None
    """The first recorded step whose clean estimate differs in any bit; None if all are the same."""
    image: Image.Image
    """The new image."""
    result: Result
    """The whole call, repeated in the same batch."""
    index: int
    """The position of ``image`` in it."""
    circumstances: tuple[str, ...]
    """What has changed: versions, device, dtype, threads, twin; and what of the receipt this version does not know."""

    def save(self, path: str | PathLike[str], *, overwrite: bool = True) -> list[Path]:
        """Write the new image with its receipt, as ``Result.save`` does; one path."""
        return write_images(self.result, [self.index], Path(path), overwrite=overwrite)

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
    model: Model = None,
    image: ImageSources | Tensor | None = None,
    mask_image: ImageSources | None = None,
    lora_dir: str | PathLike[str] | None = None,
    embeddings: Sequence[str | PathLike[str]] = (),
) -> Replay:
    """Repeat the call that made the image at ``path``, and compare.

    Args:
        path: a PNG with our receipt.
        model: a Pipeline, or what ``load`` takes; None is the shipped model that the receipt names, or with
            ``models_dir`` the file of the receipt's name there.
        image: the start image or images, or latents, if there were any: a receipt has only their hash.
        mask_image: the mask or masks, likewise.
        lora_dir: the folder of the LoRAs that the receipt names and ``model`` has not loaded.
        embeddings: the files of the embeddings that it names and ``model`` has not loaded; those in ``models_dir`` are
            found by themselves.

    Raises:
        ImageError: the file has no receipt, or a damaged one.
        InputError: the receipt names other weights, LoRAs or embeddings, another start image or mask, or inputs that no
            receipt can hold.
        ModelNotFoundError: there is no such model.
    """
    files = Files(image, mask_image, lora_dir, embeddings)
    old, _, run = _begun(path, model, files, lambda request: request)
    result = run.result()
    index = old["image_index"]
    again = result.images[index]
    checks = zip(old["checks"], result.receipt["checks"], strict=False)
    return Replay(
        identical=image_hash(again) == image_hash(open_image(path)),
        first_difference=next((was["step"] for was, now in checks if was["x0"][index] != now["x0"][index]), None),
        image=again,
        result=result,
        index=index,
        circumstances=_circumstances(old, result.receipt),
    )


def branch_of(
    path: str | PathLike[str], step: int, changes: Request, model: Model, files: Files
) -> tuple[Pipeline, Run]:
    """The model of the image at ``path``, and the run that goes on from a step of the one that made it.

    What of ``changes`` is not its default is other from there on. Errors as in ``replay``.
    """
    _, pipe, run = _begun(path, model, files, lambda request: request.branched(step, **_changes(request, changes)))
    return pipe, run


def _changes(first: Request, given: Request) -> dict[str, Any]:
    """The options that were given; of nested ones those that were not stay."""
    found = {}
    for option in options(Request):
        if (value := getattr(given, option.name)) == option.default:
            continue
        if isinstance(value, Options):
            parts = {part.name: (getattr(value, part.name), part.default) for part in options(type(value))}
            changed = {name: new for name, (new, default) in parts.items() if new != default}
            value = replace(getattr(first, option.name), **changed)
        found[option.name] = value
    return found


def _begun(
    path: str | PathLike[str], model: Model, files: Files, change: Callable[[Request], Request]
) -> tuple[Receipt, Pipeline, Run]:
    """The receipt of an image, its model, and the run of its request after a change."""
    old = receipts.read(path)
    if old["edits"]:
        raise InputError(
            "path", Unquoted(f"an image made with {', '.join(old['edits'])}"), "one whose inputs are all in its receipt"
        )
    pipe = _pipeline(old, model, files.embeddings)
    _check_weights(old, pipe)
    given = {"image": files.image, "mask_image": files.mask_image}
    for key in IMAGES:
        if (old[key] is None) is not (given[key] is None):
            wanted = "None, since the receipt has none" if old[key] is None else "the one whose hash is in the receipt"
            raise InputError(key, given[key], wanted)
    if old["sampler"] not in TABLE:
        hint = f"The image was made with a function of this name: samplers.register({old['sampler']})"
        raise InputError("sampler", old["sampler"], "a sampler that is registered", hint)
    if files.lora_dir is not None:
        pipe.lora_dir = files.lora_dir
    first = receipts.request_of(old)
    request = change(first)
    loras = [old["loras"], *old["branch_loras"]]
    before = len(receipts.branches(request))
    own = old["loras"] if request.prompt == first.prompt else None  # of other prompts, what their tags say
    with pipe.adapters.as_in_receipt([own, *loras[len(loras) - before :]]):
        _check_embeddings(old, pipe)
        run = pipe.steps(request, image=files.image, mask_image=files.mask_image)
    for key in IMAGES:
        if run.receipt[key] != old[key]:
            raise InputError(key, given[key], "the one whose hash is in the receipt")
    return old, pipe, run


def _pipeline(old: Receipt, model: Model, embeddings: Sequence[str | PathLike[str]]) -> Pipeline:
    """The model of the receipt, with its embeddings."""
    if isinstance(model, Pipeline):
        source, pipe = ModelSource(), model
        for name, wanted in old["schedule"].items():
            if wanted != (now := getattr(pipe.config.schedule, name)):
                raise InputError("model", Unquoted(f"a Pipeline with {name}={now!r}"), f"one with {name}={wanted!r}")
    else:
        source = model if isinstance(model, ModelSource) else ModelSource(model)
        pipe = open_model(_source(old, source))
    known = [] if source.models_dir is None else library.named_embeddings(source.models_dir, receipts.texts_of(old))
    for path in (*embeddings, *known):
        pipe.load_embedding(path, allow_pickle=source.allow_pickle)
    return pipe


def _source(old: Receipt, source: ModelSource) -> ModelSource:
    """``source`` with what the receipt says of the model."""
    if source.model is None:
        vae = source.vae
        if vae is None and old["vae"] is not None and source.models_dir is not None:
            vae = library.find(source.models_dir, old["vae"], "vae")
        source = replace(source, model=_named_model(old, source), vae=vae)
    is_here = old["device"] == "cpu" or (old["device"] == "cuda" and torch.cuda.is_available())
    if is_here and old["twin"] is not None and source.fast is None:
        is_converted = old["twin"] == "openvino" and find_spec("openvino") is not None
        source = replace(source, fast=old["twin"] != "plain", backend="openvino" if is_converted else source.backend)
    return replace(
        source,
        device=old["device"] if source.device == "auto" and is_here else source.device,
        dtype=old["dtype"] if source.dtype == "auto" else source.dtype,
        prediction=old["schedule"]["prediction"],
        zero_snr=old["schedule"]["zero_snr"],
    )


def _named_model(old: Receipt, source: ModelSource) -> str | Path:
    """The shipped model of a receipt, or the one in ``models_dir``: a stranger must not choose any other file."""
    if old["model"] in shipped_models() and (old["model_file"] is None or source.models_dir is None):
        return str(old["model"])
    name = old["model_file"] or old["model"]
    if source.models_dir is not None:
        return library.find(source.models_dir, name)
    raise ModelNotFoundError(
        f"the receipt names the model {name!r}, which is not shipped; give its folder or file as model=PATH, or the "
        "folder of the other program's models as models_dir=FOLDER"
    )


def _check_weights(old: Receipt, pipe: Pipeline) -> None:
    networks = {part: digest for part, digest in old["weights"].items() if part != receipts.CLIP}
    wrong = [part for part, digest in networks.items() if not _has(pipe, part, digest)]
    if wrong and receipts.dtype_name(pipe.dtype) == old["dtype"]:
        vae = "" if old["vae"] is None else f", with its VAE {old['vae']!r}"
        got = Unquoted(f"{pipe.config.name!r} with other weights of {', '.join(wrong)}")
        raise InputError("model", got, f"the model {old['model']!r} of the receipt{vae}")
    if receipts.CLIP in old["weights"] and not _is_hash(
        old["weights"][receipts.CLIP], pipe.similarity.tensors(), pipe.clip_hash
    ):
        got = Unquoted("an installation with another CLIP for guidance_options.similarity")
        raise InputError("model", got, f"diffuscope {old['versions'].get('diffuscope')}, which made the image")


def _has(pipe: Pipeline, part: str, digest: str) -> bool:
    found = pipe.weights.get(part)
    return found is not None and _is_hash(digest, pipe.adapters.unchanged(part), found)


def _is_hash(known: str, tensors: Mapping[str, Tensor], found: str) -> bool:
    """Whether ``known`` is ``found``, the hash of these tensors, or that of all in one piece, as it was before."""
    if known == found:
        return True
    digest, host = hashlib.sha256(), Host()
    for name, tensor in sorted(tensors.items()):
        for piece in named_bytes(name, tensor, host):
            digest.update(piece)
    return digest.hexdigest() == known


def _check_embeddings(old: Receipt, pipe: Pipeline) -> None:
    used = pipe.embeddings.receipt_entries(parse_lora_tags(text).text for text in receipts.texts_of(old))
    differing = {each["word"] for each in old["embeddings"] + used if each not in old["embeddings"] or each not in used}
    if differing:
        got = Unquoted(f"another embedding for {min(differing)!r} than the receipt's, or none")
        raise InputError("embeddings", got, "the file that made the image, whose hash the receipt has")


def _circumstances(old: Receipt, new: Receipt) -> tuple[str, ...]:
    pairs = {
        **{f"{name} version": (was, new["versions"].get(name)) for name, was in old["versions"].items()},
        **{name: (old[name], new[name]) for name in ("device", "dtype", "threads")},
        "twin": (old["twin"] or new["twin"], new["twin"]),  # older receipts do not say
    }
    changed = [f"{name} was {was}, is {now}" for name, (was, now) in pairs.items() if was != now]
    if unknown := sorted(old.keys() - new.keys() - {"image_index"}):
        more = f" and {len(unknown) - 3} more" * (len(unknown) > 3)
        changed.append(f"not used of the receipt: {', '.join(map(shown, unknown[:3]))}{more}")
    return tuple(changed)
