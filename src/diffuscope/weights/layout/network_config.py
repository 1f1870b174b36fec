"""The ``config.json`` of each network in a diffusers folder and our configs, both ways.

Reading refuses what our networks do not do, rather than making other pictures; absent keys mean what diffusers means.
"""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

from diffuscope.config import TextEncoderConfig, UNetConfig, VAEConfig
from diffuscope.errors import WeightsError

Json = dict[str, Any]

TEXT_ENCODER_FIXED = {"layer_norm_eps": (1e-5,), "attention_dropout": (0.0,)}
UNET_FIXED = {
    "act_fn": ("silu",),
    "addition_embed_type": (None, "text_time"),
    "addition_time_embed_dim": (None, 256),
    "attention_type": ("default",),
    "center_input_sample": (False,),
    "class_embed_type": (None,),
    "conv_in_kernel": (3,),
    "conv_out_kernel": (3,),
    "cross_attention_norm": (None,),
    "downsample_padding": (1,),
    "dropout": (0.0,),
    "dual_cross_attention": (False,),
    "encoder_hid_dim": (None,),
    "encoder_hid_dim_type": (None,),
    "flip_sin_to_cos": (True,),
    "freq_shift": (0,),
    "mid_block_scale_factor": (1,),
    "mid_block_type": ("UNetMidBlock2DCrossAttn",),
    "norm_eps": (1e-5,),
    "num_class_embeds": (None,),
    "only_cross_attention": (False,),
    "resnet_out_scale_factor": (1.0,),
    "resnet_skip_time_act": (False,),
    "resnet_time_scale_shift": ("default",),
    "reverse_transformer_layers_per_block": (None,),
    "time_embedding_act_fn": (None,),
    "time_embedding_dim": (None,),
    "time_embedding_type": ("positional",),
    "timestep_post_act": (None,),
}
VAE_FIXED = {
    "act_fn": ("silu",),
    "latents_mean": (None,),
    "latents_std": (None,),
    "mid_block_add_attention": (True,),
    "shift_factor": (None, 0.0),
    "use_post_quant_conv": (True,),
    "use_quant_conv": (True,),
}


def text_encoder_from_json(document: Json) -> TextEncoderConfig:
    """Our config from ``text_encoder/config.json``.

    Raises:
        WeightsError: it asks for what our text encoder does not do.
    """
    what = "text_encoder/config.json"
    only(what, document, TEXT_ENCODER_FIXED)
    activation = document.get("hidden_act", "quick_gelu")
    if activation not in ("quick_gelu", "gelu"):
        refuse(what, "hidden_act", activation, "'quick_gelu' or 'gelu'")
    projected = "CLIPTextModelWithProjection" in (document.get("architectures") or ())
    with checked(what):
        return TextEncoderConfig(
            vocabulary=document.get("vocab_size", 49408),
            positions=document.get("max_position_embeddings", 77),
            width=document.get("hidden_size", 512),
            layers=document.get("num_hidden_layers", 12),
            heads=document.get("num_attention_heads", 8),
            hidden=document.get("intermediate_size", 2048),
            activation=activation,
            projection=document.get("projection_dim", 512) if projected else None,
        )


def text_encoder_to_json(config: TextEncoderConfig) -> Json:
    """``text_encoder/config.json`` as transformers reads it."""
    return {
        "architectures": ["CLIPTextModel" if config.projection is None else "CLIPTextModelWithProjection"],
        "bos_token_id": 49406,
        "eos_token_id": 49407,
        "hidden_act": config.activation,
        "hidden_size": config.width,
        "intermediate_size": config.hidden,
        "layer_norm_eps": 1e-5,
        "max_position_embeddings": config.positions,
        "model_type": "clip_text_model",
        "num_attention_heads": config.heads,
        "num_hidden_layers": config.layers,
        "pad_token_id": 1,
        "projection_dim": config.width if config.projection is None else config.projection,
        "vocab_size": config.vocabulary,
    }


def unet_from_json(document: Json) -> UNetConfig:
    """Our config from ``unet/config.json``.

    Raises:
        WeightsError: it asks for what our U-Net does not do.
    """
    what = "unet/config.json"
    only(what, document, UNET_FIXED)
    with checked(what):
        channels = tuple(document.get("block_out_channels", (320, 640, 1280, 1280)))
        levels = len(channels)
        layers = _per_level(document.get("transformer_layers_per_block", 1), levels)
        attends = _attends(what, document, levels)
        heads = document.get("num_attention_heads")
        # diffusers calls the number of heads `attention_head_dim`, and keeps to it for its saved configurations.
        heads = document.get("attention_head_dim", 8) if heads is None else heads
        extra = document.get("addition_embed_type") == "text_time"
        return UNetConfig(
            in_channels=document.get("in_channels", 4),
            out_channels=document.get("out_channels", 4),
            channels=channels,
            blocks=document.get("layers_per_block", 2),
            depth=tuple(count if here else 0 for count, here in zip(layers, attends, strict=True)),
            mid_depth=layers[-1],
            heads=_per_level(heads, levels),
            context_dim=document.get("cross_attention_dim", 1280),
            linear_projection=document.get("use_linear_projection", False),
            extra_dim=document.get("projection_class_embeddings_input_dim") if extra else None,
            guidance_dim=document.get("time_cond_proj_dim"),
            norm_groups=document.get("norm_num_groups", 32),
        )


