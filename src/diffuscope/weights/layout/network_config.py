"""The ``config.json`` of each network in a diffusers folder and our configs, both ways.

Values that our networks do not support are refused; an absent key means what it means to diffusers.
"""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

from diffuscope.config import TextEncoderConfig, UNetConfig, VAEConfig
from diffuscope.errors import WeightsError

Json = dict[str, Any]
Keys = dict[str, tuple[str, Any]]
"""Key of the JSON -> field of our config, and the value where the key is absent."""

TEXT_ENCODER: Keys = {
    "hidden_act": ("activation", "quick_gelu"),
    "hidden_size": ("width", 512),
    "intermediate_size": ("hidden", 2048),
    "max_position_embeddings": ("positions", 77),
    "num_attention_heads": ("heads", 8),
    "num_hidden_layers": ("layers", 12),
    "vocab_size": ("vocabulary", 49408),
}
UNET: Keys = {
    "block_out_channels": ("channels", (320, 640, 1280, 1280)),
    "cross_attention_dim": ("context_dim", 1280),
    "in_channels": ("in_channels", 4),
    "layers_per_block": ("blocks", 2),
    "norm_num_groups": ("norm_groups", 32),
    "out_channels": ("out_channels", 4),
    "projection_class_embeddings_input_dim": ("extra_dim", None),
    "time_cond_proj_dim": ("guidance_dim", None),
    "use_linear_projection": ("linear_projection", False),
}
VAE: Keys = {
    "block_out_channels": ("channels", (64,)),
    "force_upcast": ("upcast", True),
    "in_channels": ("image_channels", 3),
    "latent_channels": ("latent_channels", 4),
    "layers_per_block": ("blocks", 1),
    "norm_num_groups": ("norm_groups", 32),
    "scaling_factor": ("scale", 0.18215),
}

Supported = Mapping[str, object]
"""Key -> the value that our networks support, or a tuple of them."""

TEXT_ENCODER_SUPPORTED: Supported = {
    "attention_dropout": 0.0,
    "hidden_act": ("quick_gelu", "gelu"),
    "layer_norm_eps": 1e-5,
}
UNET_SUPPORTED: Supported = {
    "act_fn": "silu",
    "addition_embed_type": (None, "text_time"),
    "addition_time_embed_dim": (None, 256),
    "attention_type": "default",
    "center_input_sample": False,
    "class_embed_type": None,
    "conv_in_kernel": 3,
    "conv_out_kernel": 3,
    "cross_attention_norm": None,
    "downsample_padding": 1,
    "dropout": 0.0,
    "dual_cross_attention": False,
    "encoder_hid_dim": None,
    "encoder_hid_dim_type": None,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "mid_block_scale_factor": 1,
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "norm_eps": 1e-5,
    "num_class_embeds": None,
    "only_cross_attention": False,
    "resnet_out_scale_factor": 1.0,
    "resnet_skip_time_act": False,
    "resnet_time_scale_shift": "default",
    "reverse_transformer_layers_per_block": None,
    "time_embedding_act_fn": None,
    "time_embedding_dim": None,
    "time_embedding_type": "positional",
    "timestep_post_act": None,
}
VAE_SUPPORTED: Supported = {
    "act_fn": "silu",
    "latents_mean": None,
    "latents_std": None,
    "mid_block_add_attention": True,
    "shift_factor": (None, 0.0),
    "use_post_quant_conv": True,
    "use_quant_conv": True,
}


def text_encoder_from_json(document: Json) -> TextEncoderConfig:
    """Our config from ``text_encoder/config.json``."""
    file = "text_encoder/config.json"
    check(file, document, TEXT_ENCODER_SUPPORTED)
    projected = "CLIPTextModelWithProjection" in (document.get("architectures") or ())
    with errors_of(file):
        projection = document.get("projection_dim", 512) if projected else None
        return TextEncoderConfig(**_fields(document, TEXT_ENCODER), projection=projection)


def text_encoder_to_json(config: TextEncoderConfig) -> Json:
    """``text_encoder/config.json`` as transformers reads it."""
    return {
        "architectures": ["CLIPTextModel" if config.projection is None else "CLIPTextModelWithProjection"],
        "bos_token_id": 49406,
        "eos_token_id": 49407,
        "layer_norm_eps": 1e-5,
        "model_type": "clip_text_model",
        "pad_token_id": 1,
        "projection_dim": config.width if config.projection is None else config.projection,
        **_keys(config, TEXT_ENCODER),
    }


