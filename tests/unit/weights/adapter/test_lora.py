"""LoRA files: each dialect means the same, the change is the paper's, and what does not fit is said from the header."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from diffuscope.config import TINY
from diffuscope.errors import ModelNotFoundError, WeightMismatchError, WeightsError
from diffuscope.pipeline import Pipeline
from diffuscope.weights.adapter import lora, lora_scale
from diffuscope.weights.adapter.deltas import Adapter
from diffuscope.weights.adapter.lora import Lora, Network
from diffuscope.weights.store import files
from lora_files import ALPHA, DIALECTS, RANK, Tensors, attention_only, kohya, layers, peft, trained, wrapped, write

MODEL = ("unet", "text_encoder")


@pytest.fixture(scope="module")
def networks(tiny: Pipeline) -> dict[str, Network]:
    return {part: Network.of(getattr(tiny, part).state_dict(), getattr(tiny.config, part)) for part in MODEL}


def random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def deltas(found: Lora, tiny: Pipeline) -> Iterator[tuple[lora.Layer, Tensor]]:
    for layer, adapter in found.adapters.items():
        part, name = layer
        yield layer, adapter.delta(getattr(tiny, part).get_parameter(name))


@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_dialect_means_the_same(
    tiny: Pipeline, networks: dict[str, Network], tmp_path: Path, dialect: str
) -> None:
    wanted = attention_only if dialect == "processors" else bool
    made = layers(tiny, wanted=wanted)
    found = lora.read(write(tmp_path / "a.safetensors", DIALECTS[dialect](made)), networks)
    assert found.unmatched == ()
    assert found.parts == {part: sum(layer.part == part for layer in made) for part in MODEL}
    expected = {(layer.part, layer.ours): layer for layer in made}
    for layer, delta in deltas(found, tiny):
        up, down = expected[layer].up.flatten(1), expected[layer].down.flatten(1)
        torch.testing.assert_close(delta, (ALPHA / RANK * up @ down).reshape(delta.shape), rtol=1e-5, atol=1e-6)


def test_peft_alone_names_no_network(tiny: Pipeline, networks: dict[str, Network], tmp_path: Path) -> None:
    """A folder of PEFT's: its file has no prefix for the network, its alpha stands in a JSON file."""
    made = layers(tiny, wanted=lambda name: name.startswith("unet.down"))
    write(tmp_path / "adapter_model.safetensors", wrapped(made))
    settings = {"lora_alpha": 6, "r": RANK, "alpha_pattern": {"conv1": 3}, "use_rslora": False}
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    found = lora.read(tmp_path, networks)
    assert found.parts == {"unet": len(made)}
    assert found.layout == "PEFT"
    scales = {name: adapter.scale for (_, name), adapter in found.adapters.items()}
    assert scales["down.0.resnet.0.conv1.weight"] == 1.0
    assert scales["down.0.attn.0.block.0.self_attn.query.weight"] == 2.0


def test_settings_in_the_metadata_of_diffusers_are_heeded(
    tiny: Pipeline, networks: dict[str, Network], tmp_path: Path
) -> None:
    made = layers(tiny, wanted=attention_only)
    settings = {"unet.lora_alpha": 12, "unet.use_rslora": True, "text_encoder.lora_alpha": 3, "unet.r": RANK}
    path = write(tmp_path / "a.safetensors", peft(made), {lora_scale.METADATA: json.dumps(settings)})
    scales = {layer[0]: adapter.scale for layer, adapter in lora.read(path, networks).adapters.items()}
    assert scales == {"unet": 12 / RANK**0.5, "text_encoder": 1.0}


def test_without_alpha_the_scale_is_one(tiny: Pipeline, networks: dict[str, Network], tmp_path: Path) -> None:
    path = write(tmp_path / "a.safetensors", peft(layers(tiny, wanted=attention_only)))
    assert {adapter.scale for adapter in lora.read(path, networks).adapters.values()} == {1.0}


