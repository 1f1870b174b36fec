"""The JSON files of the released models mean the families that ship; at full size, no weights.

Written down from memory of the published folders, not copied out of them: only the keys that say something. Whoever has
such a folder should compare.
"""

import diffusers
import pytest
import torch
import transformers

from diffuscope.config import FAMILIES, ModelConfig
from diffuscope.models.text_encoder import TextEncoder
from diffuscope.models.unet import UNet
from diffuscope.models.vae import VAE
from diffuscope.weights.layout import network_config, scheduler_config
from diffuscope.weights.layout.diffusers import PartConfig, from_diffusers

FOUR_LEVELS = {
    "act_fn": "silu",
    "block_out_channels": [320, 640, 1280, 1280],
    "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
    "layers_per_block": 2,
    "in_channels": 4,
}
SD15 = FOUR_LEVELS | {"attention_head_dim": 8, "cross_attention_dim": 768, "sample_size": 64}
SD21 = FOUR_LEVELS | {
    "attention_head_dim": [5, 10, 20, 20],
    "cross_attention_dim": 1024,
    "use_linear_projection": True,
    "dual_cross_attention": False,
    "only_cross_attention": False,
    "num_class_embeds": None,
    "upcast_attention": True,
}
SDXL = {
    "addition_embed_type": "text_time",
    "addition_embed_type_num_heads": 64,
    "addition_time_embed_dim": 256,
    "attention_head_dim": [5, 10, 20],
    "block_out_channels": [320, 640, 1280],
    "class_embeddings_concat": False,
    "cross_attention_dim": 2048,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "layers_per_block": 2,
    "projection_class_embeddings_input_dim": 2816,
    "time_cond_proj_dim": None,
    "transformer_layers_per_block": [1, 2, 10],
    "upcast_attention": None,
    "use_linear_projection": True,
}
REFINER = SDXL | {
    "attention_head_dim": [6, 12, 24, 24],
    "block_out_channels": [384, 768, 1536, 1536],
    "cross_attention_dim": 1280,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "projection_class_embeddings_input_dim": 2560,
    "transformer_layers_per_block": 4,
}
SSD_1B = SDXL | {
    "mid_block_type": "UNetMidBlock2D",
    "reverse_transformer_layers_per_block": [[4, 4, 10], [2, 1, 1], 1],
    "transformer_layers_per_block": [1, [2, 2], [4, 4]],
}
VEGA = SDXL | {
    "mid_block_type": "UNetMidBlock2D",
    "reverse_transformer_layers_per_block": [[2, 2, 2], [1, 1, 1], 1],
    "transformer_layers_per_block": [1, [1, 1], [2, 2]],
}
UNETS = {
    "sd15": SD15,
    "sd15-inpaint": SD15 | {"in_channels": 9},
    "sd15-instruct-pix2pix": SD15 | {"in_channels": 8},
    "sd15-lcm": SD15 | {"time_cond_proj_dim": 256},
    "sd21": SD21,
    "sd21-v": SD21 | {"sample_size": 96},
    "sd21-inpaint": SD21 | {"in_channels": 9},
    "sd-turbo": SD21,
    "sdxl": SDXL,
    "sdxl-inpaint": SDXL | {"in_channels": 9},
    "sdxl-refiner": REFINER,
    "sdxl-turbo": SDXL,
    "ssd-1b": SSD_1B,
    "segmind-vega": VEGA,
}
BK_BASE = SD15 | {"layers_per_block": 1}
BK_SMALL = BK_BASE | {"mid_block_type": None}
BK_TINY = BK_SMALL | {
    "block_out_channels": [320, 640, 1280],
    "down_block_types": ["CrossAttnDownBlock2D"] * 3,
    "up_block_types": ["CrossAttnUpBlock2D"] * 3,
}
OTHERS = {
    "BK-SDM-Base": BK_BASE,
    "BK-SDM-Small, small-sd": BK_SMALL,
    "BK-SDM-Tiny, tiny-sd": BK_TINY,
    "sizes of another width": SDXL | {"addition_time_embed_dim": 128, "projection_class_embeddings_input_dim": 2048},
}
"""U-Nets of no family, which their folders describe."""

CLIP_L = {
    "architectures": ["CLIPTextModel"],
    "hidden_act": "quick_gelu",
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "projection_dim": 768,
}
OPENCLIP_H = {
    "architectures": ["CLIPTextModel"],
    "hidden_act": "gelu",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_attention_heads": 16,
    "num_hidden_layers": 23,
    "projection_dim": 512,
}
OPENCLIP_G = {
    "architectures": ["CLIPTextModelWithProjection"],
    "hidden_act": "gelu",
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_attention_heads": 20,
    "num_hidden_layers": 32,
    "projection_dim": 1280,
}
TOWERS = {
    **dict.fromkeys(("sd15", "sd15-inpaint", "sd15-instruct-pix2pix", "sd15-lcm"), (CLIP_L,)),
    **dict.fromkeys(("sd21", "sd21-v", "sd21-inpaint", "sd-turbo"), (OPENCLIP_H,)),
    **dict.fromkeys(("sdxl", "sdxl-inpaint", "sdxl-turbo", "ssd-1b", "segmind-vega"), (CLIP_L, OPENCLIP_G)),
    "sdxl-refiner": (OPENCLIP_G,),
}


