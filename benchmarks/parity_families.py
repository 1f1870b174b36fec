"""How far whole calls of full-size models are from diffusers' pipelines, as JSON: ten guided steps, the same noise.

Random weights (a fixed seed) that both sides share, float32, so that SDXL needs 15 GB. A small picture keeps a call
short on a CPU; every weight is used all the same:

    python benchmarks/parity_families.py sd15 sd21-v --size 128 > parity.json
"""

import argparse
import gc
import inspect
import json
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from torch import Tensor

from diffuscope.config import FAMILIES, ModelConfig
from diffuscope.loading import Components
from diffuscope.models.text_encoder import TextEncoder
from diffuscope.models.tokenizer import Tokenizer
from diffuscope.models.unet import UNet
from diffuscope.models.vae import VAE
from diffuscope.pipeline import Pipeline
from diffuscope.saving import write_tokenizer
from diffuscope.weights.layout import diffusers_folder, network_config
from diffuscope.weights.layout.diffusers import to_diffusers

PROMPT, NEGATIVE = "a red fox, sitting on a hill", "blue"


def ours_of(config: ModelConfig, device: str) -> Pipeline:
    """The family's model with random weights."""
    torch.manual_seed(0)
    parts: dict[str, Any] = {"tokenizer": Tokenizer(pad=config.text_encoder.pad)}
    with torch.device(device):
        parts |= {"text_encoder": TextEncoder(config.text_encoder), "unet": UNet(config.unet), "vae": VAE(config.vae)}
        if config.text_encoder_2 is not None:
            parts["text_encoder_2"] = TextEncoder(config.text_encoder_2, component="text_encoder_2")
            parts["tokenizer_2"] = Tokenizer(pad=config.text_encoder_2.pad)
    components = Components(config=config, **parts)
    for network in components.networks.values():
        network.eval().requires_grad_(False)
    return Pipeline(components)


def theirs_of(ours: Pipeline, device: str) -> Any:
    """The pipeline of diffusers around the very same tensors."""
    config, parts = ours.config, ours.components
    unet, vae = network_config.unet_to_json(config.unet), network_config.vae_to_json(config.vae)
    side = {"sample_size": config.preset.height // config.vae.factor}
    with torch.device("meta"):
        found: dict[str, Any] = {
            "unet": diffusers.UNet2DConditionModel.from_config(unet | side),
            "vae": diffusers.AutoencoderKL.from_config(vae),
        }
        for name, encoder in zip(("text_encoder", "text_encoder_2"), config.text_encoders, strict=False):
            kind = "CLIPTextModel" if encoder.projection is None else "CLIPTextModelWithProjection"
            document = transformers.CLIPTextConfig(**network_config.text_encoder_to_json(encoder))
            found[diffusers_folder.subfolder(config, name)] = getattr(transformers, kind)(document)
    with tempfile.TemporaryDirectory() as folder:
        for name, (tokenizer, _) in zip(("text_encoder", "text_encoder_2"), parts.towers, strict=False):
            place = diffusers_folder.subfolder(config, name).replace("text_encoder", "tokenizer")
            write_tokenizer(tokenizer, Path(folder) / place)
            found[place] = transformers.CLIPTokenizer.from_pretrained(Path(folder) / place)
    for name, network in parts.networks.items():
        theirs = found[diffusers_folder.subfolder(config, name)]
        tensors = to_diffusers(network.state_dict(), network.config)
        if type(theirs) is transformers.CLIPTextModel:
            tensors = {key.removeprefix("text_model."): tensor for key, tensor in tensors.items()}
        theirs.load_state_dict(tensors, assign=True)
        for module in theirs.eval().modules():
            if hasattr(module, "position_ids"):  # made on the meta device, and in no file
                module.position_ids = torch.arange(module.position_ids.shape[-1], device=device)[None]
    found["scheduler"] = scheduler_of(config)
    pipeline = getattr(diffusers, diffusers_folder.pipeline_class(config))
    options = {"requires_safety_checker": False, "force_zeros_for_empty_prompt": config.zero_negative}
    known = inspect.signature(pipeline.__init__).parameters
    absent = {name: None for name, parameter in known.items() if parameter.default is inspect.Parameter.empty}
    del absent["self"]
    return pipeline(**absent | found | {name: value for name, value in options.items() if name in known})


def scheduler_of(config: ModelConfig) -> Any:
    """DDIM on the model's schedule."""
    return diffusers.DDIMScheduler(
        beta_start=config.schedule.beta_start,
        beta_end=config.schedule.beta_end,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction" if config.schedule.prediction == "v" else "epsilon",
        timestep_spacing=config.schedule.spacing,
        steps_offset=config.schedule.steps_offset,
        set_alpha_to_one=config.schedule.ddim_ends_at_zero,
        clip_sample=False,
    )


def compared(family: str, size: int, device: str) -> dict[str, float]:
    """Largest absolute difference of the latents after ten guided steps, and the largest latent."""
    ours = ours_of(FAMILIES[family], device)
    theirs = theirs_of(ours, device)
    theirs.set_progress_bar_config(disable=True)
    side = size // ours.config.vae.factor
    noise = torch.randn(1, 4, side, side, generator=torch.Generator().manual_seed(0))
    call: dict[str, Any] = {"negative_prompt": NEGATIVE, "num_inference_steps": 10, "guidance_scale": 7.5}
    expected: Tensor = theirs(
        PROMPT, **call, latents=noise.to(device), height=size, width=size, output_type="latent"
    ).images.cpu()
    found = ours(PROMPT, **call, latents=noise, sampler="ddim").latents
    return {"max_abs": (found - expected).abs().max().item(), "largest_latent": expected.abs().max().item()}


def main() -> None:
    parser = argparse.ArgumentParser(description="Parity of whole calls at full size, as JSON.")
    parser.add_argument("families", nargs="+", choices=[name for name, model in FAMILIES.items() if is_plain(model)])
    parser.add_argument("--size", type=int, default=512, help="height and width of the picture")
    parser.add_argument("--device", default="cpu")
    wanted = parser.parse_args()
    errors = {}
    for family in wanted.families:
        errors[family] = compared(family, wanted.size, wanted.device)
        gc.collect()
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    versions = {module.__name__: module.__version__ for module in (torch, diffusers, transformers)}
    machine = {"machine": platform.processor() or platform.machine(), "threads": torch.get_num_threads()}
    report = {"command": " ".join(sys.argv), "commit": commit, **machine, "versions": versions, "errors": errors}
    print(json.dumps(report, indent=2))


def is_plain(model: ModelConfig) -> bool:
    """Whether diffusers' own class makes pictures of it from text alone."""
    return diffusers_folder.pipeline_class(model) in ("StableDiffusionPipeline", "StableDiffusionXLPipeline")


if __name__ == "__main__":
    main()
