"""What PEFT saves beside the factors, and how it reads its settings: biases, whole layers, patterns, ranks, starts."""

import copy
import dataclasses
import warnings
from pathlib import Path
from typing import Any

import diffusers
import peft
import pytest
import torch

from diffuscope.errors import WeightsError
from diffuscope.pipeline import Pipeline
from diffuscope.weights.adapter import lora_scale

TOLERANCE = 2e-5
"""Largest absolute difference over the largest absolute value, float32."""

TARGET: dict[str, Any] = {"target_modules": ["to_q", "to_out.0", "conv1"], "init_lora_weights": False, "r": 4}
BIASED = TARGET | {"target_modules": ["to_out.0", "conv1"]}
LINEAR = TARGET | {"target_modules": ["to_q", "to_out.0"]}
PATTERNS = {r"attentions\.0\..*to_q": 7, "up_blocks.*": 2, "conv1": 9, "^down_blocks.0.resnets.0.conv1": 99}
CASES = {
    "biases of the LoRA": lambda: peft.LoraConfig(**BIASED, lora_alpha=3, lora_bias=True),
    "biases of its layers": lambda: peft.LoraConfig(**TARGET, bias="lora_only"),
    "all biases": lambda: peft.LoraConfig(**TARGET, bias="all"),
    "whole layers": lambda: peft.LoraConfig(**TARGET, modules_to_save=["conv_in", "time_embedding", "conv_norm_out"]),
    "biases of OFT": lambda: peft.OFTConfig(
        oft_block_size=16, target_modules=TARGET["target_modules"], bias="oft_only"
    ),
    "AdaLoRA": lambda: peft.AdaLoraConfig(
        **LINEAR | {"init_lora_weights": True}, init_r=6, target_r=3, lora_alpha=5, total_step=10
    ),
    "patterns": lambda: peft.LoraConfig(**TARGET, lora_alpha=3, alpha_pattern=PATTERNS, rank_pattern={"conv.": 3}),
    "patterns of LoKr": lambda: peft.LoKrConfig(
        r=2, alpha=3, alpha_pattern=PATTERNS, target_modules=TARGET["target_modules"], init_weights=False
    ),
}


MERGED = {"biases of OFT"}
"""Compared after PEFT's own merge, from which its layer of a convolution differs."""


@pytest.fixture(scope="module")
def unet(tiny: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> diffusers.UNet2DConditionModel:
    saved = tiny.save(tmp_path_factory.mktemp("ours") / "tiny")
    return diffusers.UNet2DConditionModel.from_pretrained(saved / "unet")


def trained(unet: diffusers.UNet2DConditionModel, config: peft.PeftConfig) -> peft.PeftModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = peft.get_peft_model(copy.deepcopy(unet), config).eval()
        for _, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data + 0.1 * torch.randn(parameter.shape)
    return model


@pytest.mark.filterwarnings("ignore::UserWarning:peft")  # of a bias with fewer dimensions than it expects, and the like
@pytest.mark.parametrize("case", CASES)
def test_peft_computes_the_same(
    tiny: Pipeline, unet: diffusers.UNet2DConditionModel, tmp_path: Path, case: str
) -> None:
    trained(unet, CASES[case]()).save_pretrained(tmp_path)
    model = peft.PeftModel.from_pretrained(copy.deepcopy(unet), tmp_path).eval()  # which has the settings in file order
    pipe = Pipeline(copy.deepcopy(tiny.components))
    report = pipe.load_lora(tmp_path)
    assert (report.unmatched, report.unused) == ((), ())
    generator = torch.Generator().manual_seed(1)
    x, context = torch.randn(2, 4, 8, 8, generator=generator), torch.randn(2, 7, 32, generator=generator)
    if case in MERGED:
        model.merge_adapter()
    with torch.no_grad():
        wanted, ours, plain = model(x, 3.0, context).sample, pipe.unet(x, 3.0, context), tiny.unet(x, 3.0, context)
    scale = wanted.abs().max()
    assert ((ours - wanted).abs().max() / scale).item() <= TOLERANCE
    assert ((ours - plain).abs().max() / scale).item() > 100 * TOLERANCE


@pytest.mark.parametrize("start", ["pissa", "pissa_niter_4", "olora"])
def test_a_start_that_changes_the_base_model_is_refused(
    tiny: Pipeline, unet: diffusers.UNet2DConditionModel, tmp_path: Path, start: str
) -> None:
    """PEFT itself turns such a LoRA into a plain one, which is read."""
    model = peft.get_peft_model(copy.deepcopy(unet), peft.LoraConfig(**LINEAR | {"init_lora_weights": start})).eval()
    model.peft_config["default"].init_lora_weights = True
    model.save_pretrained(tmp_path / "start")
    model.peft_config["default"].init_lora_weights = start
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data = parameter.data * 1.3
    model.save_pretrained(tmp_path / "raw")
    pipe = Pipeline(copy.deepcopy(tiny.components))
    with pytest.raises(WeightsError, match=f"'{start}'.*path_initial_model_for_weight_conversion"):
        pipe.load_lora(tmp_path / "raw")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of two adapters at once
        model.save_pretrained(tmp_path / "plain", path_initial_model_for_weight_conversion=str(tmp_path / "start"))
    report = pipe.load_lora(tmp_path / "plain")
    assert report.unused == ()
    generator = torch.Generator().manual_seed(1)
    x, context = torch.randn(2, 4, 8, 8, generator=generator), torch.randn(2, 7, 32, generator=generator)
    with torch.no_grad():
        wanted, ours = model(x, 3.0, context).sample, pipe.unet(x, 3.0, context)
    assert ((ours - wanted).abs().max() / wanted.abs().max()).item() <= 10 * TOLERANCE


def test_every_field_of_its_configurations_is_known() -> None:
    kinds = (peft.LoraConfig, peft.LoHaConfig, peft.LoKrConfig, peft.OFTConfig, peft.AdaLoraConfig)
    names = {field.name for kind in kinds for field in dataclasses.fields(kind)}
    assert names == lora_scale.USED | lora_scale.IN_TENSORS | lora_scale.TRAINING | lora_scale.REFUSED
