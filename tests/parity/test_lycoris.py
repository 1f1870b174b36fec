"""What PEFT trains as LoHa, LoKr and OFT, with random numbers, gives the same values here."""

import copy
from pathlib import Path
from typing import Any

import diffusers
import peft
import pytest
import torch

from diffuscope.pipeline import Pipeline

TOLERANCE = 2e-5
"""Largest absolute difference over the largest absolute value, float32."""

TARGETS: dict[str, Any] = {"target_modules": ["to_q", "to_out.0", "conv1"], "init_weights": False}
PATTERNS: dict[str, Any] = {"r": 4, "alpha": 3, "alpha_pattern": {"conv1": 6}}
CONFIGS = {
    "LoHa": lambda: peft.LoHaConfig(**PATTERNS, **TARGETS),
    "LoHa with cores": lambda: peft.LoHaConfig(**PATTERNS, **TARGETS, use_effective_conv2d=True),
    "LoKr": lambda: peft.LoKrConfig(**PATTERNS, **TARGETS),
    "LoKr of two products": lambda: peft.LoKrConfig(**PATTERNS, **TARGETS, decompose_both=True, decompose_factor=4),
    "LoKr with cores": lambda: peft.LoKrConfig(**PATTERNS, **TARGETS, use_effective_conv2d=True, decompose_factor=4),
    "LoKr of whole matrices": lambda: peft.LoKrConfig(**PATTERNS | {"r": 64}, **TARGETS),
    "OFT": lambda: peft.OFTConfig(oft_block_size=16, **TARGETS, use_cayley_neumann=False),
    "OFT by a series": lambda: peft.OFTConfig(oft_block_size=16, **TARGETS, num_cayley_neumann_terms=6),
    "OFT of one turn": lambda: peft.OFTConfig(oft_block_size=16, **TARGETS, block_share=True),
}


@pytest.fixture(scope="module")
def saved(tiny: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save(tmp_path_factory.mktemp("ours") / "tiny", layout="diffusers")


@pytest.mark.parametrize("case", CONFIGS)
def test_peft_computes_the_same(tiny: Pipeline, saved: Path, tmp_path: Path, case: str) -> None:
    unet = diffusers.UNet2DConditionModel.from_pretrained(saved / "unet")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = peft.get_peft_model(unet, CONFIGS[case]()).eval()
        for name, parameter in theirs.named_parameters():
            if "oft_R" in name:
                parameter.data = 0.05 * torch.randn(parameter.shape)
    theirs.save_pretrained(tmp_path)
    pipe = Pipeline(copy.deepcopy(tiny.components))
    report = pipe.load_lora(tmp_path)
    assert (report.layout, report.unmatched) == (case.split()[0], ())
    generator = torch.Generator().manual_seed(1)
    x, context = torch.randn(2, 4, 8, 8, generator=generator), torch.randn(2, 7, 32, generator=generator)
    with torch.no_grad():
        theirs.merge_adapter()
        wanted = theirs(x, 3.0, context).sample
        ours, plain = pipe.unet(x, 3.0, context), tiny.unet(x, 3.0, context)
    scale = wanted.abs().max()
    assert ((ours - wanted).abs().max() / scale).item() <= TOLERANCE
    assert ((ours - plain).abs().max() / scale).item() > 100 * TOLERANCE
