"""What is needed to make an image again, and how a PNG holds it."""

import hashlib
import json
import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from importlib.metadata import version
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffuscope.diffusion import samplers
from diffuscope.errors import ImageError, InputError
from diffuscope.metadata import read_texts
from diffuscope.pipeline.plan import Plan
from diffuscope.request import Branch, Request
from diffuscope.schema import options

Receipt = dict[str, Any]
"""JSON values. The options of the call under their names, and what ``_PROVENANCE`` lists."""

FORMAT = 2
"""Version of the receipt; it changes when an old reader would misunderstand a new receipt."""

LATENTS = 1 << 20
"""Bytes of latents that a receipt holds: four of SDXL at 1024x1024; of more it has the hashes."""

JSON_KEY = "diffuscope"
TEXT_KEY = "parameters"
"""The text chunks of a PNG: our own receipt, and the form that other programs read."""

CLIP = "similarity"
"""Stands beside the networks in ``weights`` where similarity guided the run."""

_SCHEDULE_TYPES = {"sgm_uniform": "SGM Uniform"}
"""Spacing -> its name in AUTOMATIC1111's web UI, where that is not the capitalised word."""

_PROVENANCE: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("versions", "weights", "schedule"), (dict,)),
    **dict.fromkeys(
        ("edits", "checks", "noise_levels", "timesteps", "notes", "loras", "branch_loras", "embeddings"), (list,)
    ),
    **dict.fromkeys(("model", "device", "dtype"), (str,)),
    **dict.fromkeys(("threads", "image_index"), (int,)),
    **dict.fromkeys(("vae", "model_file"), (str, type(None))),
    **dict.fromkeys(("image", "mask_image"), (list, type(None))),
}
"""Keys beside the options and ``format``, and the types of their values. Anybody can write a receipt."""

_ADAPTERS: dict[str, dict[str, type]] = {
    "loras": {"name": str, "weight": float, "sha256": str},
    "embeddings": {"word": str, "sha256": str},
}
"""Keys of each entry of the lists of adapters."""