def test_a_convolution_is_a_convolution_of_a_convolution() -> None:
    """LoCon, with and without its middle: the change acts as its factors do in turn."""
    x = random(1, 5, 8, 8)
    weight = torch.zeros(6, 5, 3, 3)
    up, down, mid = random(6, 2, 1, 1), random(2, 5, 3, 3), random(2, 2, 3, 3)
    conv = torch.nn.functional.conv2d
    plain = Adapter(kind="LoRA", tensors={"up": up, "down": down}, scale=0.5).delta(weight)
    torch.testing.assert_close(conv(x, plain), 0.5 * conv(conv(x, down), up), rtol=1e-4, atol=1e-5)
    thin = random(2, 5, 1, 1)
    middle = Adapter(kind="LoRA", tensors={"up": up, "down": thin, "mid": mid}, scale=0.5).delta(weight)
    torch.testing.assert_close(conv(x, middle), 0.5 * conv(conv(conv(x, thin), mid), up), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 3, 3)])
@pytest.mark.parametrize("per_input", [False, True])
def test_dora_has_the_magnitude_it_says(shape: tuple[int, ...], per_input: bool) -> None:
    weight, axis = random(*shape), 1 if per_input else 0
    magnitude = random(shape[axis]).abs()
    kernel = shape[2:]
    lora = Adapter(
        kind="LoRA", tensors={"up": random(6, 2, *[1] * len(kernel)), "down": random(2, 5, *kernel)}, scale=0.5
    )
    changed = weight + replace(lora, magnitude=magnitude, per_input=per_input).delta(weight)
    torch.testing.assert_close(changed.transpose(0, axis).flatten(1).norm(dim=1), magnitude)
    plain = weight + lora.delta(weight)
    both = [matrix.transpose(0, axis).flatten(1) for matrix in (changed, plain)]
    torch.testing.assert_close(torch.cosine_similarity(*both), torch.ones(shape[axis]))


@pytest.mark.parametrize("middle", [False, True])
def test_a_locon_with_its_middle_is_read(
    tiny: Pipeline, networks: dict[str, Network], tmp_path: Path, middle: bool
) -> None:
    stem = "lora_unet_down_blocks_0_resnets_0_conv1"
    tensors = {f"{stem}.lora_up.weight": random(32, 2, 1, 1), f"{stem}.lora_down.weight": random(2, 32, 3, 3)}
    if middle:
        tensors |= {f"{stem}.lora_down.weight": random(2, 32, 1, 1), f"{stem}.lora_mid.weight": random(2, 2, 3, 3)}
    found = lora.read(write(tmp_path / "a.safetensors", tensors), networks)
    ((layer, delta),) = deltas(found, tiny)
    assert layer == ("unet", "down.0.resnet.0.conv1.weight")
    assert ("mid" in found.adapters[layer].tensors) == middle
    assert delta.abs().max() > 0


def test_the_first_doras_of_kohya_are_per_input(tiny: Pipeline, networks: dict[str, Network], tmp_path: Path) -> None:
    made = kohya(layers(tiny, wanted=lambda name: name.endswith("ff.net.2")))
    stems = [key.removesuffix(".alpha") for key in made if key.endswith(".alpha")]
    inputs = {stem: made[f"{stem}.lora_down.weight"].shape[1] for stem in stems}
    tensors = made | {f"{stem}.dora_scale": random(1, count).abs() for stem, count in inputs.items()}
    found = lora.read(write(tmp_path / "a.safetensors", tensors), networks)
    assert found.adapters
    assert all(adapter.per_input for adapter in found.adapters.values())


def test_the_hash_is_of_the_tensors_alone(tiny: Pipeline, networks: dict[str, Network], tmp_path: Path) -> None:
    tensors = kohya(layers(tiny, wanted=attention_only))
    paths = [write(tmp_path / f"{i}.safetensors", tensors, {"title": "x" * 100 * i}) for i in range(2)]
    assert len({lora.read(path, networks).sha256 for path in paths}) == 1
    assert len({path.stat().st_size for path in paths}) == 2


def foreign(context: int) -> Tensors:
    """An SDXL-like LoRA whose every layer name is in our model too."""
    stem = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
    return {f"{stem}.lora_down.weight": random(2, context), f"{stem}.lora_up.weight": random(32, 2)}


