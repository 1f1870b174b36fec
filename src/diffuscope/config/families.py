"""The families of released models, the models that ship, and narrow ones for tests."""

from dataclasses import replace

from diffuscope.config.model import ModelConfig, Preset, ScheduleConfig
from diffuscope.config.networks import Depth, TextEncoderConfig, UNetConfig, VAEConfig


def _shallow(depth: Depth) -> Depth:
    depths = (depth,) if isinstance(depth, int) else depth
    shallow = tuple(min(count, 2) for count in depths)
    return shallow[0] if len(set(shallow)) == 1 else shallow


def narrow(model: ModelConfig) -> ModelConfig:
    """The same kind of model, named ``tiny-...``, with every width cut to what a test can afford."""
    encoders = [
        replace(
            encoder,
            width=32,
            layers=2,
            heads=2,
            hidden=64,
            projection=None if encoder.projection is None else 32,
        )
        for encoder in model.text_encoders
    ]
    depth = tuple(_shallow(count) for count in model.unet.depth)
    up_depth = None if model.unet.up_depth is None else tuple(_shallow(count) for count in model.unet.up_depth)
    unet = replace(
        model.unet,
        channels=(32,) + (64,) * (len(depth) - 1),
        blocks=1 if up_depth is None else model.unet.blocks,
        depth=depth,
        up_depth=up_depth,
        mid_depth=min(model.unet.mid_depth, 2),
        heads=(2,) * len(depth),
        context_dim=32 * len(encoders),
        extra_dim=None if model.unet.extra_dim is None else 32 + model.sizes * model.unet.size_dim,
        norm_groups=8,
    )
    return replace(
        model,
        name=f"tiny-{model.name}",
        text_encoder=encoders[0],
        text_encoder_2=None if model.text_encoder_2 is None else encoders[1],
        unet=unet,
        vae=replace(model.vae, channels=(16, 32), blocks=1, norm_groups=8),
        preset=replace(model.preset, num_inference_steps=min(model.preset.num_inference_steps, 4), height=32, width=32),
    )


SD15 = ModelConfig(name="sd15", schedule=ScheduleConfig(ddim_ends_at_zero=False))
SD15_INPAINT = replace(SD15, name="sd15-inpaint", unet=UNetConfig(in_channels=9))
SD15_EDIT = replace(
    SD15,
    name="sd15-instruct-pix2pix",
    unet=UNetConfig(in_channels=8),
    preset=Preset(num_inference_steps=100, image_guidance_scale=1.5),
)
SD15_LCM = replace(
    SD15,
    name="sd15-lcm",
    unet=UNetConfig(guidance_dim=256),
    preset=Preset(num_inference_steps=4, guidance_scale=8.5, sampler="lcm", height=768, width=768),
)

# 23 of OpenCLIP's 24 layers: the U-Net reads the states before the last, through the final norm.
_OPENCLIP_H = TextEncoderConfig(width=1024, layers=23, heads=16, hidden=4096, activation="gelu", pad=0)
_SD2_UNET = UNetConfig(heads=(5, 10, 20, 20), context_dim=1024, linear_projection=True)
SD21 = replace(SD15, name="sd21", text_encoder=_OPENCLIP_H, unet=_SD2_UNET)
SD21_V = replace(
    SD21, name="sd21-v", schedule=replace(SD15.schedule, prediction="v"), preset=Preset(height=768, width=768)
)
SD21_INPAINT = replace(SD21, name="sd21-inpaint", unet=replace(_SD2_UNET, in_channels=9))
SD_TURBO = replace(
    SD21,
    name="sd-turbo",
    schedule=replace(SD15.schedule, spacing="trailing"),
    preset=Preset(num_inference_steps=1, guidance_scale=1.0, sampler="euler"),
)

