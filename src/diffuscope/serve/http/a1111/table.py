"""The keys of a request: which are ours, which ask for nothing, and which ask for what is not here.

A key in no table is let through, as there; the answer names it. A feature that is asked for and absent is refused.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from diffuscope.config import ModelConfig
from diffuscope.diffusion import samplers
from diffuscope.errors import InputError
from diffuscope.metadata.infotext import automatic
from diffuscope.metadata.settings import SPACINGS
from diffuscope.request import Request
from diffuscope.schema import conformed, options
from diffuscope.serve.http import sizes


class Key(NamedTuple):
    """A key of the web UI."""

    use: str
    """The option of ours; "part" where it is one part of several; "absent" where nothing here does it."""
    neutral: tuple[object, ...] = ()
    """Values, beside null, that ask for nothing."""


KEYS: dict[str, Key] = {
    "prompt": Key("prompt"),
    "negative_prompt": Key("negative_prompt", ("",)),
    "steps": Key("num_inference_steps"),
    "cfg_scale": Key("guidance_scale"),
    "seed": Key("seed", (-1,)),
    **dict.fromkeys(("width", "height", "batch_size", "n_iter", "denoising_strength", "image_cfg_scale"), Key("part")),
    **dict.fromkeys(("sampler_name", "sampler_index"), Key("part", ("",))),
    "scheduler": Key("part", ("",)),
    "clip_skip": Key("part", (0, 1)),
    "eta": Key("part"),
    **dict.fromkeys(("s_churn", "s_tmin", "s_tmax"), Key("part", (0,))),
    "s_noise": Key("part", (1,)),
    **dict.fromkeys(("override_settings", "override_settings_restore_afterwards"), Key("part")),
    **dict.fromkeys(("send_images", "init_images", "mask", "mask_blur", "resize_mode", "inpainting_fill"), Key("part")),
    **dict.fromkeys(("inpaint_full_res", "inpaint_full_res_padding", "inpainting_mask_invert"), Key("part")),
    "enable_hr": Key("absent", (False,)),
    "restore_faces": Key("absent", (False,)),
    "tiling": Key("absent", (False,)),
    "styles": Key("absent", ([],)),
    "subseed_strength": Key("absent", (0,)),
    "seed_resize_from_w": Key("absent", (0, -1)),
    "seed_resize_from_h": Key("absent", (0, -1)),
    "script_name": Key("absent", ("", "None")),
    "alwayson_scripts": Key("absent", ({},)),
    "refiner_checkpoint": Key("absent", ("", "None")),
    "s_min_uncond": Key("absent", (0,)),
    "disable_extra_networks": Key("absent", (False,)),
    "include_init_images": Key("absent", (False,)),
    "initial_noise_multiplier": Key("absent", (1,)),
    "firstphase_width": Key("absent", (0,)),
    "firstphase_height": Key("absent", (0,)),
    "latent_mask": Key("absent"),
    "infotext": Key("absent", ("",)),
}

OF_ABSENT = ("hr_", "script_args", "subseed", "refiner_switch_at", "do_not_save_", "save_images", "comments")
"""Beginnings of keys that say nothing without a key above, or of files, of which the server writes none."""

OURS = {option.name: option.annotation for option in options(Request)}
RESTATED = {key.use: name for name, key in KEYS.items() if key.use in OURS} | {
    "strength": "denoising_strength",
    "image_guidance_scale": "image_cfg_scale",
    "image": "init_images",
    "mask_image": "mask",
    "sampler": "sampler_name",
    "sigmas": "scheduler",
    "num_images_per_prompt": "batch_size",
}
"""Option of ours -> its key there, for errors."""

SAMPLER_OPTIONS = ("eta", "s_churn", "s_tmin", "s_tmax", "s_noise")

SETTINGS = ("sd_model_checkpoint", "sd_vae", "CLIP_stop_at_last_layers", "samples_format")


@dataclass
class Asked:
    """A request of the web UI, in our terms."""

    values: dict[str, Any] = field(default_factory=dict)
    """Options of ours."""
    size: tuple[int, int] | None = None
    """Width and height of the answer."""
    known: dict[str, Any] = field(default_factory=dict)
    """The keys of the tables, with their values."""
    ignored: list[str] = field(default_factory=list)
    """Names of keys that nothing was done with, sorted."""

    @property
    def request(self) -> Request:
        """The options.

        Raises:
            InputError: one is not possible.
        """
        return Request(**self.values)


def translate(body: Mapping[str, Any], config: ModelConfig, settings: Mapping[str, Any]) -> Asked:
    """A request of the web UI.

    Args:
        body: its JSON.
        config: of the model.
        settings: the caller's, which ``override_settings`` override.

    Raises:
        InputError: names the key there.
    """
    asked = Asked({"prompt": "", "prompt_syntax": "a1111"})
    for name, value in body.items():
        key = KEYS.get(name)
        if key is None:
            if not name.startswith(OF_ABSENT):
                asked.ignored.append(name)
            continue
        conformed(json.dumps(value, ensure_ascii=False), str, name)  # the answer repeats it
        asked.known[name] = value
        if value is None or value in key.neutral:
            continue
        if key.use == "absent":
            raise InputError(name, value, "no such thing, which this server has not", _neutral(key))
        if key.use in OURS:
            asked.values[key.use] = conformed(value, OURS[key.use], name)
    _take_sampler(asked, config)
    _take_size(asked, config)
    override = asked.known.get("override_settings") or {}
    if not isinstance(override, Mapping):
        raise InputError("override_settings", override, "an object")
    asked.ignored += [f"override_settings.{name}" for name in override if name not in SETTINGS]
    layers = {**settings, **override}.get("CLIP_stop_at_last_layers", 1)
    layers = whole(asked.known, "clip_skip", whole({"clip_skip": layers}, "clip_skip", 1))
    asked.values["clip_skip"] = max(0, layers - 1)
    images = whole(asked.known, "batch_size", 1) * whole(asked.known, "n_iter", 1)
    asked.values["num_images_per_prompt"] = conformed(images, OURS["num_images_per_prompt"], "batch_size")
    asked.ignored.sort()
    return asked


def whole(values: Mapping[str, Any], name: str, usual: int) -> int:
    """A whole number.

    Raises:
        InputError: it is something else.
    """
    value = values.get(name)
    return usual if value is None else int(conformed(value, int, name))


def number(values: Mapping[str, Any], name: str, usual: float) -> float:
    """A number.

    Raises:
        InputError: it is something else.
    """
    value = values.get(name)
    return usual if value is None else float(conformed(value, float, name))


def restated(error: InputError) -> InputError:
    """An error about an option of ours, about its key there."""
    name = RESTATED.get(error.argument, error.argument)
    return InputError(name, error.got, error.want, error.hint)


def _neutral(key: Key) -> str:
    return f"Leave it out, or send {key.neutral[0]!r}" if key.neutral else "Leave it out"


def _take_sampler(asked: Asked, config: ModelConfig) -> None:
    known = asked.known
    name = known.get("sampler_name") or known.get("sampler_index")
    try:
        found = samplers.find(conformed(name, str, "sampler_name") if name else config.preset.sampler)
    except InputError as error:
        raise InputError("sampler_name", name, error.want, error.hint) from None
    spacing = _spacing(known.get("scheduler"))
    if name:
        asked.values["sampler"] = found.info.name
        spacing = spacing or found.spacing or automatic(found.info.name)
    if spacing:
        asked.values["sigmas"] = spacing
    takes = samplers.options(found.info.function)
    given = [each for each in SAMPLER_OPTIONS if known.get(each) is not None and known[each] not in KEYS[each].neutral]
    asked.values["sampler_options"] = {each: number(known, each, 0) for each in given if each in takes}
    asked.ignored += [each for each in given if each not in takes]


def _spacing(name: object) -> str | None:
    """Our name of a schedule type; None for "Automatic"."""
    if name is None or name == "":
        return None
    plain = "".join(sign for sign in str(name)[:100].lower() if sign.isalpha())
    if plain == "automatic":
        return None
    if plain not in SPACINGS:
        raise InputError("scheduler", name, f"automatic, {', '.join(SPACINGS)}")
    return SPACINGS[plain]


def _take_size(asked: Asked, config: ModelConfig) -> None:
    if asked.known.get("width") is None and asked.known.get("height") is None:
        return
    preset = config.preset
    width = whole(asked.known, "width", preset.width * preset.upscale)
    height = whole(asked.known, "height", preset.height * preset.upscale)
    for name, side in (("width", width), ("height", height)):
        if not 1 <= side <= 4096:
            raise InputError(name, side, "a whole number from 1 to 4,096")
    if max(width, height) > 16 * min(width, height):
        raise InputError("width", width, "sides whose ratio is at most 16")
    asked.size = width, height
    asked.values["width"], asked.values["height"] = sizes.generated(config, width, height)
