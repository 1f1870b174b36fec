"""The ``config.json`` of each network in a diffusers folder and our configs, both ways.

Values that our networks do not support are refused; an absent key means what it means to diffusers.
"""

import contextlib
import reprlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NoReturn

from diffuscope.config import TextEncoderConfig, UNetConfig, VAEConfig
from diffuscope.config.checks import few
from diffuscope.config.networks import Depth
from diffuscope.errors import WeightsError, shown

Json = dict[str, Any]
Keys = dict[str, tuple[str, Any]]  # key of the JSON -> field of our config, and the value where the key is absent

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
    "addition_time_embed_dim": ("size_dim", None),
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
    "latents_mean": ("mean", None),
    "latents_std": ("std", None),
    "layers_per_block": ("blocks", 1),
    "norm_num_groups": ("norm_groups", 32),
    "scaling_factor": ("scale", 0.18215),
}

Supported = Mapping[str, object]  # key -> the value that our networks support, or a tuple of them

TEXT_ENCODER_SUPPORTED: Supported = {
    "attention_dropout": 0.0,
    "eos_token_id": (2, 49407),  # 2 is a mistake of CLIP's own files, which transformers knows
    "hidden_act": ("quick_gelu", "gelu"),
    "layer_norm_eps": 1e-5,
    "model_type": "clip_text_model",
}
UNET_SUPPORTED: Supported = {
    "_class_name": "UNet2DConditionModel",
    "act_fn": "silu",
    "addition_embed_type": (None, "text_time"),
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
    "mid_block_only_cross_attention": (None, False),
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-5,
    "num_class_embeds": None,
    "only_cross_attention": False,
    "resnet_out_scale_factor": 1.0,
    "resnet_skip_time_act": False,
    "resnet_time_scale_shift": "default",
    "time_embedding_act_fn": None,
    "time_embedding_dim": None,
    "time_embedding_type": "positional",
    "timestep_post_act": None,
}
VAE_SUPPORTED: Supported = {
    "_class_name": "AutoencoderKL",
    "act_fn": "silu",
    "mid_block_add_attention": True,
    "shift_factor": (None, 0.0),
    "use_post_quant_conv": True,
    "use_quant_conv": True,
}

MIDDLES = {"UNetMidBlock2DCrossAttn": 2, "UNetMidBlock2D": 1, None: 0}  # class of the middle -> its residual blocks


def text_encoder_from_json(document: Json) -> TextEncoderConfig:
    """Our config from ``text_encoder/config.json``."""
    file = "text_encoder/config.json"
    check(file, document, TEXT_ENCODER_SUPPORTED)
    with errors_of(file):
        architectures = document.get("architectures") or []
        if not isinstance(architectures, list):
            refuse(file, "architectures", architectures, "a list of names")
        projected = "CLIPTextModelWithProjection" in architectures
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
    middle = document.get("mid_block_type", "UNetMidBlock2DCrossAttn")
    check(file, {"mid_block_type": middle}, {"mid_block_type": tuple(MIDDLES)})
    with errors_of(file):
        fields = _fields(document, UNET)
        levels = len(fields["channels"])
        few(levels, 0)
        layers = _per_level(document.get("transformer_layers_per_block", 1), levels)
        attends = _attends(file, document, levels)
        heads = document.get("num_attention_heads")
        # diffusers calls the number of heads `attention_head_dim`, and keeps to it for its saved configurations.
        heads = document.get("attention_head_dim", 8) if heads is None else heads
        if document.get("addition_embed_type") != "text_time":
            fields["extra_dim"] = None
        if fields["size_dim"] is None:
            fields["size_dim"] = UNetConfig.size_dim
        depth = _where(attends, layers)
        back = document.get("reverse_transformer_layers_per_block")
        up_depth = None if back is None else _where(attends[::-1], _per_level(back, levels))
        if MIDDLES[middle] == 2 and not isinstance(layers[-1], int):
            raise ValueError(f"{reprlib.repr(layers[-1])} is no depth of the middle")
        return UNetConfig(
            **fields,
            depth=depth,
            up_depth=None if up_depth == depth[::-1] else up_depth,
            mid_resnets=MIDDLES[middle],
            mid_depth=layers[-1] if MIDDLES[middle] == 2 else 0,
            heads=_per_level(heads, levels),
        )


