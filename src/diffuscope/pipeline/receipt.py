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
from diffuscope.loading import Components
from diffuscope.metadata import read_texts
from diffuscope.pipeline.plan import Plan
from diffuscope.request import Branch, Request
from diffuscope.schema import options

Receipt = dict[str, Any]  # JSON values. The options of the call under their names, and what ``_PROVENANCE`` lists

FORMAT = 2  # version of the receipt; it changes when an old reader would misunderstand a new receipt
LATENTS = 1 << 20  # bytes of latents that a receipt holds: four of SDXL at 1024x1024; of more it has the hashes
JSON_KEY = "diffuscope"  # the text chunk of a PNG with our own receipt
TEXT_KEY = "parameters"  # that which other programs read
CLIP = "similarity"  # stands beside the networks in ``weights`` where similarity guided the run
_SCHEDULE_TYPES = {"sgm_uniform": "SGM Uniform"}
"""Spacing -> its name in AUTOMATIC1111's web UI, where that is not the capitalised word."""

_PROVENANCE: dict[Any, str] = {
    dict: "versions weights schedule",
    list: "edits checks noise_levels timesteps notes loras branch_loras embeddings",
    str: "model device dtype",
    int: "threads image_index",
    str | None: "vae model_file twin",
    list | None: "image mask_image",
}
"""Types of values -> the keys that have them, beside the options and ``format``. Anybody can write a receipt."""

_LORA = {"name": str, "weight": float, "sha256": str}
_EMBEDDING = {"word": str, "sha256": str}
_CHECK = {"step": int, "x0": list}


def begun(plan: Plan, components: Components, device: torch.device, **inputs: object) -> Receipt:
    """The receipt of a run before its first step; ``inputs`` are the other entries: twin, images, LoRAs and so on."""
    schedule = components.config.schedule
    return {
        "format": FORMAT,
        "versions": {"diffuscope": _version(), "torch": torch.__version__, "python": platform.python_version()},
        **plan.request.to_dict(),
        "noise_levels": list(plan.levels.sigmas),
        "timesteps": list(plan.levels.timesteps),
        "model": components.config.name,
        "model_file": components.file_name,
        "vae": components.vae_name,
        "schedule": {"prediction": schedule.prediction, "zero_snr": schedule.zero_snr},
        "device": device.type,
        "dtype": dtype_name(components.unet.conv_in.weight.dtype),
        "threads": torch.get_num_threads(),
        **inputs,
        "edits": list(plan.edits),
        "checks": [],
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


def chunks(receipt: Receipt, index: int) -> dict[str, str]:
    """The text chunks of image ``index`` of the call."""
    return {TEXT_KEY: infotext(receipt, index), JSON_KEY: json.dumps(receipt | {"image_index": index}, allow_nan=False)}


def infotext(receipt: Receipt, index: int) -> str:
    """The text that AUTOMATIC1111's web UI writes and most programs read: prompt, negative prompt, settings."""
    prompt, sampler = index // receipt["num_images_per_prompt"], receipt["sampler"]
    spacing = receipt["sigmas"] if isinstance(receipt["sigmas"], str) else "custom"
    is_img2img = receipt["image"] is not None and receipt["denoising_start"] is None
    settings: dict[str, object] = {
        "Steps": receipt["num_inference_steps"],
        "Sampler": samplers.TABLE[sampler].label if sampler in samplers.TABLE else sampler,  # or a function's name
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
    plain = {name: value for name, value in Request().to_dict().items() if value is not None}
    receipt = {
        "model_file": None,
        "twin": None,
        "branch": None,
        "branch_loras": [],
        **plain,
        **receipt,
    }  # older ones lack newer options
    wrong = _flaw(receipt)
    if wrong is not None:
        raise ImageError(f"the receipt in {name} is damaged: its {wrong!r} is not possible")
    return dict(receipt)


def _flaw(receipt: Mapping[str, Any]) -> str | None:
    """The first key of a receipt that is missing, or whose value is not possible."""
    for kind, keys in _PROVENANCE.items():
        for key in keys.split():
            if key not in receipt or not isinstance(receipt[key], kind):
                return key
    try:
        request = request_of(dict(receipt))
    except InputError as error:
        return error.argument
    images = len(request.seed) if isinstance(request.seed, tuple) else 0
    fits = {
        "prompt": isinstance(request.prompt, tuple),
        "seed": images > 0,
        "schedule": receipt["schedule"].keys() == {"prediction", "zero_snr"},
        "image_index": 0 <= receipt["image_index"] < images,
        "edits": all(isinstance(name, str) for name in receipt["edits"]),
        "loras": _has(receipt["loras"], _LORA),
        "embeddings": _has(receipt["embeddings"], _EMBEDDING),
        "branch_loras": len(receipt["branch_loras"]) == len(branches(request))
        and all(_has(entries, _LORA) for entries in receipt["branch_loras"]),
        "checks": _has(receipt["checks"], _CHECK) and all(len(check["x0"]) == images for check in receipt["checks"]),
    }
    return next((key for key, fit in fits.items() if not fit), None)


def _has(entries: Any, kinds: Mapping[str, type]) -> bool:
    """Whether a value is a list of objects that have these keys, each with a value of its type."""
    return isinstance(entries, list) and all(
        isinstance(entry, dict) and all(isinstance(entry.get(key), kind) for key, kind in kinds.items())
        for entry in entries
    )