def unet_from_json(document: Json) -> UNetConfig:
    """Our config from ``unet/config.json``."""
    file = "unet/config.json"
    check(file, document, UNET_SUPPORTED)
    with errors_of(file):
        fields = _fields(document, UNET)
        levels = len(fields["channels"])
        layers = _per_level(document.get("transformer_layers_per_block", 1), levels)
        attends = _attends(file, document, levels)
        heads = document.get("num_attention_heads")
        # diffusers calls the number of heads `attention_head_dim`, and keeps to it for its saved configurations.
        heads = document.get("attention_head_dim", 8) if heads is None else heads
        if document.get("addition_embed_type") != "text_time":
            fields["extra_dim"] = None
        return UNetConfig(
            **fields,
            depth=tuple(count if attention else 0 for count, attention in zip(layers, attends, strict=True)),
            mid_depth=layers[-1],
            heads=_per_level(heads, levels),
        )


def unet_to_json(config: UNetConfig) -> Json:
    """``unet/config.json`` as diffusers reads it; it has one number for the depth of coarsest level and middle."""
    if config.mid_depth < 1 or config.depth[-1] not in (0, config.mid_depth):
        raise WeightsError(
            f"a middle of depth {config.mid_depth} under a level of depth {config.depth[-1]} has no equal "
            "in diffusers; save in our own layout"
        )
    extra = config.extra_dim is not None
    return {
        "_class_name": "UNet2DConditionModel",
        "act_fn": "silu",
        "addition_embed_type": "text_time" if extra else None,
        "addition_time_embed_dim": 256 if extra else None,
        "attention_head_dim": list(config.heads),
        "down_block_types": ["CrossAttnDownBlock2D" if count else "DownBlock2D" for count in config.depth],
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "mid_block_type": "UNetMidBlock2DCrossAttn",
        "norm_eps": 1e-5,
        "transformer_layers_per_block": [*(max(count, 1) for count in config.depth[:-1]), config.mid_depth],
        "up_block_types": ["CrossAttnUpBlock2D" if count else "UpBlock2D" for count in config.depth[::-1]],
        **_keys(config, UNET),
    }


def vae_from_json(document: Json) -> VAEConfig:
    """Our config from ``vae/config.json``."""
    file = "vae/config.json"
    check(file, document, VAE_SUPPORTED)
    check(file, {"out_channels": 3} | document, {"out_channels": (document.get("in_channels", 3),)})
    with errors_of(file):
        return VAEConfig(**_fields(document, VAE))


def vae_to_json(config: VAEConfig) -> Json:
    """``vae/config.json`` as diffusers reads it."""
    return {
        "_class_name": "AutoencoderKL",
        "act_fn": "silu",
        "down_block_types": ["DownEncoderBlock2D"] * len(config.channels),
        "out_channels": config.image_channels,
        "up_block_types": ["UpDecoderBlock2D"] * len(config.channels),
        **_keys(config, VAE),
    }


def check(file: str, document: Json, supported: Supported) -> None:
    """Refuse a document with a value that is not supported."""
    for key, value in supported.items():
        values = value if isinstance(value, tuple) else (value,)
        if key in document and document[key] not in values:
            refuse(file, key, document[key], " or ".join(map(repr, values)))


def refuse(file: str, key: str, got: object, wanted: str) -> NoReturn:
    """Raise the WeightsError for a key of ``file``."""
    raise WeightsError(f"{file} has {key} = {got!r}, expected {wanted}; other values are not supported")


@contextlib.contextmanager
def errors_of(file: str) -> Iterator[None]:
    """Turn a config's errors of values into a WeightsError that names the file."""
    try:
        yield
    except (TypeError, ValueError) as error:
        raise WeightsError(f"{file} makes no network: {error}; save the folder again") from error


def _fields(document: Json, keys: Keys) -> dict[str, Any]:
    values: dict[str, Any] = {field: document.get(key, default) for key, (field, default) in keys.items()}
    if "channels" in values:
        values["channels"] = tuple(values["channels"])
    return values


def _keys(config: object, keys: Keys) -> Json:
    values = {key: getattr(config, field) for key, (field, _) in keys.items()}
    return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}


def _per_level(value: Any, levels: int) -> tuple[int, ...]:
    numbers = (value,) * levels if isinstance(value, int) else tuple(value)
    if len(numbers) != levels or not all(isinstance(number, int) for number in numbers):
        raise ValueError(f"{value!r} is not one number for each of {levels} levels")
    return numbers


def _attends(file: str, document: Json, levels: int) -> list[bool]:
    down = document.get("down_block_types", ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"])
    up = document.get("up_block_types", ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3)
    if not set(down) <= {"CrossAttnDownBlock2D", "DownBlock2D"} or len(down) != levels:
        refuse(file, "down_block_types", down, f"{levels} of 'CrossAttnDownBlock2D' and 'DownBlock2D'")
    mirror = [name.replace("Down", "Up") for name in down[::-1]]
    if list(up) != mirror:
        refuse(file, "up_block_types", up, f"{mirror}, the mirror of down_block_types")
    return [name.startswith("CrossAttn") for name in down]
