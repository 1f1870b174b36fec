"""What is needed to make a picture again, and how it stands in the picture's file."""

import hashlib
import json
import platform
from collections.abc import Mapping
from importlib.metadata import version
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffuscope.diffusion import samplers
from diffuscope.errors import ImageError
from diffuscope.images import read_text_chunks
from diffuscope.pipeline.request import Request

Receipt = dict[str, Any]
"""JSON values only. Keys are the arguments of the call under their own names, and what is listed in ``of_request``."""

FORMAT = 1
"""Version of the receipt; it changes when an old reader would misunderstand a new receipt."""

JSON_KEY = "diffuscope"
TEXT_KEY = "parameters"
"""The text chunks of a PNG: our own receipt, and the form that other programs read."""

CLIP = "similarity"
"""Key in ``weights`` for the hash of the CLIP score, if a run was guided by ``similarity``."""

_KINDS: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("versions", "weights", "schedule"), (dict,)),
    **dict.fromkeys(("guidance_options", "sampler_options", "thresholding"), (dict,)),
    **dict.fromkeys(("prompt", "negative_prompt", "seed", "edits", "checks", "sigmas", "times", "notes"), (list,)),
    **dict.fromkeys(("loras", "embeddings"), (list,)),
    **dict.fromkeys(("sampler", "model", "device", "dtype"), (str,)),
    **dict.fromkeys(("num_inference_steps", "num_images_per_prompt", "threads", "picture"), (int,)),
    **dict.fromkeys(("height", "width", "upscale", "clip_skip"), (int,)),
    "guidance_scale": (int, float),
    **dict.fromkeys(("strength", "denoising_start", "denoising_end"), (int, float, type(None))),
    "spacing": (str, list),
    **dict.fromkeys(("final_sigma", "vae"), (str, type(None))),
    **dict.fromkeys(("image", "mask_image"), (list, type(None))),
    **dict.fromkeys(("original_size", "crops_coords_top_left", "target_size"), (list, type(None))),
}
"""Every key of a receipt in a file, but ``format``, and what its value may be. Anybody can write a receipt."""


_ADAPTED: dict[str, dict[str, type]] = {
    "loras": {"name": str, "weight": float, "sha256": str},
    "embeddings": {"word": str, "sha256": str},
}
"""What stands in the list of each kind of adapter."""


