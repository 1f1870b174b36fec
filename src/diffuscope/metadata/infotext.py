"""The text of AUTOMATIC1111's web UI, Forge, and ours: prompt, negative prompt, and a line of settings."""

import re
from typing import Any

from diffuscope.metadata.settings import Settings, number, text, whole

_SETTING = re.compile(r'\s*([\w][\w \-/]*):\s*("(?:\\.|[^\\"])*"|[^,]*)(?:,|$)')
_SIZE = re.compile(r"(\d{1,5})x(\d{1,5})")
_NEGATIVE = "Negative prompt:"

AUTOMATIC = {
    "karras": ("dpmpp_2m", "dpmpp_sde", "dpmpp_2s_ancestral", "kdpm2", "kdpm2_ancestral"),
    "exponential": ("dpmpp_2m_sde", "dpmpp_2m_sde_heun", "dpmpp_3m_sde"),
}
"""The spacing that the web UI's "Automatic" chooses, by sampler; the others have their own."""

_NAMES = {
    "Steps": ("num_inference_steps", whole),
    "Sampler": ("sampler", text),
    "CFG scale": ("guidance_scale", number),
    "Seed": ("seed", whole),
    "Model": ("model", text),
    "VAE": ("vae", text),
    "Denoising strength": ("strength", number),
    "Postprocess upscale by": ("upscale", whole),
    "CFG Rescale": ("guidance_options", lambda value: None if number(value) is None else {"rescale": number(value)}),
}


def parse(infotext: str) -> Settings:
    """The settings in a text; without its last line, all of it is the prompt."""
    body, found = split(infotext)
    before, marker, after = body.partition(f"\n{_NEGATIVE}")
    if body.startswith(_NEGATIVE):
        before, marker, after = "", _NEGATIVE, body.removeprefix(_NEGATIVE)
    settings = Settings("AUTOMATIC1111's web UI")
    settings.take("prompt", "prompt", before.strip("\n"))
    if marker:
        settings.take("negative_prompt", "negative prompt", after.strip())
    rest = {key: value for key, value in found.items() if key not in {"Size", "Schedule type", "Clip skip"}}
    is_ours = found.get("Version", "").startswith("diffuscope ")
    if is_ours:
        settings.program = rest.pop("Version")
    else:
        settings.take_syntax("a1111")
    is_upscaled = any(key.startswith("Hires") for key in found)
    if is_upscaled and "Denoising strength" in rest:  # the strength of a second run over the upscaled image
        settings.leave("Denoising strength", rest.pop("Denoising strength"))
    drawn_on = rest.pop("RNG", "GPU")
    settings.take_all(rest, _NAMES)
    if size := _SIZE.fullmatch(found.get("Size", "")):
        settings.take("width", "Size", int(size[1]))
        settings.take("height", "Size", int(size[2]))
    elif "Size" in found:
        settings.leave("Size", found["Size"])
    if (layers := whole(found.get("Clip skip"))) is not None and layers >= 1:
        settings.take("clip_skip", "Clip skip", layers - 1)
    elif "Clip skip" in found:
        settings.leave("Clip skip", found["Clip skip"])
    _take_schedule(settings, found.get("Schedule type", "Automatic"), is_ours=is_ours)
    if "strength" in settings.options:
        settings.notes.append("it was made from another image, which --image needs")
    if found and drawn_on != "CPU":
        settings.notes.append(f"its noise was drawn otherwise ({drawn_on}), so the image will be another one")
    return settings


def _take_schedule(settings: Settings, name: str, *, is_ours: bool) -> None:
    if name != "Automatic":
        settings.take_spacing("Schedule type", name)
    elif not is_ours and "sigmas" not in settings.options:
        spacing = automatic(settings.options.get("sampler", ""))
        if spacing is not None:
            settings.options["sigmas"] = spacing


def automatic(sampler: str) -> str | None:
    """The spacing that "Automatic" chooses for one of our samplers; None for its own."""
    return next((spacing for spacing, names in AUTOMATIC.items() if sampler in names), None)


def split(infotext: str) -> tuple[str, dict[str, str]]:
    """The text above the line of settings, and these."""
    body, _, last = infotext.rstrip().rpartition("\n")
    found: dict[str, Any] = {}
    for setting in _SETTING.finditer(last):
        value = setting[2].strip()
        if value.startswith('"') and value.endswith('"') and len(value) > 1:
            value = re.sub(r"\\(.)", lambda sign: {"n": "\n"}.get(sign[1], sign[1]), value[1:-1])
        found[setting[1].strip()] = value
    return (body, found) if len(found) >= 3 else (infotext, {})
