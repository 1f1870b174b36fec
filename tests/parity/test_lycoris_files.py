"""What LyCORIS writes, with random numbers, gives its own values here; what is not supported is refused by name."""

import copy
import logging
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import diffusers
import pytest
import torch
from lycoris import kohya

from diffuscope.errors import WeightsError
from diffuscope.pipeline import Pipeline

TOLERANCE = 1e-5
"""Largest absolute difference over the largest absolute value, float32."""

PRESET = """
enable_conv = true
unet_target_module = ["Transformer2DModel", "ResnetBlock2D", "Downsample2D", "Upsample2D"]
unet_target_name = ["conv_in", "conv_norm_out"]
text_encoder_target_module = ["CLIPEncoderLayer"]
text_encoder_target_name = []
"""
CASES: dict[str, tuple[str, dict[str, object]]] = {
    "LoCon, a scalar, norms": ("kohya", {"algo": "lora", "use_scalar": True, "train_norm": True}),
    "LoCon, cores, DoRA": ("kohya", {"algo": "lora", "use_tucker": True, "dora_wd": True}),
    "LoCon, DoRA by input": ("kohya", {"algo": "lora", "dora_wd": True, "wd_on_output": False}),
    "rank-stabilised": ("kohya", {"algo": "lora", "rs_lora": True}),
    "LoHa, cores, DoRA": ("LoHa", {"algo": "loha", "use_tucker": True, "dora_wd": True}),
    "LoKr, cores": ("LoKr", {"algo": "lokr", "use_tucker": True, "factor": 4}),
    "LoKr, whole, DoRA": ("LoKr", {"algo": "lokr", "full_matrix": True, "factor": 4, "dora_wd": True}),
    "full": ("full", {"algo": "full"}),
    "GLoRA": ("GLoRA", {"algo": "glora", "use_scalar": True}),
    "OFT, rescaled, constrained": ("OFT", {"algo": "diag-oft", "rescaled": True, "constraint": 1e-2}),
}
OTHERS = {"BOFT": "boft", "IA3": "ia3"}


@pytest.fixture(scope="module")
def place(tiny: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("lycoris")
    tiny.save(place / "tiny")
    (place / "preset.toml").write_text(PRESET)
    return place


@pytest.fixture(scope="module")
def theirs(place: Path) -> Iterator[SimpleNamespace]:
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    whole = diffusers.StableDiffusionPipeline.from_pretrained(
        place / "tiny", local_files_only=True, safety_checker=None
    )
    yield SimpleNamespace(unet=whole.unet, text_encoder=whole.text_encoder)
    logging.disable(level)


def trained(theirs: SimpleNamespace, place: Path, path: Path, options: dict[str, object]) -> SimpleNamespace:
    """Their networks with an adapter of random numbers, which is written to ``path``."""
    theirs = copy.deepcopy(theirs)
    args = {"preset": str(place / "preset.toml"), "conv_dim": 4, "conv_alpha": 2.0}
    network = kohya.create_network(1.0, 4, 3.0, None, theirs.text_encoder, theirs.unet, **args, **options)
    network.apply_to(theirs.text_encoder, theirs.unet, True, True)
    generator = torch.Generator().manual_seed(1)
    for name, parameter in network.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if "scale" in name or options["algo"] == "full":  # DoRA's magnitudes, OFT's rescaling, and whole weights
            parameter.data = parameter.data * (1 + 0.3 * noise)
        else:
            parameter.data = noise * (0.1 if "oft_blocks" in name else 0.25)
    network.save_weights(str(path), torch.float32, {})
    network.eval()
    theirs.network = network  # its modules are called by theirs
    return theirs


@pytest.mark.parametrize("case", CASES)
def test_lycoris_computes_the_same(
    tiny: Pipeline, theirs: SimpleNamespace, place: Path, tmp_path: Path, case: str
) -> None:
    layout, options = CASES[case]
    other = trained(theirs, place, tmp_path / "a.safetensors", options)
    pipe = Pipeline(copy.deepcopy(tiny.components))
    report = pipe.load_lora(tmp_path / "a.safetensors")
    assert (report.layout, report.unmatched, report.unused) == (layout, (), ())
    generator = torch.Generator().manual_seed(1)
    x, context = torch.randn(2, 4, 8, 8, generator=generator), torch.randn(2, 7, 32, generator=generator)
    ids = pipe.tokenizer.encode("a red fox")
    with torch.no_grad():
        states = (each.text_encoder(ids).last_hidden_state for each in (pipe, other, tiny))
        pairs = [
            (pipe.unet(x, 3.0, context), other.unet(x, 3.0, context).sample, tiny.unet(x, 3.0, context)),
            (*states,),
        ]
    for ours, wanted, plain in pairs:
        scale = wanted.abs().max()
        assert ((ours - wanted).abs().max() / scale).item() <= TOLERANCE
        assert ((ours - plain).abs().max() / scale).item() > 1000 * TOLERANCE


@pytest.mark.parametrize("kind", OTHERS)
def test_what_is_not_supported_is_refused_by_its_name(
    tiny: Pipeline, theirs: SimpleNamespace, place: Path, tmp_path: Path, kind: str
) -> None:
    trained(theirs, place, tmp_path / "a.safetensors", {"algo": OTHERS[kind]})
    pipe = Pipeline(tiny.components)
    with pytest.raises(WeightsError, match=kind):
        pipe.load_lora(tmp_path / "a.safetensors")
