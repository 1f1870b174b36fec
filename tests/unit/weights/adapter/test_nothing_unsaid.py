"""Whatever stands in a LoRA's file is used, or named as not used, or refused: each tensor, each setting."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from diffuscope.errors import WeightMismatchError, WeightsError
from diffuscope.pipeline import Pipeline
from diffuscope.weights.adapter import lora, lora_scale
from diffuscope.weights.adapter.lora import Lora, Network
from lora_files import Tensors, write

MODEL = ("unet", "text_encoder")
LINEAR = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
OUT = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_out_0"
CONV = "lora_unet_down_blocks_0_resnets_0_conv1"
NORM = "lora_unet_down_blocks_0_resnets_0_norm1"
COMFY = "diffusion_model.input_blocks.1.0"
PEFT = "base_model.model.down_blocks.0.attentions.0.transformer_blocks.0.attn1"


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape) + seed)) / 4


def pair(stem: str, outputs: int = 32, inputs: int = 32) -> Tensors:
    return {f"{stem}.lora_down.weight": draw(3, inputs), f"{stem}.lora_up.weight": draw(outputs, 3)}


def halves(stem: str) -> Tensors:
    return {f"{stem}.lora_A.weight": draw(3, 32), f"{stem}.lora_B.weight": draw(32, 3)}


ALPHA = torch.tensor(2.0)
FILES: dict[str, Tensors] = {
    "kohya": pair(LINEAR) | {f"{LINEAR}.alpha": ALPHA, f"{LINEAR}.dora_scale": draw(32, 1).abs()},
    "LyCORIS, norms": pair(LINEAR) | {f"{NORM}.w_norm": draw(32), f"{NORM}.b_norm": draw(32)},
    "LyCORIS, full": {f"{CONV}.diff": draw(32, 32, 3, 3), f"{CONV}.diff_b": draw(32)},
    "LyCORIS, full, with an alpha": {f"{OUT}.diff": draw(32, 32), f"{OUT}.alpha": ALPHA},
    "LyCORIS, GLoRA": {
        **{f"{LINEAR}.{name}.weight": draw(32, 3, seed=i) for i, name in enumerate(("a1", "b1"))},
        **{f"{LINEAR}.{name}.weight": draw(3, 32, seed=i) for i, name in enumerate(("a2", "b2"))},
        f"{LINEAR}.alpha": ALPHA,
    },
    "LyCORIS, LoKr with a scalar of two kinds": {f"{LINEAR}.lokr_w1": draw(4, 8), f"{LINEAR}.lokr_w2": draw(8, 4)}
    | {f"{LINEAR}.lokr_t1": draw(2, 2)},
    "sd-scripts, OFT": {
        f"{LINEAR.replace('lora_', 'oft_')}.oft_blocks": draw(4, 8, 8),
        f"{LINEAR.replace('lora_', 'oft_')}.alpha": torch.tensor(1e-3),
    },
    "ComfyUI": {
        **pair(f"{COMFY}.in_layers.2", inputs=32 * 9),
        f"{COMFY}.in_layers.2.lora_down.weight": draw(3, 32, 3, 3),
        f"{COMFY}.in_layers.2.lora_up.weight": draw(32, 3, 1, 1),
        f"{COMFY}.in_layers.2.diff_b": draw(32),
        f"{COMFY}.in_layers.0.diff": draw(32),
        f"{COMFY}.in_layers.0.diff_b": draw(32, seed=1),
        f"{COMFY}.out_layers.0.set_weight": draw(32),
    },
    "OneTrainer": pair(LINEAR)
    | {"bundle_emb.<cat>.clip_l": draw(2, 32), "bundle_emb.<cat>.clip_l_out": draw(2, 32), "ot_unknown": draw(3)},
    "PEFT, biases": halves(f"{PEFT}.to_out.0")
    | {f"{PEFT}.to_out.0.lora_B.bias": draw(32), f"{PEFT}.to_q.lora_A.weight": draw(3, 32)}
    | {f"{PEFT}.to_q.lora_B.weight": draw(32, 3), "base_model.model.conv_in.bias": draw(32)},
    "PEFT, a bias of a layer without": halves(f"{PEFT}.to_q") | {f"{PEFT}.to_q.lora_B.bias": draw(32)},
    "PEFT, whole layers": halves(f"{PEFT}.to_q")
    | {"base_model.model.conv_in.weight": draw(32, 4, 3, 3), "base_model.model.conv_norm_out.bias": draw(32)}
    | {"base_model.model.time_embedding.linear_1.modules_to_save.default.weight": draw(128, 32)},
    "PEFT, new tokens": halves(f"{PEFT}.to_q")
    | {"base_model.model.token_embedding.token_adapter.trainable_tokens_delta": draw(2, 32)},
    "PEFT, AdaLoRA": {f"{PEFT}.to_q.lora_A": draw(3, 32), f"{PEFT}.to_q.lora_B": draw(32, 3)}
    | {f"{PEFT}.to_q.lora_E": draw(3, 1)},
    "layers of others": pair(LINEAR) | pair("lora_unet_blocks_9_to_q") | {f"{CONV}_shortcut.diff_b": draw(3)},
}


@pytest.fixture(scope="module")
def networks(tiny: Pipeline) -> dict[str, Network]:
    return {part: Network.of(getattr(tiny, part).state_dict(), getattr(tiny.config, part)) for part in MODEL}


def changes(found: Lora, tiny: Pipeline) -> dict[lora.Layer, Tensor]:
    return {
        (part, name): adapter.delta(getattr(tiny, part).get_parameter(name))
        for (part, name), adapter in found.adapters.items()
    }


def same(a: dict[lora.Layer, Tensor], b: dict[lora.Layer, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[layer], b[layer]) for layer in a)


@pytest.mark.parametrize("case", FILES)
def test_each_tensor_counts_or_is_named(
    tiny: Pipeline, networks: dict[str, Network], tmp_path: Path, case: str
) -> None:
    tensors = FILES[case]
    found = lora.read(write(tmp_path / "a.safetensors", tensors), networks)
    plain = changes(found, tiny)
    named = {*found.unused, *found.unmatched}
    for name, tensor in tensors.items():
        other = lora.read(write(tmp_path / "b.safetensors", tensors | {name: tensor * 1.25 + 0.01}), networks)
        is_named = any(each in (name, *_layers(name)) for each in named)
        assert is_named is same(changes(other, tiny), plain), name


def _layers(name: str) -> list[str]:
    """What a report may call the layer of a tensor: with the network, underscores for dots; and its bias."""
    path = name.removeprefix("base_model.model.")
    path = path.rsplit(".lora_", 1)[0].rsplit(".diff_b", 1)[0].replace("lora_unet_", "unet.").replace(".", "_")
    path = path.replace("unet_", "unet.", 1) if path.startswith("unet_") else path
    return [path, *([f"{path}.bias"] if name.endswith(("bias", "diff_b")) else [])]


EXPECTED_UNUSED = {
    "LyCORIS, full, with an alpha": {f"{OUT}.alpha"},
    "LyCORIS, LoKr with a scalar of two kinds": {f"{LINEAR}.lokr_t1"},
    "OneTrainer": {"bundle_emb.<cat>.clip_l", "bundle_emb.<cat>.clip_l_out", "ot_unknown"},
    "PEFT, new tokens": {"base_model.model.token_embedding.token_adapter.trainable_tokens_delta"},
}


@pytest.mark.parametrize("case", FILES)
def test_the_names_are_those_of_the_file(networks: dict[str, Network], tmp_path: Path, case: str) -> None:
    found = lora.read(write(tmp_path / "a.safetensors", FILES[case]), networks)
    assert {*found.unused} == EXPECTED_UNUSED.get(case, set())
    assert bool(found.unmatched) is (case in ("layers of others", "PEFT, a bias of a layer without"))


def test_the_report_is_short_and_steers_no_terminal(tiny: Pipeline, tmp_path: Path) -> None:
    lost = pair("lora_unet_" + "x" * 100_000) | {"evil\x1b]0;title\x07\u202e": draw(2)}
    path = write(tmp_path / "a.safetensors", pair(LINEAR) | lost | {f"junk{k}": draw(1) for k in range(99)})
    pipe = Pipeline(tiny.components)
    report = pipe.load_lora(path, 0.0)
    assert len(report.unused) == 100
    text = str(report)
    assert len(text) < 600
    assert "and 98 more" in text
    assert not any(sign in text for sign in "\x1b\x07\u202e")
    (note,) = pipe.adapters.notes((pipe.adapters._loaded["a"],))
    assert note == text


REFUSED: dict[str, tuple[Tensors, str]] = {
    "two kinds for one layer": (
        pair(LINEAR) | {f"{LINEAR}.lokr_w1": draw(4, 8), f"{LINEAR}.lokr_w2": draw(8, 4)},
        "for one layer; keep one",
    ),
    "a LoRA and a whole tensor": (pair(LINEAR) | {f"{LINEAR}.diff": draw(32, 32)}, "for one layer; keep one"),
    "a whole matrix and its factors": (
        {f"{LINEAR}.lokr_w1": draw(4, 8), f"{LINEAR}.lokr_w2": draw(8, 4), f"{LINEAR}.lokr_w1_a": draw(4, 2)},
        "lokr_w1_a' has no part",
    ),
    "two rotations": (
        {f"{LINEAR}.oft_blocks": draw(4, 8, 8), f"{LINEAR}.oft_R.weight": draw(4, 28)},
        "oft_blocks' has no part",
    ),
    "two biases": (
        {f"{CONV}.diff": draw(32, 32, 3, 3), f"{CONV}.diff_b": draw(32), f"{CONV}.b_norm": draw(32)},
        "mean the same",
    ),
    "a bias without its LoRA": (pair(LINEAR) | {f"{OUT}.lora_B.bias": draw(32)}, "has no lora_up"),
    "an alpha alone": (pair(LINEAR) | {f"{OUT}.alpha": ALPHA}, "has no lora_down"),
    "integers": (pair(LINEAR) | {f"{LINEAR}.lora_up.weight": torch.ones(32, 3, dtype=torch.int8)}, "expected floats"),
    "IA3": ({f"{LINEAR}.weight": draw(32), f"{LINEAR}.on_input": torch.tensor(0)}, "IA3 adapters"),
    "T-LoRA": ({f"{LINEAR}.lambda_layer": draw(4), f"{LINEAR}.q_layer.weight": draw(4, 32)}, "T-LoRA adapters"),
    "a whole model": ({"unet.conv_in.weight": draw(32, 4, 3, 3)}, "no tensor has the name of a LoRA's"),
    "a norm of another width": ({f"{NORM}.w_norm": draw(64)}, "does not fit"),
    "infinities": (pair(LINEAR) | {f"{LINEAR}.lora_up.weight": torch.full((32, 3), float("inf"))}, "not finite"),
    "no numbers": (
        {f"{CONV}.hada_{name}": torch.zeros(32, 2) for name in ("w1_a", "w2_a")}
        | {f"{CONV}.hada_{name}": torch.zeros(2, 32) for name in ("w1_b", "w2_b")}
        | {f"{CONV}.hada_t{n}": torch.zeros(0, 6_000_000, 3, 3) for n in (1, 2)},
        "at least one",
    ),
    "a huge middle": (
        {f"{CONV}.lora_up.weight": draw(32, 1, 1, 1), f"{CONV}.lora_mid.weight": torch.zeros(1, 150_000, 3, 3)}
        | {f"{CONV}.lora_down.weight": torch.zeros(150_000, 32, 1, 1)},
        "rank of 150000 is too large",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(networks: dict[str, Network], tmp_path: Path, case: str) -> None:
    tensors, says = REFUSED[case]
    with pytest.raises(WeightsError, match=says):
        lora.read(write(tmp_path / "a.safetensors", tensors), networks)


def test_an_error_is_one_screen_whatever_the_names(networks: dict[str, Network], tmp_path: Path) -> None:
    path = write(tmp_path / "a.safetensors", pair("lora_unet_" + "y" * 1_000_000))
    with pytest.raises(WeightMismatchError, match="none of the 1 layers") as caught:
        lora.read(path, networks)
    assert len(str(caught.value)) < 600


def with_settings(place: Path, settings: dict[str, object], network: str = "base_model.model.") -> Path:
    layer = PEFT.replace("base_model.model.", network)
    path = write(place / "adapter_model.safetensors", halves(f"{layer}.to_q") | halves(f"{layer}.to_k"))
    (place / lora_scale.PEFT_CONFIG).write_text(json.dumps(settings))
    return path


@pytest.mark.parametrize("network", ["", "unet."])
def test_each_setting_of_peft_is_known_or_named(networks: dict[str, Network], tmp_path: Path, network: str) -> None:
    """Those of today: ``tests/parity/test_peft.py``."""
    settings = {f"{network}new_mode": True, f"{network}another": None, f"{network}r": 3, f"{network}lora_alpha": 3}
    path = with_settings(tmp_path, settings, network or "base_model.model.")
    assert lora.read(path, networks).unused == (f"{network}new_mode",)
    for name in lora_scale.REFUSED:
        with pytest.raises(WeightsError, match=f"{name}=True, which is not supported"):
            lora.read(with_settings(tmp_path, {f"{network}{name}": True}), networks)


@pytest.mark.parametrize("network", ["", "unet."])
@pytest.mark.parametrize(
    ("setting", "says"),
    [({"peft_type": "OFT"}, "peft_type is 'OFT', and .* is of LoRA"), ({"use_dora": True}, "has no magnitude")],
)
def test_settings_of_another_kind_of_adapter_are_refused(
    networks: dict[str, Network], tmp_path: Path, network: str, setting: dict[str, object], says: str
) -> None:
    tensors = halves(PEFT.replace("base_model.model.", network or "base_model.model.") + ".to_q")

    def read(values: dict[str, object]) -> Lora:
        path = with_settings(tmp_path, {f"{network}{name}": value for name, value in values.items()})
        return lora.read(write(path, tensors), networks)

    assert read({"peft_type": "LORA", "use_dora": False}).unused == ()
    with pytest.raises(WeightsError, match=says):
        read(setting)


def test_settings_of_a_network_that_no_tensor_names_are_refused(networks: dict[str, Network], tmp_path: Path) -> None:
    """They apply to nothing, so the scale would silently be 1."""
    with pytest.raises(WeightsError, match=r"settings are of 'unet', and 'base_model\.model.*' names no network"):
        lora.read(with_settings(tmp_path, {"unet.r": 3, "unet.lora_alpha": 30}), networks)


def test_settings_of_a_network_without_tensors_are_named(networks: dict[str, Network], tmp_path: Path) -> None:
    settings = {"unet.r": 3, "unet.lora_alpha": 30, "text_encoder.r": 3, "text_encoder.lora_alpha": 30}
    found = lora.read(with_settings(tmp_path, settings, "unet."), networks)
    assert found.unused == ("text_encoder.*",)
    assert {adapter.scale for adapter in found.adapters.values()} == {10.0}


def test_patterns_are_regular_expressions(networks: dict[str, Network], tmp_path: Path) -> None:
    """As in PEFT the first that matches a name, or its end from a dot on, counts."""
    patterns = {"attn1.to_.": 12, "to_q": 99, r".*\.to_k": 99}
    settings = {"r": 3, "lora_alpha": 3, "alpha_pattern": patterns}
    assert {a.scale for a in lora.read(with_settings(tmp_path, settings), networks).adapters.values()} == {4.0}
    settings["alpha_pattern"] = {"o_q": 99, r"^down_blocks\.0\..*attn1\.to_(k|v)": 6}
    scales = {name: a.scale for (_, name), a in lora.read(with_settings(tmp_path, settings), networks).adapters.items()}
    block = "down.0.attn.0.block.0.self_attn"
    assert scales == {f"{block}.query.weight": 1.0, f"{block}.key.weight": 2.0}


@pytest.mark.parametrize("pattern", ["(", r"(\w|\w\w|\.)+[^\w.]", "z" * 5000, "(?P<n>x"])
def test_a_pattern_that_cannot_be_followed_is_refused(
    networks: dict[str, Network], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pattern: str
) -> None:
    monkeypatch.setattr(lora_scale, "SECONDS", 0.05)
    path = with_settings(tmp_path, {"r": 3, "lora_alpha": 3, "alpha_pattern": {pattern: 6}})
    if pattern.startswith("z"):  # a name cannot be so long: it matches nothing
        assert {adapter.scale for adapter in lora.read(path, networks).adapters.values()} == {1.0}
        return
    with pytest.raises(WeightsError, match="of the LoRA's settings is refused"):
        lora.read(path, networks)
