"""LoHa, LoKr and OFT: the papers' formulas, written out in float64; and one clear error for what does not fit."""

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import diffuscope as ds
from diffuscope.errors import WeightMismatchError, WeightsError
from diffuscope.pipeline import Pipeline
from diffuscope.weights.adapter.deltas import Adapter
from diffuscope.weights.identify.families import identify
from diffuscope.weights.store import files, headers

LINEAR = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
CONV = "lora_unet_down_blocks_0_resnets_0_conv1"
OURS = {
    LINEAR: "down.0.attn.0.block.0.self_attn.query.weight",
    CONV: "down.0.resnet.0.conv1.weight",
}
RANK, ALPHA = 3, 2.0


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape) + seed)) / 4


def weight_of(pipe: Pipeline, stem: str) -> Tensor:
    return pipe.unet.get_parameter(OURS[stem]).double()


def loha(stem: str) -> dict[str, Tensor]:
    kernel = 9 if stem == CONV else 1
    shapes = {"hada_w1_a": (32, RANK), "hada_w1_b": (RANK, 32 * kernel)}
    shapes |= {"hada_w2_a": (32, RANK), "hada_w2_b": (RANK, 32 * kernel)}
    return {name: draw(*shape, seed=i) for i, (name, shape) in enumerate(shapes.items())}


def loha_core() -> dict[str, Tensor]:
    shapes = {"w1_a": (RANK, 32), "w1_b": (RANK, 32), "t1": (RANK, RANK, 3, 3)}
    shapes |= {"w2_a": (RANK, 32), "w2_b": (RANK, 32), "t2": (RANK, RANK, 3, 3)}
    return {f"hada_{name}": draw(*shape, seed=i) for i, (name, shape) in enumerate(shapes.items())}


def loha_formula(tensors: dict[str, Tensor], weight: Tensor) -> Tensor:
    t = {name: tensor.double() for name, tensor in tensors.items()}
    if "hada_t1" in t:
        one, two = (
            torch.einsum("abhw,ao,bi->oihw", t[f"hada_t{n}"], t[f"hada_w{n}_a"], t[f"hada_w{n}_b"]) for n in (1, 2)
        )
    else:
        one, two = (t[f"hada_w{n}_a"] @ t[f"hada_w{n}_b"] for n in (1, 2))
    return weight + ALPHA / RANK * (one * two).reshape(weight.shape)


def lokr(stem: str, *, first: bool, second: bool) -> dict[str, Tensor]:
    """Of 4x8 and 8x4; whole matrices, or products of rank 3."""
    kernel = (3, 3) if stem == CONV else ()
    one = {"w1": draw(4, 8)} if first else {"w1_a": draw(4, RANK), "w1_b": draw(RANK, 8, seed=1)}
    flat = 4 * math.prod(kernel)
    two = {"w2": draw(8, 4, *kernel)} if second else {"w2_a": draw(8, RANK), "w2_b": draw(RANK, flat, seed=1)}
    return {f"lokr_{name}": tensor for name, tensor in (one | two).items()}


def lokr_core() -> dict[str, Tensor]:
    parts = {"w1": draw(4, 8), "w2_a": draw(RANK, 8), "w2_b": draw(RANK, 4), "t2": draw(RANK, RANK, 3, 3)}
    return {f"lokr_{name}": tensor for name, tensor in parts.items()}


def lokr_formula(tensors: dict[str, Tensor], weight: Tensor) -> Tensor:
    t = {name.removeprefix("lokr_"): tensor.double() for name, tensor in tensors.items()}
    one = t["w1"] if "w1" in t else t["w1_a"] @ t["w1_b"]
    if "t2" in t:
        two = torch.einsum("abhw,ao,bi->oihw", t["t2"], t["w2_a"], t["w2_b"])
    else:
        two = t["w2"] if "w2" in t else t["w2_a"] @ t["w2_b"]
    two = two.reshape(8, 4, -1)
    blocks = torch.einsum("ab,cdk->acbdk", one, two)  # every number of the one times all of the other
    whole = "w1" in t and "w2" in t
    return weight + (1.0 if whole else ALPHA / RANK) * blocks.reshape(weight.shape)


def oft(*, rescale: bool = False, rotation: bool = False) -> dict[str, Tensor]:
    name = "oft_diag" if rotation else "oft_blocks"
    return {name: draw(4, 8, 8)} | ({"rescale": 1 + draw(32, 1)} if rescale else {})


