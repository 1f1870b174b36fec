"""What InvokeAI, NovelAI, SwarmUI and Fooocus write: one JSON object each."""

from collections.abc import Mapping
from typing import Any

from diffuscope.metadata.settings import Settings, number, text, whole

Values = Mapping[str, Any]


def invokeai(values: Values) -> Settings:
    """InvokeAI 3 and later."""
    settings = Settings("InvokeAI")
    rest = dict(values)
    scheduler, loras = rest.pop("scheduler", None), rest.pop("loras", None)
    settings.take_all(
        rest,
        {
            "positive_prompt": ("prompt", text),
            "negative_prompt": ("negative_prompt", text),
            "width": ("width", whole),
            "height": ("height", whole),
            "seed": ("seed", whole),
            "steps": ("num_inference_steps", whole),
            "cfg_scale": ("guidance_scale", number),
            "cfg_rescale_multiplier": ("guidance_options", _rescale),
            "clip_skip": ("clip_skip", whole),
            "strength": ("strength", number),
            "model": ("model", _model),
            "vae": ("vae", _model),
        },
    )
    if isinstance(scheduler, str):
        sampler, is_karras = scheduler.removesuffix("_k"), scheduler.endswith("_k")
        short = {"euler_a": "euler_ancestral", "kdpm_2": "kdpm2", "kdpm_2_a": "kdpm2_ancestral"}
        if settings.take("sampler", "scheduler", short.get(sampler, sampler)) and is_karras:
            settings.options["sigmas"] = "karras"
    for entry in loras if isinstance(loras, list) else []:
        model = entry.get("model", entry.get("lora")) if isinstance(entry, Mapping) else None
        settings.take_lora("loras", _model(model), entry.get("weight", 1) if isinstance(entry, Mapping) else entry)
    return settings


def invokeai_2(values: Values) -> Settings:
    """InvokeAI 2: the image's settings are within those of the model."""
    settings = Settings("InvokeAI 2")
    image = dict(values["image"]) if isinstance(values.get("image"), Mapping) else {}
    prompt = image.pop("prompt", "")
    if isinstance(prompt, list):
        parts = [each.get("prompt") for each in prompt if isinstance(each, Mapping)]
        if any(isinstance(each, Mapping) and each.get("weight", 1) != 1 for each in prompt):
            settings.leave("weights of the prompts", prompt)
        prompt = " ".join(part for part in parts if isinstance(part, str))
    settings.take("prompt", "prompt", prompt if isinstance(prompt, str) else "")
    names = {
        "width": ("width", whole),
        "height": ("height", whole),
        "seed": ("seed", whole),
        "steps": ("num_inference_steps", whole),
        "cfg_scale": ("guidance_scale", number),
        "sampler": ("sampler", text),
    }
    settings.take_all(image, names)
    settings.take_all({k: v for k, v in values.items() if k != "image"}, {"model_weights": ("model", text)})
    return settings


def novelai(values: Values) -> Settings:
    """NovelAI's comment."""
    settings = Settings("NovelAI")
    rest = dict(values)
    sampler, spacing = rest.pop("sampler", None), rest.pop("noise_schedule", None)
    if rest.get("request_type") in (None, "PromptGenerateRequest"):  # without an image, these have no effect
        for key in rest.keys() & {"strength", "noise"}:
            settings.leave(key, rest.pop(key))
    settings.take_all(
        rest,
        {
            "prompt": ("prompt", text),
            "uc": ("negative_prompt", text),
            "width": ("width", whole),
            "height": ("height", whole),
            "seed": ("seed", whole),
            "steps": ("num_inference_steps", whole),
            "scale": ("guidance_scale", number),
            "cfg_rescale": ("guidance_options", _rescale),
            "n_samples": ("num_images_per_prompt", whole),
            "strength": ("strength", number),
        },
    )
    if isinstance(sampler, str):
        settings.take("sampler", "sampler", sampler.removeprefix("k_").removesuffix("_v3"))
    if spacing not in (None, "native"):
        settings.take_spacing("noise_schedule", spacing)
    settings.notes.append("its model is not published, and {} weights words there")
    return settings


def swarmui(values: Values) -> Settings:
    """SwarmUI."""
    settings = Settings("SwarmUI")
    inner = values["sui_image_params"] if isinstance(values.get("sui_image_params"), Mapping) else {}
    rest = dict(inner)
    spacing, loras, weights = rest.pop("scheduler", None), rest.pop("loras", None), rest.pop("loraweights", None)
    settings.take_all(
        rest,
        {
            "prompt": ("prompt", text),
            "negativeprompt": ("negative_prompt", text),
            "model": ("model", text),
            "vae": ("vae", text),
            "seed": ("seed", whole),
            "steps": ("num_inference_steps", whole),
            "cfgscale": ("guidance_scale", number),
            "width": ("width", whole),
            "height": ("height", whole),
            "sampler": ("sampler", text),
            "comfyuisampler": ("sampler", text),
        },
    )
    if spacing is not None:
        settings.take_spacing("scheduler", spacing)
    names = loras if isinstance(loras, list) else []
    given = weights if isinstance(weights, list) and len(weights) == len(names) else [1] * len(names)
    for name, weight in zip(names, given, strict=True):
        settings.take_lora("loras", name, weight)
    for key, value in values.items():
        if key != "sui_image_params":
            settings.leave(key, value)
    return settings


def fooocus(values: Values) -> Settings:
    """Fooocus, where it writes JSON."""
    settings = Settings("Fooocus")
    rest = dict(values)
    spacing, size, loras = rest.pop("scheduler", None), rest.pop("resolution", None), rest.pop("loras", None)
    settings.take_all(
        rest,
        {
            "prompt": ("prompt", text),
            "negative_prompt": ("negative_prompt", text),
            "base_model": ("model", text),
            "vae": ("vae", text),
            "seed": ("seed", whole),
            "steps": ("num_inference_steps", whole),
            "guidance_scale": ("guidance_scale", number),
            "clip_skip": ("clip_skip", _clip_skip),
            "sampler": ("sampler", text),
        },
    )
    if spacing is not None:
        settings.take_spacing("scheduler", spacing)
    sides = [whole(side.strip()) for side in size.strip("()").split(",")] if isinstance(size, str) else []
    if len(sides) == 2 and None not in sides:
        settings.take("width", "resolution", sides[0])
        settings.take("height", "resolution", sides[1])
    elif size is not None:
        settings.leave("resolution", size)
    for entry in loras if isinstance(loras, list) else []:
        is_pair = isinstance(entry, list) and len(entry) >= 2
        settings.take_lora("loras", entry[0] if is_pair else None, entry[1] if is_pair else entry)
    return settings


def _clip_skip(value: Any) -> int | None:
    layers = whole(value)
    return None if layers is None else layers - 1


def _rescale(value: Any) -> dict[str, float] | None:
    share = number(value)
    return None if share is None else {"rescale": share} if share else {}


def _model(value: Any) -> str | None:
    """The name of a model, which is an object in most versions."""
    if isinstance(value, Mapping):
        value = next((value[key] for key in ("name", "model_name", "key") if isinstance(value.get(key), str)), None)
    return text(value)