STEM = "lora_unet_down_blocks_0_resnets_0_conv1"
QUERY = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
GOOD = {f"{QUERY}.lora_down.weight": random(2, 32), f"{QUERY}.lora_up.weight": random(32, 2)}
BAD: dict[str, tuple[Tensors, type[WeightsError], str]] = {
    "another family's text": (foreign(2048), WeightMismatchError, r"SDXL \(2048-dim.*32-dim"),
    "no layer of ours": (
        {
            "lora_unet_joint_blocks_0_x.lora_down.weight": random(2, 3),
            "lora_unet_joint_blocks_0_x.lora_up.weight": random(3, 2),
        },
        WeightMismatchError,
        "none of the 1 layers",
    ),
    "no LoRA": ({"unet.conv_in.weight": random(2, 2)}, WeightsError, "no LoRA.*unet.conv_in.weight"),
    "GLoRA": ({f"{QUERY}.glora_a": random(2, 2)}, WeightsError, "it holds GLoRA adapters, which are not supported"),
    "half a layer": ({f"{QUERY}.lora_down.weight": random(2, 32)}, WeightsError, "no lora_up"),
    "one layer twice": (
        GOOD
        | {
            QUERY.replace("lora_unet_", "unet.") + ".lora_A.weight": random(2, 32),
            QUERY.replace("lora_unet_", "unet.") + ".lora_B.weight": random(32, 2),
        },
        WeightsError,
        "mean the same",
    ),
    "ranks that differ": (GOOD | {f"{QUERY}.lora_up.weight": random(32, 3)}, WeightMismatchError, "does not fit"),
    "a vector": (GOOD | {f"{QUERY}.lora_up.weight": random(32)}, WeightsError, "no matrix"),
    "rank 0": (
        {f"{QUERY}.lora_down.weight": random(0, 32), f"{QUERY}.lora_up.weight": random(32, 0)},
        WeightsError,
        "at least one",
    ),
    "a kernel too large": (
        {f"{STEM}.lora_down.weight": random(2, 32, 5, 5), f"{STEM}.lora_up.weight": random(32, 2, 1, 1)},
        WeightMismatchError,
        r"\[32, 32, 5, 5\]",
    ),
    "two alphas": (GOOD | {f"{QUERY}.alpha": random(2)}, WeightsError, "one number"),
    "a magnitude too long": (GOOD | {f"{QUERY}.dora_scale": random(33)}, WeightMismatchError, "one per output"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_does_not_fit_is_said_before_a_tensor_is_read(
    networks: dict[str, Network], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    tensors, kind, says = BAD[case]
    path = write(tmp_path / "bad.safetensors", tensors)
    monkeypatch.setattr(files, "read", lambda *_, **__: pytest.fail("a tensor was read"))
    with pytest.raises(kind, match=says):
        lora.read(path, networks)


@pytest.mark.parametrize("alpha", [float("nan"), float("inf")])
def test_an_alpha_must_be_finite(networks: dict[str, Network], tmp_path: Path, alpha: float) -> None:
    with pytest.raises(WeightsError, match="not finite"):
        lora.read(write(tmp_path / "a.safetensors", GOOD | {f"{QUERY}.alpha": torch.tensor(alpha)}), networks)


@pytest.mark.parametrize("settings", ["[1]", "{", '{"unet.lora_alpha": "much"}', '{"unet.lora_alpha": 1e999}'])
def test_damaged_settings_are_named(networks: dict[str, Network], tmp_path: Path, settings: str) -> None:
    tensors = {
        key.replace("lora_unet_", "unet.").replace("lora_down", "lora_A").replace("lora_up", "lora_B"): tensor
        for key, tensor in GOOD.items()
    }
    path = write(tmp_path / "a.safetensors", tensors, {lora_scale.METADATA: settings})
    with pytest.raises(WeightsError, match=r"save (the LoRA|it) again"):
        lora.read(path, networks)


def test_a_file_that_is_not_there(networks: dict[str, Network], tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "a.safetensors"):
        with pytest.raises(ModelNotFoundError, match="no LoRA at"):
            lora.read(path, networks)


def test_layers_that_the_model_lacks_are_reported(tiny: Pipeline, networks: dict[str, Network], tmp_path: Path) -> None:
    alien = {"lora_te2_text_model_encoder_layers_0_mlp_fc1": random(2, 2), "lora_unet_blocks_9_to_q": random(2, 2)}
    extra = {f"{stem}.lora_{half}.weight": tensor.clone() for stem, tensor in alien.items() for half in ("up", "down")}
    found = lora.read(write(tmp_path / "a.safetensors", kohya(layers(tiny, wanted=trained)) | extra), networks)
    assert found.unmatched == ("text_encoder_2.encoder_layers_0_mlp_fc1", "unet.blocks_9_to_q")
    assert TINY.text_encoder.layers * 6 == found.parts["text_encoder"]