def oft_formula(tensors: dict[str, Tensor], weight: Tensor) -> Tensor:
    t = {name: tensor.double() for name, tensor in tensors.items()}
    if "oft_diag" in t:
        turn = torch.block_diag(*t["oft_diag"])
    else:
        skew = torch.block_diag(*t["oft_blocks"]) - torch.block_diag(*t["oft_blocks"]).T
        if (norm := skew.norm().item()) > ALPHA * len(weight):
            skew = skew * ALPHA * len(weight) / norm
        one = torch.eye(len(weight), dtype=torch.float64)
        turn = (one + skew) @ torch.linalg.inv(one - skew)
        torch.testing.assert_close(turn @ turn.T, one)  # it is a rotation
    turned = (turn.T @ weight.flatten(1)).reshape(weight.shape)
    return turned * t["rescale"].reshape(-1, *[1] * (weight.ndim - 1)) if "rescale" in t else turned


CASES: dict[str, tuple[str, str, dict[str, Tensor], Any]] = {
    "LoHa": ("LoHa", LINEAR, loha(LINEAR), loha_formula),
    "LoHa of a convolution": ("LoHa", CONV, loha(CONV), loha_formula),
    "LoHa with cores": ("LoHa", CONV, loha_core(), loha_formula),
    "LoKr, both whole": ("LoKr", LINEAR, lokr(LINEAR, first=True, second=True), lokr_formula),
    "LoKr, both products": ("LoKr", LINEAR, lokr(LINEAR, first=False, second=False), lokr_formula),
    "LoKr of a convolution": ("LoKr", CONV, lokr(CONV, first=False, second=True), lokr_formula),
    "LoKr of a flat convolution": ("LoKr", CONV, lokr(CONV, first=True, second=False), lokr_formula),
    "LoKr with a core": ("LoKr", CONV, lokr_core(), lokr_formula),
    "OFT": ("OFT", LINEAR, oft(), oft_formula),
    "OFT of a convolution, rescaled": ("OFT", CONV, oft(rescale=True), oft_formula),
    "OFT, as rotations": ("OFT", LINEAR, oft(rotation=True), oft_formula),
}


def stored(place: Path, stem: str, tensors: dict[str, Tensor], alpha: float | None = ALPHA) -> Path:
    named = {f"{stem}.{name}": tensor for name, tensor in tensors.items()}
    files.write(place / "a.safetensors", named | ({} if alpha is None else {f"{stem}.alpha": torch.tensor(alpha)}))
    return place / "a.safetensors"


@pytest.fixture
def pipe(tiny: Pipeline) -> Pipeline:
    return Pipeline(copy.deepcopy(tiny.components))


@pytest.mark.parametrize("case", CASES)
def test_the_formula(pipe: Pipeline, tmp_path: Path, case: str) -> None:
    kind, stem, tensors, formula = CASES[case]
    before = weight_of(pipe, stem)
    report = pipe.load_lora(stored(tmp_path, stem, tensors))
    assert (report.layout, report.matched, report.unmatched) == (kind, 1, ())
    wanted = formula(tensors, before)
    torch.testing.assert_close(weight_of(pipe, stem), wanted, rtol=1e-5, atol=1e-5)
    assert (wanted - before).abs().max() > 1e-2
    pipe.set_lora("a", 0.5)
    torch.testing.assert_close(weight_of(pipe, stem), before + 0.5 * (wanted - before), rtol=1e-5, atol=1e-5)
    pipe.unload_lora()
    assert torch.equal(weight_of(pipe, stem), before)