def of_request(request: Request) -> Receipt:
    """The part of a receipt that is known before the first step; ``sigmas`` and ``times`` are those visited."""
    return {
        "format": FORMAT,
        "versions": {
            "diffuscope": version("diffuscope"),
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        "prompt": list(request.prompt),
        "negative_prompt": list(request.negative_prompt),
        "num_inference_steps": request.num_inference_steps,
        "guidance_scale": request.guidance_scale,
        "guidance_options": dict(request.guidance_options),
        "seed": list(request.seed),
        "sampler": request.sampler,
        "sampler_options": dict(request.sampler_options),
        "spacing": request.spacing if isinstance(request.spacing, str) else list(request.spacing),
        "final_sigma": request.final_sigma,
        "thresholding": dict(request.thresholding),
        "sigmas": list(request.levels.sigmas),
        "times": list(request.levels.times),
        "height": request.height,
        "width": request.width,
        "num_images_per_prompt": request.num_images_per_prompt,
        "strength": request.strength,
        "denoising_start": request.denoising_start,
        "denoising_end": request.denoising_end,
        "clip_skip": request.clip_skip,
        "original_size": _list(request.original_size),
        "crops_coords_top_left": _list(request.crops_coords_top_left),
        "target_size": _list(request.target_size),
        "upscale": request.upscale,
    }


def _list(values: tuple[int, int] | None) -> list[int] | None:
    return None if values is None else list(values)


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
    """SHA-256 in hex of a network's tensors under our names: the same from whatever file and layout they came."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name}:{tensor.dtype}:{list(tensor.shape)}:".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def chunks(receipt: Receipt, picture: int) -> dict[str, str]:
    """The text chunks of image ``picture`` of the call."""
    return {
        TEXT_KEY: infotext(receipt, picture),
        JSON_KEY: json.dumps(receipt | {"picture": picture}, allow_nan=False),
    }


def infotext(receipt: Receipt, picture: int) -> str:
    """The text that AUTOMATIC1111's web UI writes and most programs read: prompt, negative prompt, settings."""
    prompt = picture // receipt["num_images_per_prompt"]
    spacing = receipt["spacing"] if isinstance(receipt["spacing"], str) else "custom"
    settings: dict[str, object] = {
        "Steps": receipt["num_inference_steps"],
        "Sampler": samplers.TABLE[receipt["sampler"]].label,
        "Schedule type": None if spacing == "model" else spacing.capitalize(),
        "CFG scale": f"{receipt['guidance_scale']:g}",
        "Seed": receipt["seed"][picture],
        "Size": f"{receipt['width']}x{receipt['height']}",
        "Model hash": receipt["weights"]["unet"][:10],
        "Model": receipt["model"],
        "VAE": receipt["vae"],
        "VAE hash": receipt["weights"]["vae"][:10],
        "Denoising strength": None if receipt["strength"] is None else f"{receipt['strength']:g}",
        "Postprocess upscale by": receipt["upscale"] if receipt["upscale"] > 1 else None,
        "Lora hashes": ", ".join(f"{each['name']}: {each['sha256'][:12]}" for each in receipt["loras"]) or None,
        "TI hashes": ", ".join(f"{each['word']}: {each['sha256'][:12]}" for each in receipt["embeddings"]) or None,
        "Clip skip": receipt["clip_skip"] + 1 if receipt["clip_skip"] else None,
        "RNG": "CPU",
        "Version": f"diffuscope {receipt['versions']['diffuscope']}",
    }
    lines = [receipt["prompt"][prompt]]
    if receipt["negative_prompt"][prompt]:
        lines.append(f"Negative prompt: {receipt['negative_prompt'][prompt]}")
    lines.append(", ".join(f"{key}: {_quoted(value)}" for key, value in settings.items() if value is not None))
    return "\n".join(lines)


def _quoted(value: object) -> str:
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if any(sign in text for sign in ",:\n") else text


def read(path: str | PathLike[str]) -> Receipt:
    """The receipt in a picture's file; ``picture`` says which image of its call it is.

    Raises:
        ImageError: the file is no picture, has no receipt, or one that this version does not know.
    """
    texts = read_text_chunks(path)
    if JSON_KEY not in texts:
        raise ImageError(
            f"{Path(path)} has no diffuscope receipt; it was made by another program, saved without metadata, or "
            "written again by a program that drops text chunks"
        )
    try:
        receipt = json.loads(texts[JSON_KEY])
    except (ValueError, RecursionError) as error:
        raise ImageError(f"the receipt in {Path(path)} is damaged ({error}); save the picture again") from error
    if not isinstance(receipt, Mapping) or receipt.get("format") != FORMAT:
        known = receipt.get("format") if isinstance(receipt, Mapping) else None
        raise ImageError(f"the receipt in {Path(path)} has format {known}; this version reads format {FORMAT}")
    wrong = _flaw(receipt)
    if wrong is not None:
        raise ImageError(
            f"the receipt in {Path(path)} is damaged: its {wrong!r} is not possible; save the picture again"
        )
    return dict(receipt)


def _flaw(receipt: Mapping[str, Any]) -> str | None:
    """The first key of a receipt that is missing, or whose value cannot stand there."""
    for key, kinds in _KINDS.items():
        if key not in receipt or not isinstance(receipt[key], kinds):
            return key
    if sorted(receipt["schedule"]) != ["prediction", "zero_snr"]:
        return "schedule"
    images = len(receipt["seed"])
    if not 0 <= receipt["picture"] < images:
        return "picture"
    if not all(isinstance(name, str) for name in receipt["edits"]):
        return "edits"
    for key, entries in _ADAPTED.items():
        for each in receipt[key]:
            if not isinstance(each, dict) or not all(
                isinstance(each.get(name), kind) for name, kind in entries.items()
            ):
                return key
    for check in receipt["checks"]:
        if not isinstance(check, dict) or not isinstance(check.get("step"), int):
            return "checks"
        if not isinstance(check.get("x0"), list) or len(check["x0"]) != images:
            return "checks"
    return None


def first_difference(old: Receipt, new: Receipt, picture: int) -> int | None:
    """The first recorded step at which the clean estimates of an image differ, or None."""
    for before, after in zip(old["checks"], new["checks"], strict=False):
        if before["x0"][picture] != after["x0"][picture]:
            return int(before["step"])
    return None