def of_plan(plan: Plan) -> Receipt:
    """The part of a receipt that the plan knows: its options, and the noise levels that the run visits."""
    return {
        "format": FORMAT,
        "versions": {
            "diffuscope": _version(),
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        **plan.request.to_dict(),
        "noise_levels": list(plan.levels.sigmas),
        "timesteps": list(plan.levels.timesteps),
    }


@cache
def _version() -> str:
    return version("diffuscope")  # reads files


def request_of(receipt: Receipt) -> Request:
    """The options in a receipt; an InputError if one is missing or not possible."""
    names = [option.name for option in options(Request)]
    for name in names:
        if name not in receipt:
            raise InputError(name, None, "an option of the receipt")
    return Request.from_dict({name: receipt[name] for name in names})


def branch_of(request: Request, edits: Sequence[str]) -> Receipt:
    """The part of a receipt that says from what a run goes on, and what of it the receipt does not hold."""
    sizes = [4 * math.prod(branch.x.shape) for branch in branches(request) if branch.x is not None]
    if sum(sizes) <= LATENTS:
        return {"branch": request.to_dict()["branch"], "edits": list(edits)}
    return {"branch": _hashed(request).to_dict()["branch"], "edits": list(dict.fromkeys([*edits, "branch.x"]))}


def branches(request: Request) -> list[Branch]:
    """The branches of a request, the last one first."""
    found = []
    while request.branch is not None:
        found.append(request.branch)
        request = request.branch.request
    return found


def _hashed(request: Request) -> Request:
    """A request with hashes in the place of latents."""
    branch = request.branch
    if branch is None:
        return request
    x = None if branch.x is None else branch.x.hashed()
    return replace(request, branch=replace(branch, request=_hashed(branch.request), x=x))


def texts_of(receipt: Receipt) -> list[str]:
    """All prompts and negative prompts of a receipt, those before a branch too."""
    request = request_of(receipt)
    requests = [request, *(branch.request for branch in branches(request))]
    return [text for each in requests for texts in (each.prompt, each.negative_prompt) for text in texts or ()]


def dtype_name(dtype: torch.dtype) -> str:
    """The dtype's name as ``load`` takes it: "float32" for torch.float32."""
    return str(dtype).removeprefix("torch.")


def checked_steps(steps: int) -> frozenset[int]:
    """The steps whose estimates go into the receipt: first, quarters, last."""
    return frozenset(quarter * (steps - 1) // 4 for quarter in range(5))


def checksums(x: Tensor) -> list[str]:
    """One short checksum for each image of a batch [B,...]: of its float32 values, to the last bit."""
    rows = x.detach().to("cpu", torch.float32).contiguous()
    return [hashlib.sha256(row.numpy().tobytes()).hexdigest()[:16] for row in rows]


def weights_hash(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 in hex of a network's tensors under our names, independent of file and layout."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name}:{tensor.dtype}:{list(tensor.shape)}:".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def chunks(receipt: Receipt, index: int) -> dict[str, str]:
    """The text chunks of image ``index`` of the call."""
    return {
        TEXT_KEY: infotext(receipt, index),
        JSON_KEY: json.dumps(receipt | {"image_index": index}, allow_nan=False),
    }


def infotext(receipt: Receipt, index: int) -> str:
    """The text that AUTOMATIC1111's web UI writes and most programs read: prompt, negative prompt, settings."""
    prompt = index // receipt["num_images_per_prompt"]
    spacing = receipt["sigmas"] if isinstance(receipt["sigmas"], str) else "custom"
    is_img2img = receipt["image"] is not None and receipt["denoising_start"] is None
    settings: dict[str, object] = {
        "Steps": receipt["num_inference_steps"],
        "Sampler": _label(receipt["sampler"]),
        "Schedule type": None if spacing == "model" else _SCHEDULE_TYPES.get(spacing, spacing.capitalize()),
        "CFG scale": f"{receipt['guidance_scale']:g}",
        "Seed": receipt["seed"][index],
        "Size": f"{receipt['width']}x{receipt['height']}",
        "Model hash": receipt["weights"]["unet"][:10],
        "Model": receipt["model"] if receipt["model_file"] is None else Path(receipt["model_file"]).stem,
        "VAE": receipt["vae"],
        "VAE hash": receipt["weights"]["vae"][:10],
        "Denoising strength": f"{receipt['strength']:g}" if is_img2img else None,
        "Postprocess upscale by": receipt["upscale"] if receipt["upscale"] > 1 else None,
        "Lora hashes": ", ".join(f"{each['name']}: {each['sha256'][:12]}" for each in receipt["loras"]) or None,
        "TI hashes": ", ".join(f"{each['word']}: {each['sha256'][:12]}" for each in receipt["embeddings"]) or None,
        "Clip skip": receipt["clip_skip"] + 1 if receipt["clip_skip"] else None,
        "RNG": "CPU",
        "Version": f"diffuscope {receipt['versions']['diffuscope']}",
    }
    lines = [receipt["prompt"][prompt]]
    negative = receipt["negative_prompt"]
    if negative is not None and negative[prompt]:
        lines.append(f"Negative prompt: {negative[prompt]}")
    lines.append(", ".join(f"{key}: {_quoted(value)}" for key, value in settings.items() if value is not None))
    return "\n".join(lines)


def _label(sampler: str) -> str:
    """Its name in user interfaces; of one's own function its name."""
    return samplers.TABLE[sampler].label if sampler in samplers.TABLE else sampler


def _quoted(value: object) -> str:
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if any(sign in text for sign in ",:\n") else text


def read(source: str | PathLike[str] | bytes) -> Receipt:
    """The receipt in a PNG, given as its path or its bytes; ``image_index`` is the position of the image in its call.

    Raises:
        ImageError: the file is no image, has no receipt, or one of another format.
    """
    name = "the image" if isinstance(source, bytes) else str(Path(source))
    texts = read_texts(source).texts
    if JSON_KEY not in texts:
        raise ImageError(
            f"{name} has no diffuscope receipt; it was made by another program, saved without metadata, or "
            "written again by a program that drops text chunks"
        )
    try:
        receipt = json.loads(texts[JSON_KEY])
    except (ValueError, RecursionError) as error:
        raise ImageError(f"the receipt in {name} is damaged ({error}); save the image again") from error
    if not isinstance(receipt, Mapping) or receipt.get("format") != FORMAT:
        known = receipt.get("format") if isinstance(receipt, Mapping) else None
        raise ImageError(f"the receipt in {name} has format {known}; this version reads format {FORMAT}")
    receipt = {"model_file": None, "branch": None, "branch_loras": [], **receipt}  # older ones have none
    wrong = _flaw(receipt)
    if wrong is not None:
        raise ImageError(f"the receipt in {name} is damaged: its {wrong!r} is not possible")
    return dict(receipt)


def _flaw(receipt: Mapping[str, Any]) -> str | None:
    """The first key of a receipt that is missing, or whose value is not possible."""
    for key, types in _PROVENANCE.items():
        if key not in receipt or not isinstance(receipt[key], types):
            return key
    try:
        request = request_of(dict(receipt))
    except InputError as error:
        return error.argument
    if not isinstance(request.prompt, tuple):
        return "prompt"
    if not isinstance(request.seed, tuple):
        return "seed"
    if sorted(receipt["schedule"]) != ["prediction", "zero_snr"]:
        return "schedule"
    images = len(request.seed)
    if not 0 <= receipt["image_index"] < images:
        return "image_index"
    if not all(isinstance(name, str) for name in receipt["edits"]):
        return "edits"
    if not all(isinstance(entries, list) for entries in receipt["branch_loras"]):
        return "branch_loras"
    adapters = [("branch_loras", "loras", entries) for entries in receipt["branch_loras"]]
    for key, kind, entries in [*adapters, *((key, key, receipt[key]) for key in _ADAPTERS)]:
        for entry in entries:
            if not isinstance(entry, dict) or not all(isinstance(entry.get(k), t) for k, t in _ADAPTERS[kind].items()):
                return key
    if len(receipt["branch_loras"]) != len(branches(request)):
        return "branch_loras"
    for check in receipt["checks"]:
        if not isinstance(check, dict) or not isinstance(check.get("step"), int):
            return "checks"
        if not isinstance(check.get("x0"), list) or len(check["x0"]) != images:
            return "checks"
    return None


def first_difference(old: Receipt, new: Receipt, index: int) -> int | None:
    """The first recorded step at which the clean estimates of an image differ, or None."""
    for before, after in zip(old["checks"], new["checks"], strict=False):
        if before["x0"][index] != after["x0"][index]:
            return int(before["step"])
    return None
