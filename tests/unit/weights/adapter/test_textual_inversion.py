"""Embedding files: every dialect gives the same vectors, and what does not fit is one clear error."""

from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from diffuscope.errors import ModelNotFoundError, WeightMismatchError, WeightsError
from diffuscope.weights.adapter.textual_inversion import read
from diffuscope.weights.store import files

ONE = {"text_encoder": 32}
TWO = {"text_encoder": 32, "text_encoder_2": 48}


def random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


VECTORS = random(3, 32)
A1111 = {
    "string_to_token": {"*": 265},
    "string_to_param": {"*": VECTORS},
    "name": "another name",
    "step": 500,
    "sd_checkpoint": None,
}
DIALECTS: dict[str, tuple[str, Any, str]] = {
    "diffusers": ("learned_embeds.safetensors", {"<cat-toy>": VECTORS}, "<cat-toy>"),
    "web UI": ("cat toy.safetensors", {"emb_params": VECTORS}, "cat toy"),
    "learned_embeds.bin": ("learned_embeds.bin", {"<cat-toy>": VECTORS}, "<cat-toy>"),
    "web UI, pickled": ("cat-toy.pt", A1111, "cat-toy"),
    "ordered": ("learned_embeds.bin", OrderedDict({"<cat-toy>": VECTORS}), "<cat-toy>"),
}


def write(path: Path, content: Any) -> Path:
    if path.suffix == ".safetensors":
        files.write(path, content)
    else:
        torch.save(content, path)
    return path


@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_dialect_is_read(tmp_path: Path, dialect: str) -> None:
    name, content, word = DIALECTS[dialect]
    path = write(tmp_path / name, content)
    found = read(path, ONE, allow_pickle=True)
    assert (found.word, found.length) == (word, 3)
    assert torch.equal(found.vectors["text_encoder"], VECTORS)
    assert read(path, ONE, word="other", allow_pickle=True).word == "other"


def test_one_vector_and_a_folder(tmp_path: Path) -> None:
    write(tmp_path / "learned_embeds.safetensors", {"<s>": VECTORS[0].half()})
    found = read(tmp_path, ONE)
    assert found.vectors["text_encoder"].shape == (1, 32)
    assert found.vectors["text_encoder"].dtype == torch.float32


def test_a_pair_for_two_text_encoders(tmp_path: Path) -> None:
    tensors = {"clip_g": random(2, 48), "clip_l": random(2, 32)}
    path = write(tmp_path / "style.safetensors", tensors)
    found = read(path, TWO)
    assert found.word == "style"
    assert torch.equal(found.vectors["text_encoder"], tensors["clip_l"])
    assert torch.equal(found.vectors["text_encoder_2"], tensors["clip_g"])
    alone = read(path, {"text_encoder": 48})  # SDXL's refiner, which has the second one only
    assert torch.equal(alone.vectors["text_encoder"], tensors["clip_g"])
    assert (found.unused, alone.unused) == ((), ("clip_l",))


@pytest.mark.parametrize("name", ["style.pt", "style.bin"])
def test_a_pair_that_is_pickled(tmp_path: Path, name: str) -> None:
    tensors = {"clip_l": random(2, 32), "clip_g": random(2, 48)}
    found = read(write(tmp_path / name, tensors), TWO, allow_pickle=True)
    assert (found.word, found.length) == ("style", 2)
    assert torch.equal(found.vectors["text_encoder_2"], tensors["clip_g"])


LORA = {"lora_unet_x.lora_up.weight": random(4, 2), "lora_unet_x.lora_down.weight": random(2, 4)}
ONE_TRAINER = {"bundle_emb.<a.b>.clip_l": random(2, 32), "bundle_emb.<a.b>.clip_g": random(2, 48)}


def test_embeddings_in_a_lora_as_onetrainer_and_the_web_ui_pack_them(tmp_path: Path) -> None:
    path = write(tmp_path / "lora.safetensors", LORA | ONE_TRAINER)
    found = read(path, TWO)
    assert (found.word, found.length) == ("<a.b>", 2)
    assert torch.equal(found.vectors["text_encoder"], ONE_TRAINER["bundle_emb.<a.b>.clip_l"])
    assert read(path, TWO, word="other").word == "other"
    several = {"bundle_emb.cat.string_to_param.*": VECTORS, "bundle_emb.dog.emb_params": 2 * VECTORS}
    path = write(tmp_path / "two.safetensors", LORA | several)
    with pytest.raises(WeightsError, match=r"2 embeddings \('cat', 'dog'\); give one of them as word"):
        read(path, ONE)
    for word, factor in (("cat", 1), ("dog", 2)):
        found = read(path, ONE, word=word)
        assert found.word == word
        assert torch.equal(found.vectors["text_encoder"], factor * VECTORS)