_CLIP_L = TextEncoderConfig(states="penultimate")
_OPENCLIP_G = TextEncoderConfig(
    width=1280, layers=32, heads=20, hidden=5120, activation="gelu", projection=1280, states="penultimate", pad=0
)
SDXL = ModelConfig(
    name="sdxl",
    text_encoder=_CLIP_L,
    text_encoder_2=_OPENCLIP_G,
    unet=UNetConfig(
        channels=(320, 640, 1280),
        depth=(0, 2, 10),
        mid_depth=10,
        heads=(5, 10, 20),
        context_dim=2048,
        linear_projection=True,
        extra_dim=1280 + 6 * 256,
    ),
    vae=VAEConfig(scale=0.13025, upcast=True),
    schedule=SD15.schedule,
    preset=Preset(guidance_scale=5.0, sampler="euler", height=1024, width=1024),
    zero_negative=True,
)
SDXL_INPAINT = replace(SDXL, name="sdxl-inpaint", unet=replace(SDXL.unet, in_channels=9))
SDXL_REFINER = replace(
    SDXL,
    name="sdxl-refiner",
    text_encoder=_OPENCLIP_G,
    text_encoder_2=None,
    unet=replace(
        SDXL.unet,
        channels=(384, 768, 1536, 1536),
        depth=(0, 4, 4, 0),
        mid_depth=4,
        heads=(6, 12, 24, 24),
        context_dim=1280,
        extra_dim=1280 + 5 * 256,
    ),
    zero_negative=False,
)
SDXL_TURBO = replace(
    SDXL,
    name="sdxl-turbo",
    schedule=replace(SDXL.schedule, spacing="trailing"),
    preset=Preset(num_inference_steps=1, guidance_scale=1.0, sampler="euler_ancestral"),
)

# SDXL without some transformer layers, and with one residual block for a middle (Gupta et al. 2024).
SSD_1B = replace(
    SDXL,
    name="ssd-1b",
    unet=replace(SDXL.unet, depth=(0, 2, 4), up_depth=((4, 4, 10), (2, 1, 1), 0), mid_resnets=1, mid_depth=0),
)
VEGA = replace(SDXL, name="segmind-vega", unet=replace(SDXL.unet, depth=(0, 1, 2), mid_resnets=1, mid_depth=0))

FAMILIES: dict[str, ModelConfig] = {
    model.name: model
    for model in (
        SD15,
        SD15_INPAINT,
        SD15_EDIT,
        SD15_LCM,
        SD21,
        SD21_V,
        SD21_INPAINT,
        SD_TURBO,
        SDXL,
        SDXL_INPAINT,
        SDXL_REFINER,
        SDXL_TURBO,
        SSD_1B,
        VEGA,
    )
}
"""What a file of released weights may be."""

EMOJI = ModelConfig(
    name="emoji",
    draws="pictures like emoji: one to nine things, with a colour, a background and a style",
    examples=(
        "a purple octopus on a yellow background",
        "a dog face, noto style",
        "a sun above a mountain",
        "five red apples",
        "a castle, fluent 3d style",
    ),
    text_encoder=TextEncoderConfig(width=320, layers=5, heads=5, hidden=1280, projection=320),
    unet=UNetConfig(channels=(192, 256, 256), depth=(1, 1, 0), heads=(3, 4, 4), context_dim=320),
    # Eight norm groups: with one channel a group the norm erases each channel's mean, and the decoder buys the
    # colours back with one huge value per picture (a bright droplet).
    vae=VAEConfig(channels=(32, 64, 128, 192), norm_groups=8, scale=1.0),
    schedule=ScheduleConfig(prediction="v", spacing="trailing", zero_snr=True),
    preset=Preset(num_inference_steps=12, guidance_scale=2.5, sampler="dpmpp_2m", height=128, width=128, upscale=4),
)

TINY = ModelConfig(
    name="tiny",
    text_encoder=TextEncoderConfig(width=32, layers=2, heads=2, hidden=64),
    unet=UNetConfig(channels=(32, 64), blocks=1, depth=(1, 0), heads=(2, 2), context_dim=32, norm_groups=8),
    vae=VAEConfig(channels=(16, 32), blocks=1, norm_groups=8),
    preset=Preset(num_inference_steps=4, sampler="ddim", height=32, width=32),
)

PRESETS: dict[str, ModelConfig] = {
    **FAMILIES,
    **{model.name: model for model in (EMOJI, TINY, *map(narrow, FAMILIES.values()))},
}
