"""diffusers with the same LoRA file gives the same values, for each dialect that it reads.

Where it does not: it drops kohya's ``dora_scale`` with a warning and, in text encoders, PEFT's magnitudes, so that
these DoRAs run as plain LoRAs there; it refuses ``.lora.down`` beside a text encoder and ComfyUI's names; and it reads
the original names for SDXL alone. That all dialects mean the same here is tested in
``tests/unit/weights/adapter/test_lora.py``.
"""

import copy
from pathlib import Path

import diffusers
import peft as peft_library
import pytest
import torch

from diffuscope.config import PRESETS
from diffuscope.loading import Components
from diffuscope.models.text_encoder import TextEncoder
from diffuscope.models.tokenizer import Tokenizer
from diffuscope.models.unet import UNet
from diffuscope.models.vae import VAE
from diffuscope.pipeline import Pipeline
from lora_files import attention_only, kohya, kohya_original, layers, peft, processors, trained, write

TOLERANCE = 1e-5
"""Largest absolute difference over the largest absolute value, float32."""

CASES = {
    "kohya": (kohya, bool, False),
    "PEFT": (peft, bool, False),
    "attention processors": (processors, attention_only, False),
    "DoRA": (peft, lambda name: name.startswith("unet"), True),
}


def assert_near(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    assert ((ours - theirs).abs().max() / theirs.abs().max()).item() <= TOLERANCE


@pytest.fixture(scope="module")
def saved(tiny: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save(tmp_path_factory.mktemp("ours") / "tiny", layout="diffusers")


@pytest.mark.parametrize("case", CASES)
def test_diffusers_computes_the_same(tiny: Pipeline, saved: Path, tmp_path: Path, case: str) -> None:
    dialect, wanted, dora = CASES[case]
    weight = 1.0 if dora else 0.7  # PEFT puts the weight inside of DoRA's norm, ComfyUI and we outside of it
    path = write(tmp_path / "a.safetensors", dialect(layers(tiny, wanted=wanted, dora=dora)))
    pipe = Pipeline(copy.deepcopy(tiny.components))
    assert not pipe.load_lora(path, weight).unmatched
    theirs = diffusers.StableDiffusionPipeline.from_pretrained(saved, local_files_only=True, safety_checker=None)
    theirs.load_lora_weights(tmp_path, weight_name=path.name, adapter_name="a")
    theirs.set_adapters("a", weight)
    generator = torch.Generator().manual_seed(1)
    x, context = torch.randn(2, 4, 8, 8, generator=generator), torch.randn(2, 7, 32, generator=generator)
    ids = pipe.tokenizer.encode(["a red fox", "two cats"])
    with torch.no_grad():
        assert_near(pipe.unet(x, 3.0, context), theirs.unet(x, 3.0, context).sample)
        assert_near(pipe.text_encoder(ids).last_hidden_state, theirs.text_encoder(ids).last_hidden_state)


@pytest.mark.parametrize("rank_stabilised", [False, True])
def test_what_peft_trains_and_diffusers_saves_opens_here(
    tiny: Pipeline, saved: Path, tmp_path: Path, rank_stabilised: bool
) -> None:
    """An alpha that is not the rank stands in the file's metadata, and nowhere else."""
    theirs = diffusers.StableDiffusionPipeline.from_pretrained(saved, local_files_only=True, safety_checker=None)
    target = ["to_q", "to_out.0", "conv1"]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs.unet.add_adapter(
            peft_library.LoraConfig(
                r=4,
                lora_alpha=3,
                alpha_pattern={"conv1": 10},
                use_rslora=rank_stabilised,
                init_lora_weights=False,
                target_modules=target,
            )
        )
    theirs.save_lora_weights(
        tmp_path,
        unet_lora_layers=peft_library.get_peft_model_state_dict(theirs.unet),
        unet_lora_adapter_metadata=theirs.unet.peft_config["default"].to_dict(),
    )
    pipe = Pipeline(copy.deepcopy(tiny.components))
    report = pipe.load_lora(tmp_path)
    assert (report.layout, report.unmatched) == ("PEFT", ())
    generator = torch.Generator().manual_seed(1)
    x, context = torch.randn(2, 4, 8, 8, generator=generator), torch.randn(2, 7, 32, generator=generator)
    with torch.no_grad():
        assert_near(pipe.unet(x, 3.0, context), theirs.unet(x, 3.0, context).sample)


def test_sdxl_with_both_text_encoders(tmp_path: Path) -> None:
    config = PRESETS["tiny-sdxl"]
    assert config.text_encoder_2 is not None
    with torch.random.fork_rng():
        torch.manual_seed(0)
        networks = {
            "text_encoder": TextEncoder(config.text_encoder),
            "text_encoder_2": TextEncoder(config.text_encoder_2, component="text_encoder_2"),
            "unet": UNet(config.unet),
            "vae": VAE(config.vae),
        }
    for network in networks.values():
        network.eval().requires_grad_(False)
    pipe = Pipeline(Components(config=config, tokenizer=Tokenizer(), tokenizer_2=Tokenizer(pad=0), **networks))
    theirs_of = diffusers.StableDiffusionXLPipeline.from_pretrained
    theirs = theirs_of(pipe.save(tmp_path / "model", layout="diffusers"), local_files_only=True)
    path = write(tmp_path / "a.safetensors", kohya_original(layers(pipe, wanted=trained)))
    assert not pipe.load_lora(path).unmatched
    theirs.load_lora_weights(tmp_path, weight_name=path.name, adapter_name="a")
    generator = torch.Generator().manual_seed(1)
    x, context = torch.randn(2, 4, 8, 8, generator=generator), torch.randn(2, 7, 64, generator=generator)
    pooled, sizes = torch.randn(2, 32, generator=generator), torch.tensor([[64.0, 64, 0, 0, 64, 64]] * 2)
    ids = pipe.tokenizer.encode(["a red fox", "two cats"])
    with torch.no_grad():
        added = {"text_embeds": pooled, "time_ids": sizes}
        wanted = theirs.unet(x, 3.0, context, added_cond_kwargs=added).sample
        assert_near(pipe.unet(x, 3.0, context, extra={"pooled": pooled, "sizes": sizes}), wanted)
        for part in ("text_encoder", "text_encoder_2"):
            states = getattr(theirs, part)(ids, output_hidden_states=True).hidden_states
            for ours, other in zip(getattr(pipe, part)(ids).hidden_states, states, strict=True):
                assert_near(ours, other)