def unet_to_json(config: UNetConfig) -> Json:
    """``unet/config.json`` as diffusers reads it; it has one number for the depth of coarsest level and middle."""
    attended_middle = config.mid_resnets == 2
    if attended_middle and (config.mid_depth < 1 or config.depth[-1] not in (0, config.mid_depth)):
        raise WeightsError(
            f"a middle of depth {config.mid_depth} under a level of depth {config.depth[-1]} has no equal "
            "in diffusers; save in our own layout"
        )
    extra = config.extra_dim is not None
    layers = [_listed(depth) for depth in config.depth]
    if attended_middle:
        layers[-1] = config.mid_depth
    document = {
        "_class_name": "UNet2DConditionModel",
        "act_fn": "silu",
        "addition_embed_type": "text_time" if extra else None,
        "attention_head_dim": list(config.heads),
        "down_block_types": ["CrossAttnDownBlock2D" if any(each) else "DownBlock2D" for each in config.down_depths],
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "mid_block_type": {resnets: name for name, resnets in MIDDLES.items()}[config.mid_resnets],
        "norm_eps": 1e-5,
        "transformer_layers_per_block": layers,
        "up_block_types": ["CrossAttnUpBlock2D" if any(each) else "UpBlock2D" for each in config.up_depths],
        **_keys(config, UNET),
    }
    if not extra:
        document["addition_time_embed_dim"] = None
    if config.up_depth is not None:
        document["reverse_transformer_layers_per_block"] = [_listed(depth) for depth in config.up_depth]
    return document


def vae_from_json(document: Json) -> VAEConfig:
    """Our config from ``vae/config.json``."""
    file = "vae/config.json"
    check(file, document, VAE_SUPPORTED)
    check(file, {"out_channels": 3} | document, {"out_channels": (document.get("in_channels", 3),)})
    with errors_of(file):
        config = VAEConfig(**_fields(document, VAE))
    for key, kind in (("down_block_types", "DownEncoderBlock2D"), ("up_block_types", "UpDecoderBlock2D")):
        types, found = [kind] * len(config.channels), document.get(key, [kind])
        if not isinstance(found, list | tuple) or list(found) != types:
            refuse(file, key, found, f"{types}, one per level")
    return config


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
        got = document.get(key)
        same = (got == each and isinstance(got, bool) is isinstance(each, bool) for each in values)  # 1 is not true
        if key in document and not any(same):
            refuse(file, key, got, " or ".join(map(repr, values)))


def refuse(file: str, key: str, got: object, wanted: str) -> NoReturn:
    """Raise the WeightsError for a key of ``file``."""
    raise WeightsError(f"{file} has {key} = {shown(got)}, expected {wanted}; other values are not supported")


def number(file: str, key: str, value: object) -> float:
    """The value of a key of ``file``, refused unless it is a finite number."""
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max:
        return float(value)
    refuse(file, key, value, "a finite number")


def whole(file: str, key: str, value: object) -> int:
    """The value of a key of ``file``, refused unless it is a whole number."""
    if isinstance(value, int | float) and not isinstance(value, bool) and value % 1 == 0:
        return int(value)
    refuse(file, key, value, "a whole number")


@contextlib.contextmanager
def errors_of(file: str) -> Iterator[None]:
    """Turn a config's errors of values into a WeightsError that names the file."""
    try:
        yield
    except (TypeError, ValueError, OverflowError) as error:
        raise WeightsError(f"{file} makes no network: {error}; save the folder again") from error


def _fields(document: Json, keys: Keys) -> dict[str, Any]:
    values: dict[str, Any] = {field: document.get(key, default) for key, (field, default) in keys.items()}
    return {field: tuple(value) if isinstance(value, list) else value for field, value in values.items()}


def _keys(config: object, keys: Keys) -> Json:
    values = {key: getattr(config, field) for key, (field, _) in keys.items()}
    return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}


def _per_level(value: Any, levels: int) -> tuple[Any, ...]:
    """One value for each level, of one for all or a list; lists within it are those of a level's blocks."""
    numbers = (value,) * levels if isinstance(value, int) else tuple(value)
    if len(numbers) != levels:
        raise ValueError(f"{reprlib.repr(value)} is not one number for each of {levels} levels")
    return tuple(tuple(number) if isinstance(number, list | tuple) else number for number in numbers)


def _where(attends: Sequence[bool], layers: Sequence[Depth]) -> tuple[Depth, ...]:
    """Each level's depth: 0 where it has no attention, one number where its blocks have the same."""
    one = (depth[0] if isinstance(depth, tuple) and len({*depth}) == 1 else depth for depth in layers)
    return tuple(depth if attention else 0 for attention, depth in zip(attends, one, strict=True))


def _listed(depth: Depth) -> int | list[int]:
    """A level's depth as diffusers has it, where a level without attention has a number too."""
    return max(depth, 1) if isinstance(depth, int) else list(depth)


def _attends(file: str, document: Json, levels: int) -> list[bool]:
    down = document.get("down_block_types", ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"])
    up = document.get("up_block_types", ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3)
    kinds = ("CrossAttnDownBlock2D", "DownBlock2D")
    if not isinstance(down, list | tuple) or not all(each in kinds for each in down) or len(down) != levels:
        refuse(file, "down_block_types", down, f"{levels} of 'CrossAttnDownBlock2D' and 'DownBlock2D'")
    mirror = [name.replace("Down", "Up") for name in down[::-1]]
    if not isinstance(up, list | tuple) or list(up) != mirror:
        refuse(file, "up_block_types", up, f"{mirror}, the mirror of down_block_types")
    return [name.startswith("CrossAttn") for name in down]
