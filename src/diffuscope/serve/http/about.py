"""What a server says of its model, so that a page can show what there is and fold what there is not."""

import inspect
from functools import cache
from typing import Any

import torch

from diffuscope import __version__
from diffuscope.diffusion.samplers import TABLE
from diffuscope.diffusion.samplers.contract import options as sampler_options
from diffuscope.lens.latent_preview import LatentRGB, fit_latent_rgb
from diffuscope.pipeline import Pipeline, codec
from diffuscope.request import Request
from diffuscope.schema import schema

_PICTURES, _CELLS = 8, 8


def about(pipe: Pipeline) -> dict[str, Any]:
    """The model, its preset, the samplers, the form of a request, and how latents are drawn."""
    config = pipe.config
    return {
        "version": __version__,
        "model": config.name,
        "preset": dict(vars(config.preset)),
        "draws": config.draws,
        "device": str(pipe.device),
        "samplers": _samplers(),
        "request": schema(Request),
        "latents": {"channels": config.vae.latent_channels, "factor": config.vae.factor},
        "text_encoders": [{"layers": each.layers, "width": each.width} for each in config.text_encoders],
        "inpaints": config.inpaints,
        "edits": config.edits,
        "zero_snr": config.schedule.zero_snr,
    }


@cache
def _samplers() -> list[dict[str, Any]]:
    """The table of samplers, with the first sentence of each one's documentation."""
    rows = []
    for name, info in TABLE.items():
        text = (inspect.getdoc(info.function) or "").partition("\n\n")[0]
        defaults = {each: parameter.default for each, parameter in sampler_options(info.function).items()}
        row = {"name": name, "label": info.label, "about": " ".join(text.split()), "options": defaults}
        rows.append(row | {"order": info.order, "calls": info.calls, "noise": info.noise})
    return rows


def latent_rgb(pipe: Pipeline) -> LatentRGB:
    """The linear map from the model's latents to colours, fitted to soft patches of colour that its VAE encodes."""
    generator = torch.Generator().manual_seed(0)
    coarse = (torch.rand(_PICTURES, 3, 3, 3, generator=generator) * 4 - 2).clamp(-1, 1)
    side = _CELLS * pipe.config.vae.factor
    pixels = torch.nn.functional.interpolate(coarse, (side, side), mode="bicubic").clamp(-1, 1)
    with torch.no_grad():
        latents = codec.encode(pipe.vae, pixels, None, None, [], pipe.engine)
    return fit_latent_rgb(latents, pixels)