def unet_to_json(config: UNetConfig) -> Json:
    """``unet/config.json`` as diffusers reads it.

    Raises:
        WeightsError: the middle is not as deep as the coarsest stage, for which diffusers has one number.
    """
    if config.mid_depth < 1 or config.depth[-1] not in (0, config.mid_depth):
        raise WeightsError(
            f"a middle of depth {config.mid_depth} under a stage of depth {config.depth[-1]} has no equal "
            "in diffusers; save in our own layout"
        )
    layers = [*(max(count, 1) for count in config.depth[:-1]), config.mid_depth]
    extra = config.extra_dim is not None
    return {
        "_class_name": "UNet2DConditionModel",
        "act_fn": "silu",
        "addition_embed_type": "text_time" if extra else None,
        "addition_time_embed_dim": 256 if extra else None,
        "attention_head_dim": list(config.heads),
        "block_out_channels": list(config.channels),
        "cross_attention_dim": config.context_dim,
        "down_block_types": ["CrossAttnDownBlock2D" if count else "DownBlock2D" for count in config.depth],
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "in_channels": config.in_channels,
        "layers_per_block": config.blocks,
        "mid_block_type": "UNetMidBlock2DCrossAttn",
        "norm_eps": 1e-5,
        "norm_num_groups": config.norm_groups,
        "out_channels": config.out_channels,
        "projection_class_embeddings_input_dim": config.extra_dim,
        "time_cond_proj_dim": config.guidance_dim,
        "transformer_layers_per_block": layers,
        "up_block_types": ["CrossAttnUpBlock2D" if count else "UpBlock2D" for count in config.depth[::-1]],
        "use_linear_projection": config.linear_projection,
    }


def vae_from_json(document: Json) -> VAEConfig:
    """Our config from ``vae/config.json``.

    Raises:
        WeightsError: it asks for what our autoencoder does not do.
    """
    what = "vae/config.json"
    only(what, document, VAE_FIXED)
    image_channels = document.get("in_channels", 3)
    if document.get("out_channels", 3) != image_channels:
        refuse(what, "out_channels", document.get("out_channels", 3), f"{image_channels}, as in_channels")
    with checked(what):
        return VAEConfig(
            image_channels=image_channels,
            latent_channels=document.get("latent_channels", 4),
            channels=tuple(document.get("block_out_channels", (64,))),
            blocks=document.get("layers_per_block", 1),
            norm_groups=document.get("norm_num_groups", 32),
            scale=document.get("scaling_factor", 0.18215),
            upcast=document.get("force_upcast", True),
        )


def vae_to_json(config: VAEConfig) -> Json:
    """``vae/config.json`` as diffusers reads it."""
    levels = len(config.channels)
    return {
        "_class_name": "AutoencoderKL",
        "act_fn": "silu",
        "block_out_channels": list(config.channels),
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "force_upcast": config.upcast,
        "in_channels": config.image_channels,
        "latent_channels": config.latent_channels,
        "layers_per_block": config.blocks,
        "norm_num_groups": config.norm_groups,
        "out_channels": config.image_channels,
        "scaling_factor": config.scale,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
    }


def only(what: str, document: Json, allowed: Mapping[str, tuple[object, ...]]) -> None:
    """Refuse a document that sets one of the keys of ``allowed`` to none of its values.

    Raises:
        WeightsError: naming file, key and value.
    """
    for key, values in allowed.items():
        if key in document and document[key] not in values:
            refuse(what, key, document[key], " or ".join(map(repr, values)))


def refuse(what: str, key: str, got: object, wanted: str) -> NoReturn:
    """Raise the WeightsError for a key of the file ``what`` whose value is not among those that we do."""
    raise WeightsError(f"{what} has {key} = {got!r}, wanted {wanted}; this engine does not do the other kind")


@contextlib.contextmanager
def checked(what: str) -> Iterator[None]:
    """Turn what a config says of wrong values into a WeightsError that names the file."""
    try:
        yield
    except (TypeError, ValueError) as error:
        raise WeightsError(f"{what} makes no network: {error}; save the folder again") from error


def _per_level(value: Any, levels: int) -> tuple[int, ...]:
    numbers = (value,) * levels if isinstance(value, int) else tuple(value)
    if len(numbers) != levels or not all(isinstance(number, int) for number in numbers):
        raise ValueError(f"{value!r} is not one number for each of {levels} levels")
    return numbers


def _attends(what: str, document: Json, levels: int) -> list[bool]:
    down = document.get("down_block_types", ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"])
    up = document.get("up_block_types", ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3)
    if not set(down) <= {"CrossAttnDownBlock2D", "DownBlock2D"} or len(down) != levels:
        refuse(what, "down_block_types", down, f"{levels} of 'CrossAttnDownBlock2D' and 'DownBlock2D'")
    mirror = [name.replace("Down", "Up") for name in down[::-1]]
    if list(up) != mirror:
        refuse(what, "up_block_types", up, f"{mirror}, the mirror of down_block_types")
    return [name.startswith("CrossAttn") for name in down]
