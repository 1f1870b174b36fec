"""LoRAs in a pipeline: exact to the bit in and out, in any order, named in prompts, written into the receipt."""

import copy
import math
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

import diffuscope as ds
from diffuscope.adapters.merging import merged
from diffuscope.errors import ModelNotFoundError, WeightMismatchError
from diffuscope.metadata import read_texts
from diffuscope.nn.taps import tap_points
from diffuscope.pipeline import Pipeline
from diffuscope.weights.adapter import lora
from lora_files import equal, kohya, layers, peft, trained, weights_of, write
from refusals import refused


@pytest.fixture(scope="module")
def folder(tiny: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three LoRAs that share layers: ink (all), wood (U-Net, DoRA), sand (text encoder)."""
    place = tmp_path_factory.mktemp("loras")
    write(place / "ink.safetensors", kohya(layers(tiny, wanted=trained)))
    wood = [layer for layer in layers(tiny, dora=True) if layer.part == "unet"]
    write(place / "wood.safetensors", peft(wood))
    (place / "below").mkdir()
    sand = [layer for layer in layers(tiny, wanted=trained) if layer.part == "text_encoder"]
    write(place / "below" / "sand.safetensors", kohya([replace(layer, up=-2 * layer.up) for layer in sand]))
    return place


@pytest.fixture
def pipe(tiny: Pipeline) -> Pipeline:
    return Pipeline(copy.deepcopy(tiny.components))


def test_the_report_counts_layers(pipe: Pipeline, folder: Path) -> None:
    report = pipe.load_lora(folder / "ink.safetensors", 0.8)
    assert (report.name, report.weight, report.layout, report.unmatched) == ("ink", 0.8, "kohya", ())
    assert report.matched == report.total == 60
    assert str(report) == "LoRA 'ink' (kohya): 60 of 60 layers matched (text_encoder 12, unet 48), weight 0.8"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_taking_a_lora_away_is_exact(pipe: Pipeline, folder: Path, dtype: torch.dtype) -> None:
    for part in ("unet", "text_encoder"):
        getattr(pipe, part).to(dtype)
    before = weights_of(pipe)
    pointers = {name: parameter.data_ptr() for name, parameter in pipe.unet.named_parameters()}
    names = tap_points(pipe.unet)
    pipe.load_lora(folder / "ink.safetensors", 0.7)
    pipe.load_lora(folder / "wood.safetensors", -1.3)
    assert not equal(before, weights_of(pipe))
    assert tap_points(pipe.unet) == names
    pipe.set_lora("ink", 2)
    pipe.unload_lora("ink")
    pipe.unload_lora()
    assert equal(before, weights_of(pipe))
    assert pointers == {name: parameter.data_ptr() for name, parameter in pipe.unet.named_parameters()}


def test_the_order_does_not_matter(pipe: Pipeline, folder: Path) -> None:
    found = []
    for order in (("ink", "wood"), ("wood", "ink")):
        for name in order:
            pipe.load_lora(folder / f"{name}.safetensors", 0.6)
        found.append(weights_of(pipe))
        pipe.unload_lora()
    assert equal(*found)


def test_a_later_weight_is_as_good_as_the_first(pipe: Pipeline, folder: Path) -> None:
    pipe.load_lora(folder / "ink.safetensors", 0.6)
    first = weights_of(pipe)
    pipe.load_lora(folder / "wood.safetensors", 3.0)
    pipe.set_lora("ink", -5.0)
    pipe.unload_lora("wood")
    pipe.set_lora("ink", 0.6)
    assert equal(first, weights_of(pipe))


@pytest.mark.parametrize(("dtype", "changes"), [(torch.float32, 10), (torch.bfloat16, 100)])
def test_a_hundred_changes_are_exact_and_each_is_one_merge(
    pipe: Pipeline, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, changes: int
) -> None:
    """Nothing adds up: not the rounding, not the tensors that are kept, not the work; and no file is read again."""
    for part in ("unet", "text_encoder"):
        getattr(pipe, part).to(dtype)
    plain = weights_of(pipe)
    for name in ("ink", "wood"):
        pipe.load_lora(shutil.copy(folder / f"{name}.safetensors", tmp_path))
        (tmp_path / f"{name}.safetensors").unlink()
    layers = {key: parameter for part in ("unet", "text_encoder") for key, parameter in changed(pipe, part, plain)}
    merges: list[int] = []
    real = lora.merged
    monkeypatch.setattr(lora, "merged", lambda *given: merges.append(1) or real(*given))
    for k in range(1, changes + 1):
        pipe.set_loras({"ink": math.sin(k) * 3, "wood": math.cos(k) / 2})
        pipe.set_loras({"ink": math.sin(k) * 3})  # no change
    assert len(merges) == changes * len(layers)
    kept = [merged(network)._originals for network in (pipe.unet, pipe.text_encoder)]
    assert sum(map(len, kept)) == len(layers)
    again = Pipeline(copy.deepcopy(pipe.components))
    for part in ("unet", "text_encoder"):
        again.components.networks[part].load_state_dict(pipe.adapters.unchanged(part))
    again.load_lora(folder / "ink.safetensors", math.sin(changes) * 3)
    again.load_lora(folder / "wood.safetensors", math.cos(changes) / 2)
    assert equal(weights_of(pipe), weights_of(again))
    pipe.unload_lora()
    assert equal(weights_of(pipe), plain)


def changed(pipe: Pipeline, part: str, plain: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    for name, parameter in getattr(pipe, part).named_parameters():
        if not torch.equal(parameter, plain[f"{part}.{name}"]):
            yield f"{part}.{name}", parameter


def test_weights_are_set_together_or_not_at_all(pipe: Pipeline, folder: Path) -> None:
    pipe.load_lora(folder / "ink.safetensors")
    before = weights_of(pipe)
    with refused("weights", "wood"):
        pipe.set_loras({"ink": 0.5, "wood": 0.5})
    with refused("weight"):
        pipe.set_loras({"ink": math.nan})
    assert pipe.adapters.weights == {"ink": 1.0}
    assert equal(weights_of(pipe), before)


def test_weight_zero_is_no_lora(pipe: Pipeline, folder: Path) -> None:
    before = weights_of(pipe)
    pipe.load_lora(folder / "ink.safetensors", 0.0)
    assert equal(before, weights_of(pipe))
    pipe.set_lora("ink", 1.0)
    pipe.set_lora("ink", 0)
    assert equal(before, weights_of(pipe))


def test_weights_add_up(pipe: Pipeline, folder: Path) -> None:
    """The same file under two names at 0.25 and 0.5 is the file at 0.75."""
    pipe.load_lora(folder / "ink.safetensors", 0.25, name="a")
    pipe.load_lora(folder / "ink.safetensors", 0.5, name="b")
    twice = weights_of(pipe)
    pipe.unload_lora()
    pipe.load_lora(folder / "ink.safetensors", 0.75)
    for name, tensor in weights_of(pipe).items():
        torch.testing.assert_close(twice[name], tensor, rtol=1e-5, atol=1e-6)


def test_a_name_taken_again_is_replaced(pipe: Pipeline, folder: Path) -> None:
    pipe.load_lora(folder / "wood.safetensors")
    expected = weights_of(pipe)
    pipe.unload_lora()
    pipe.load_lora(folder / "ink.safetensors", name="style")
    pipe.load_lora(folder / "wood.safetensors", name="style")
    assert equal(expected, weights_of(pipe))


def test_a_tag_is_this_call_s_weight(pipe: Pipeline, folder: Path) -> None:
    plain = pipe("a red fox", seed=1)
    before = weights_of(pipe)
    pipe.load_lora(folder / "ink.safetensors", 0.8)
    set_for_all = pipe("a red fox", seed=1)
    pipe.unload_lora()
    pipe.lora_dir = folder
    tagged = pipe("a red fox <lora:ink:0.8>", seed=1)
    assert torch.equal(tagged.latents, set_for_all.latents)
    assert not torch.equal(tagged.latents, plain.latents)
    assert equal(before, weights_of(pipe))
    assert torch.equal(pipe("a red fox", seed=1).latents, plain.latents)
    assert torch.equal(pipe("a red fox <lora:ink:0>", seed=1).latents, plain.latents)


def test_a_tag_goes_before_what_is_set(pipe: Pipeline, folder: Path) -> None:
    pipe.load_lora(folder / "ink.safetensors", 0.8)
    at_rest = weights_of(pipe)
    off = pipe("a red fox <lora:ink:0>", seed=1)
    assert equal(at_rest, weights_of(pipe))
    pipe.unload_lora()
    assert torch.equal(off.latents, pipe("a red fox", seed=1).latents)


def test_runs_with_other_tags_may_take_turns(pipe: Pipeline, folder: Path) -> None:
    pipe.lora_dir = folder
    prompts = ["a fox <lora:ink:1>", "a fox <lora:wood:0.5>", "a fox"]
    alone = [pipe(prompt, seed=3).latents for prompt in prompts]
    before = weights_of(pipe)
    runs = [pipe.steps(prompt, seed=3) for prompt in prompts]
    for _ in zip(*runs, strict=True):
        pass
    assert all(torch.equal(run.result().latents, latents) for run, latents in zip(runs, alone, strict=True))
    assert equal(before, weights_of(pipe))


def test_leaving_the_loop_gives_the_networks_back(pipe: Pipeline, folder: Path) -> None:
    before = weights_of(pipe)
    pipe.lora_dir = folder

    def first_step() -> None:
        run: Iterator[ds.Step] = pipe.steps("a fox <lora:ink:1>", seed=3)
        next(run)

    first_step()
    assert equal(before, weights_of(pipe))


def test_encode_prompt_heeds_tags(pipe: Pipeline, folder: Path) -> None:
    pipe.lora_dir = folder
    plain, tagged = (pipe.encode_prompt(prompt) for prompt in ("a red fox", "<lora:sand:1> a red fox"))
    assert plain.ids is not None
    assert tagged.ids is not None
    assert torch.equal(plain.ids, tagged.ids)
    assert not torch.equal(plain.embeddings, tagged.embeddings)
    assert torch.equal(plain.embeddings, pipe.encode_prompt("a red fox").embeddings)


def test_the_receipt_names_what_was_used(pipe: Pipeline, folder: Path) -> None:
    pipe.lora_dir = folder
    pipe.load_lora(folder / "wood.safetensors", 0.25)
    hashes = pipe.weights
    receipt = pipe("a fox <lora:ink:0.5>", seed=3).receipt
    assert receipt["prompt"] == ["a fox <lora:ink:0.5>"]
    assert [(each["name"], each["weight"]) for each in receipt["loras"]] == [("ink", 0.5), ("wood", 0.25)]
    assert all(len(each["sha256"]) == 64 for each in receipt["loras"])
    assert receipt["weights"] == hashes


def test_the_hash_of_the_weights_is_that_of_the_model(pipe: Pipeline, tiny: Pipeline, folder: Path) -> None:
    pipe.load_lora(folder / "ink.safetensors")
    assert pipe.weights == tiny.weights


def test_what_is_saved_is_what_runs(pipe: Pipeline, folder: Path, tmp_path: Path) -> None:
    pipe.load_lora(folder / "ink.safetensors", 0.5)
    again = ds.load(pipe.save(tmp_path / "model", layout="own"), device="cpu")
    assert equal(weights_of(again), weights_of(pipe))


@pytest.mark.parametrize(
    ("prompt", "negative", "argument"),
    [
        ("a <lora:imk:1> fox", "", "prompt"),
        ("a <lora:ink:x> fox", "", "prompt"),
        ("a fox", "<lora:ink:1>", "negative_prompt"),
        (["a <lora:ink:1> fox", "a fox"], "", "prompt"),
    ],
)
def test_impossible_tags(pipe: Pipeline, folder: Path, prompt: str | list[str], negative: str, argument: str) -> None:
    pipe.lora_dir = folder
    with refused(argument):
        pipe(prompt, negative_prompt=negative)


def test_impossible_calls(pipe: Pipeline, folder: Path) -> None:
    path = folder / "ink.safetensors"
    with refused("name", "ink"):
        pipe.set_lora("ink", 1.0)
    with refused("name", "ink"):
        pipe.unload_lora("ink")
    with refused("weight"):
        pipe.load_lora(path, float("nan"))
    with refused("name", "a:b"):
        pipe.load_lora(path, name="a:b")
    with pytest.raises(ModelNotFoundError, match="no folder"):
        pipe.lora_dir = folder / "nowhere"
    assert pipe.adapters.weights == {}


def test_a_lora_that_does_not_fit_leaves_all_as_it_was(pipe: Pipeline, folder: Path, tmp_path: Path) -> None:
    pipe.load_lora(folder / "ink.safetensors", 0.5)
    before = weights_of(pipe)
    stem = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
    tensors = {f"{stem}.lora_down.weight": torch.zeros(2, 768), f"{stem}.lora_up.weight": torch.zeros(32, 2)}
    with pytest.raises(WeightMismatchError, match="SD 1"):
        pipe.load_lora(write(tmp_path / "ink.safetensors", tensors))
    assert equal(before, weights_of(pipe))
    assert pipe.adapters.weights == {"ink": 0.5}


def test_replay_takes_the_same_files(pipe: Pipeline, folder: Path, tmp_path: Path) -> None:
    pipe.lora_dir = folder
    pipe.load_lora(folder / "wood.safetensors", 0.25)
    path = pipe("a fox <lora:ink:0.5>", seed=3).save(tmp_path / "out.png")[0]
    assert 'Lora hashes: "ink: ' in read_texts(path).texts["parameters"]
    bare = Pipeline(pipe.components)
    bare.unload_lora()
    pipe.unload_lora()
    with refused("lora_dir"):
        ds.replay(path, model=bare)
    assert ds.replay(path, model=bare, lora_dir=folder).identical
    other = copy.deepcopy(bare.components)
    again = Pipeline(other)
    again.load_lora(folder / "ink.safetensors", 3.0, name="unwanted")
    before = weights_of(again)
    assert ds.replay(path, model=again, lora_dir=folder).identical
    assert equal(before, weights_of(again))
    again.load_lora(folder / "below" / "sand.safetensors", name="ink")
    with refused("lora_dir"):
        ds.replay(path, model=again)


def test_a_branch_has_loras_of_its_own(pipe: Pipeline, folder: Path, tmp_path: Path) -> None:
    pipe.lora_dir = folder
    run = pipe.steps("a fox <lora:ink:1>", seed=3, num_inference_steps=4)
    kept = [step.x.clone() for step in run]
    other = run.branch(2, prompt="a fox <lora:wood:0.5>")
    steps = [step.x.clone() for step in other]
    assert [torch.equal(a, b) for a, b in zip(steps, kept, strict=True)] == [True, True, False, False]
    result = other.result()
    names = [[entry["name"] for entry in own] for own in (result.receipt["loras"], *result.receipt["branch_loras"])]
    assert names == [["wood"], ["ink"]]
    (path,) = result.save(tmp_path / "out.png")
    assert ds.replay(path, model=pipe).identical
    pipe.load_lora(folder / "below" / "sand.safetensors")
    with refused("answers"):  # they were made without it
        run.branch(2)