def shapes(module: torch.nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in module.state_dict().items()}


def theirs_under_our_names(theirs: torch.nn.Module, config: PartConfig) -> dict[str, torch.Size]:
    renamed = from_diffusers(theirs.state_dict(), config)
    return {name: tensor.shape for name, tensor in renamed.items()}


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_the_published_unet_is_the_family(family: ModelConfig) -> None:
    assert network_config.unet_from_json(UNETS[family.name]) == family.unet


@pytest.mark.parametrize("family", ["sd15-inpaint", "sd15-lcm", "sd21", "sdxl", "sdxl-refiner", "ssd-1b"])
def test_the_full_size_unet_has_every_tensor(family: str) -> None:
    with torch.device("meta"):
        theirs = diffusers.UNet2DConditionModel.from_config(UNETS[family])
        ours = UNet(FAMILIES[family].unet)
    assert theirs_under_our_names(theirs, ours.config) == shapes(ours)


@pytest.mark.parametrize("name", OTHERS)
def test_the_full_size_unet_of_no_family_has_every_tensor(name: str) -> None:
    config = network_config.unet_from_json(OTHERS[name])
    with torch.device("meta"):
        theirs, ours = diffusers.UNet2DConditionModel.from_config(OTHERS[name]), UNet(config)
    assert theirs_under_our_names(theirs, config) == shapes(ours)
    assert network_config.unet_from_json(network_config.unet_to_json(config)) == config


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_the_published_text_encoders_are_the_family(family: ModelConfig) -> None:
    for encoder, document in zip(family.text_encoders, TOWERS[family.name], strict=True):
        found = network_config.text_encoder_from_json(document)
        for name in ("width", "layers", "heads", "hidden", "activation", "projection", "positions", "vocabulary"):
            assert getattr(found, name) == getattr(encoder, name), name


@pytest.mark.parametrize(("family", "tower"), [("sd15", 0), ("sd21", 0), ("sdxl", 1)])
def test_the_full_size_text_encoder_has_every_tensor(family: str, tower: int) -> None:
    document = TOWERS[family][tower]
    with torch.device("meta"):
        theirs = getattr(transformers, document["architectures"][0])(transformers.CLIPTextConfig(**document))
        ours = TextEncoder(FAMILIES[family].text_encoders[tower])
    assert theirs_under_our_names(theirs, ours.config) == shapes(ours)


def test_the_published_autoencoders() -> None:
    """They differ in their scale, and in that one of them overflows."""
    document = {
        "block_out_channels": [128, 256, 512, 512],
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
        "latent_channels": 4,
        "layers_per_block": 2,
        "force_upcast": True,
        "scaling_factor": 0.13025,
    }
    assert network_config.vae_from_json(document) == FAMILIES["sdxl"].vae
    with torch.device("meta"):
        theirs, ours = diffusers.AutoencoderKL.from_config(document), VAE(FAMILIES["sdxl"].vae)
    assert theirs_under_our_names(theirs, ours.config) == shapes(ours)


BETAS = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "num_train_timesteps": 1000}
USUAL = BETAS | {"clip_sample": False, "set_alpha_to_one": False, "skip_prk_steps": True, "steps_offset": 1}
SCHEDULERS = {
    "sd15": USUAL | {"_class_name": "PNDMScheduler", "trained_betas": None},
    "sd21-v": USUAL | {"_class_name": "DDIMScheduler", "prediction_type": "v_prediction", "trained_betas": None},
    "sd-turbo": USUAL | {"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "trailing", "sigma_max": None},
    "sdxl": USUAL
    | {"_class_name": "EulerDiscreteScheduler", "interpolation_type": "linear", "timestep_spacing": "leading"},
    "sdxl-turbo": USUAL | {"_class_name": "EulerAncestralDiscreteScheduler", "timestep_spacing": "trailing"},
}


@pytest.mark.parametrize("family", SCHEDULERS)
def test_the_published_scheduler_is_the_family(family: str) -> None:
    schedule, preset, *_ = scheduler_config.from_json(SCHEDULERS[family])
    assert schedule == FAMILIES[family].schedule
    assert preset["sigmas"] == "model"
    if family.startswith(("sd-", "sdxl")):
        assert preset["sampler"] == FAMILIES[family].preset.sampler