def test_oft_turns_no_further_than_alpha_says(pipe: Pipeline) -> None:
    """The norm of all skew matrices together is at most alpha times the number of outputs; alpha 0 leaves them."""
    before = weight_of(pipe, LINEAR).float()
    free, wide, held = (Adapter(kind="OFT", tensors=oft(), scale=alpha).delta(before) for alpha in (0.0, 1e3, 1e-3))
    assert torch.equal(free, wide)
    blocks = oft()["oft_blocks"]
    small = {"oft_blocks": blocks * 1e-3 * 32 / (blocks - blocks.transpose(1, 2)).norm()}
    torch.testing.assert_close(held, Adapter(kind="OFT", tensors=small).delta(before), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", ["LoHa", "LoKr, both products"])
def test_with_doras_magnitude(pipe: Pipeline, tmp_path: Path, kind: str) -> None:
    _, stem, tensors, formula = CASES[kind]
    magnitude = draw(32, 1).abs() + 1
    after = formula(tensors, weight_of(pipe, stem))
    pipe.load_lora(stored(tmp_path, stem, tensors | {"dora_scale": magnitude}))
    wanted = magnitude.double() * after / after.norm(dim=1, keepdim=True)
    torch.testing.assert_close(weight_of(pipe, stem), wanted, rtol=1e-5, atol=1e-5)


def test_receipt_and_tag(pipe: Pipeline, tmp_path: Path) -> None:
    stored(tmp_path, LINEAR, loha(LINEAR))
    pipe.lora_dir = tmp_path
    result = pipe("a fox <lora:a:0.5>", seed=1)
    (path,) = result.save(tmp_path / "out.png")
    assert ds.replay(path, model=pipe).identical
    assert result.images != pipe("a fox", seed=1).images


@pytest.mark.parametrize("case", ["LoHa", "LoKr, both whole", "OFT"])
def test_what_it_is_stands_in_the_header(tmp_path: Path, case: str) -> None:
    kind, stem, tensors, _ = CASES[case]
    found = identify(headers.read_header(stored(tmp_path, stem, tensors)))
    assert (found.kind, found.layout) == ("lora", kind)


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        (loha(LINEAR) | {"hada_w1_b": draw(RANK, 64)}, r"is a LoHa of hada_w1_a \[32, 3\], hada_w1_b \[3, 64\]"),
        (loha(LINEAR) | {"hada_w2_a": draw(32, 2)}, "does not fit"),
        ({name: tensor.T.contiguous() for name, tensor in loha(LINEAR).items()}, "does not fit"),
        ({"lokr_w1": draw(4, 8), "lokr_w2": draw(8, 5)}, r"LoKr of lokr_w1 \[4, 8\], lokr_w2 \[8, 5\]"),
        ({"lokr_w1": draw(8, 4), "lokr_w2": draw(8, 4)}, "they make 64 outputs"),
        ({"lokr_w1": draw(4), "lokr_w2": draw(8, 4)}, "does not fit"),
        ({"oft_blocks": draw(4, 7, 7)}, r"OFT of oft_blocks \[4, 7, 7\]"),
        ({"oft_blocks": draw(4, 8, 7)}, "does not fit"),
        ({"oft_blocks": draw(2, 4, 8, 8)}, "BOFT is not supported"),
        ({"oft_blocks": draw(4, 8, 8), "rescale": draw(31)}, "does not fit"),
        ({"oft_R": draw(4, 29)}, "does not fit"),
        ({"oft_R": draw(4)}, "does not fit"),
        (loha(LINEAR) | {"dora_scale": draw(31, 1)}, "expected 32 values"),
    ],
)
def test_shapes_that_do_not_fit(pipe: Pipeline, tmp_path: Path, tensors: dict[str, Tensor], words: str) -> None:
    with pytest.raises(WeightMismatchError, match=words):
        pipe.load_lora(stored(tmp_path, LINEAR, tensors))


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"hada_w1_a": draw(32, 3), "hada_w1_b": draw(3, 32)}, "has no hada_w2_a"),
        ({"lokr_w1_a": draw(4, 3), "lokr_w2": draw(8, 4)}, "has no lokr_w1_b"),
        ({"lokr_w1": draw(4, 8)}, "has no lokr_w2_a"),
        ({"rescale": draw(32)}, "has no oft_blocks"),
    ],
)
def test_a_part_that_is_missing(pipe: Pipeline, tmp_path: Path, tensors: dict[str, Tensor], words: str) -> None:
    with pytest.raises(WeightsError, match=words):
        pipe.load_lora(stored(tmp_path, LINEAR, tensors))


def test_one_for_another_family(pipe: Pipeline, tmp_path: Path) -> None:
    stem = LINEAR.replace("attn1_to_q", "attn2_to_k")
    tensors = {"hada_w1_a": draw(32, 3), "hada_w1_b": draw(3, 768), "hada_w2_a": draw(32, 3), "hada_w2_b": draw(3, 768)}
    path = stored(tmp_path, stem, tensors)
    with pytest.raises(WeightMismatchError, match=r"it was trained for SD 1 \(768-dim"):
        pipe.load_lora(path)
    found = identify(headers.read_header(path))
    assert "sd15" in found.families
    assert "sdxl" not in found.families
    kron = stored(tmp_path, stem, {"lokr_w1": draw(4, 8), "lokr_w2": draw(8, 256)})
    assert identify(headers.read_header(kron)).families[0] == "sdxl"