def test_onetrainers_single_files(tmp_path: Path) -> None:
    found = read(write(tmp_path / "toy.safetensors", {"emp_params": VECTORS}), ONE)
    assert (found.word, found.length) == ("toy", 3)
    bundled = LORA | {"bundle_emb.x.clip_l": VECTORS, "bundle_emb.x.clip_l_out": -VECTORS}
    for tensors in ({"emp_params": VECTORS, "emp_params_out": -VECTORS}, bundled):
        with pytest.raises(WeightsError, match="_out' is added to the text encoder's output"):
            read(write(tmp_path / "toy.safetensors", tensors), ONE)


def test_a_hypernetwork_is_refused_by_its_name(tmp_path: Path) -> None:
    network = ({"linear.0.weight": random(4, 4)}, {"linear.0.weight": random(4, 4)})
    path = write(tmp_path / "anime.pt", {320: network, 768: network, "step": 100, "name": "anime"})
    with pytest.raises(WeightsError, match="is a hypernetwork"):
        read(path, ONE, allow_pickle=True)


EVERY = {
    "diffusers": {"<cat-toy>": VECTORS},
    "web UI": {"emb_params": VECTORS},
    "SDXL": {"clip_l": random(2, 32), "clip_g": random(2, 48)},
    "in a LoRA": ONE_TRAINER,
}


@pytest.mark.parametrize("case", EVERY)
def test_each_tensor_of_an_embedding_counts_or_is_refused(tmp_path: Path, case: str) -> None:
    tensors, widths = EVERY[case], TWO if len(EVERY[case]) == 2 else ONE
    plain = read(write(tmp_path / "a.safetensors", tensors), widths).vectors
    for name in tensors:
        other = read(write(tmp_path / "b.safetensors", tensors | {name: tensors[name] + 1}), widths).vectors
        assert any(not torch.equal(plain[part], other[part]) for part in plain)
    extra = next(iter(tensors)).rpartition(".")[0] + ".more" if case == "in a LoRA" else "more"
    with pytest.raises(WeightsError, match="is no embedding: it holds"):
        read(write(tmp_path / "c.safetensors", tensors | {extra: random(2, 32)}), widths)


def test_pickles_are_refused_unless_allowed(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="allow_pickle=True"):
        read(write(tmp_path / "a.pt", A1111), ONE)


class Canary:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def test_nothing_in_a_pickle_is_run(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    path = write(tmp_path / "a.pt", A1111 | {"name": Canary(canary)})
    with pytest.raises(WeightsError, match="nothing of it was run"):
        read(path, ONE, allow_pickle=True)
    assert not canary.exists()


BAD: dict[str, tuple[dict[str, Tensor], dict[str, int], type[WeightsError], str]] = {
    "another width": (
        {"<s>": random(1, 1024)},
        ONE,
        WeightMismatchError,
        "trained for SD 2: its vectors have 1024 dims.*32",
    ),
    "a pair for one": ({"clip_l": random(1, 768), "clip_g": random(1, 1280)}, ONE, WeightMismatchError, "for SDXL"),
    "one for a pair": ({"<s>": random(1, 32)}, TWO, WeightMismatchError, "32 dims.*32 and 48"),
    "a pair the wrong way": (
        {"clip_l": random(1, 48), "clip_g": random(1, 32)},
        TWO,
        WeightMismatchError,
        "48 and 32|32 and 48",
    ),
    "two words": ({"<a>": random(1, 32), "<b>": random(1, 32)}, ONE, WeightsError, "holds 2 tensors"),
    "too many vectors": ({"<s>": random(76, 32)}, ONE, WeightsError, "at most 75"),
    "no vector": ({"<s>": random(0, 32)}, ONE, WeightsError, "no embedding"),
    "a number": ({"<s>": torch.tensor(1.0)}, ONE, WeightsError, "no embedding"),
    "not finite": ({"<s>": torch.full((1, 32), float("nan"))}, ONE, WeightsError, "not finite"),
    "a pair of unequal lengths": (
        {"clip_l": random(1, 32), "clip_g": random(2, 48)},
        TWO,
        WeightsError,
        "different numbers",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_embedding_for_this_model(tmp_path: Path, case: str) -> None:
    tensors, widths, kind, says = BAD[case]
    with pytest.raises(kind, match=says):
        read(write(tmp_path / "bad.safetensors", tensors), widths)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "a.safetensors"):
        with pytest.raises(ModelNotFoundError, match="no embedding at"):
            read(path, ONE)
