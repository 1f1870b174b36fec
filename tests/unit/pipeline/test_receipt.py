"""The receipt in a file: other programs read it, replay repeats it, nothing personal is in it."""

import hashlib
import json
import resource
from pathlib import Path

import pytest
import torch
from PIL import Image
from sd_parsers import ParserManager

import diffuscope as ds
from diffuscope.errors import ImageError, ModelNotFoundError, OutputError
from diffuscope.images import image_hash, open_image, write_png
from diffuscope.metadata import read_texts
from diffuscope.model_source import ModelSource
from diffuscope.pipeline import Pipeline
from diffuscope.pipeline.receipt import checked_steps, infotext, read
from refusals import refused

PROMPTS = {
    "plain": "a red fox",
    "lines": "a red fox,\nsitting: on a hill\n\nSteps: 3, of stone",
    "unicode": "ein Füchslein \N{FOX FACE} 狐 Ξ",
    "empty": "",
    "quotes": '"fox" \\ {x: 1}, <hypernet:a:1>',
}


@pytest.mark.parametrize("prompt", PROMPTS.values(), ids=PROMPTS)
def test_sd_parsers_reads_what_we_write(tiny: Pipeline, tmp_path: Path, prompt: str) -> None:
    (path,) = tiny(prompt, negative_prompt="blue,\nугол", seed=32).save(tmp_path / "out.png")
    found = ParserManager().parse(path)
    assert found is not None
    (sampler,) = found.samplers
    assert [text.value for text in sampler.prompts] == ([prompt] if prompt else [])
    assert [text.value for text in sampler.negative_prompts] == ["blue,\nугол"]
    assert sampler.name == "DDIM"
    assert sampler.parameters == {"steps": "4", "cfg_scale": "7.5", "seed": "32"}
    assert sampler.model is not None
    assert sampler.model.name == "tiny"
    assert sampler.model.hash == tiny.weights["unet"][:10]
    assert found.metadata["Size"] == "32x32"


def test_each_file_of_a_call_tells_its_own_picture(tiny: Pipeline, tmp_path: Path) -> None:
    result = tiny(["fox", "cat"], seed=5, num_images_per_prompt=2, sigmas="karras", sampler="euler")
    paths = result.save(tmp_path / "out.png")
    assert [path.name for path in paths] == ["out-0.png", "out-1.png", "out-2.png", "out-3.png"]
    text = read_texts(paths[2]).texts["parameters"]
    assert text.startswith("cat\nSteps: 4, Sampler: Euler, Schedule type: Karras, CFG scale: 7.5, Seed: 7,")
    assert read(paths[2]) == result.receipt | {"image_index": 2}
    assert [image_hash(open_image(path)) for path in paths] == [image_hash(image) for image in result.images]


def test_no_metadata(tiny: Pipeline, tmp_path: Path) -> None:
    (path,) = tiny("fox", seed=5).save(tmp_path / "out.png", metadata=False)
    assert read_texts(path).texts == {}
    with pytest.raises(ImageError, match="no diffuscope receipt"):
        read(path)


def test_the_receipt_names_no_folder(tiny_folder: Path, tmp_path: Path) -> None:
    (path,) = ds.load(tiny_folder)("fox", seed=1).save(tmp_path / "out.png")
    assert str(tmp_path.parent) not in json.dumps(read_texts(path).texts)
    assert str(tiny_folder.parent) not in json.dumps(read_texts(path).texts)


def test_the_spacing_has_its_name_in_the_web_ui(tiny: Pipeline) -> None:
    receipt = tiny("fox", seed=1, sigmas="sgm_uniform", sampler="euler").receipt
    assert ", Schedule type: SGM Uniform, " in infotext(receipt, 0)


def test_names_with_commas_are_quoted(tiny: Pipeline) -> None:
    receipt = tiny("fox", seed=1).receipt | {"model": "a, b: c"}
    assert 'Model: "a, b: c", ' in infotext(receipt, 0)


def test_checked_steps() -> None:
    assert checked_steps(1) == {0}
    assert checked_steps(2) == {0, 1}
    assert checked_steps(25) == {0, 6, 12, 18, 24}


@pytest.mark.parametrize("sampler", ["ddim", "euler_ancestral"])
def test_replay_is_identical(tiny: Pipeline, tmp_path: Path, sampler: str) -> None:
    paths = tiny(["fox", "cat"], seed=5, sampler=sampler, upscale=4).save(tmp_path / "out.png")
    again = ds.replay(paths[1], model=tiny)
    assert again.identical
    assert again.first_difference is None
    assert again.circumstances == ()
    assert str(again) == "identical: every pixel is the same"


def test_replay_through_files_of_either_layout(tiny: Pipeline, tiny_folder: Path, tmp_path: Path) -> None:
    """Weights are known by their tensors, so a receipt holds in whatever layout they lie."""
    (path,) = tiny("fox", seed=5).save(tmp_path / "out.png")
    assert ds.replay(path, model=tiny_folder).identical
    assert ds.replay(path, model=tiny.save(tmp_path / "diffusers")).identical


def test_a_hash_of_all_tensors_in_one_piece_is_known_too(tiny: Pipeline, tmp_path: Path) -> None:
    """Older receipts have it."""
    result = tiny("fox", seed=5)
    receipt = result.receipt | {"weights": {name: _in_one(each) for name, each in tiny.components.networks.items()}}
    path = write_png(tmp_path / "older.png", result.images[0], {"diffuscope": json.dumps(receipt | {"image_index": 0})})
    assert receipt["weights"] != tiny.weights
    assert ds.replay(path, model=tiny).identical
    receipt["weights"]["vae"] = _in_one(tiny.unet)
    path = write_png(tmp_path / "other.png", result.images[0], {"diffuscope": json.dumps(receipt | {"image_index": 0})})
    with pytest.raises(ds.errors.InputError, match="other weights of vae"):
        ds.replay(path, model=tiny)


def _in_one(network: torch.nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name}:{tensor.dtype}:{list(tensor.shape)}:".encode() + tensor.numpy().tobytes())
    return digest.hexdigest()


def test_replay_from_a_start_image(tiny: Pipeline, tmp_path: Path) -> None:
    start = Image.linear_gradient("L").convert("RGB")
    (path,) = tiny("fox", image=start, strength=0.5, seed=5).save(tmp_path / "out.png")
    assert ds.replay(path, model=tiny, image=start).identical
    with refused("image", None):
        ds.replay(path, model=tiny)
    with refused("image"):
        ds.replay(path, model=tiny, image=Image.new("RGB", (32, 32)))


def test_replay_runs_the_twin_that_made_the_image(tiny_folder: Path, tmp_path: Path) -> None:
    for fast, twin in ((True, "torch"), (False, "plain")):
        (path,) = ds.load(tiny_folder, device="cpu", fast=fast)("fox", seed=5).save(tmp_path / "out.png")
        again = ds.replay(path, model=tiny_folder)
        assert again.identical
        assert read(path)["twin"] == again.result.receipt["twin"] == twin
        assert "twin" not in str(again)
    other = ds.replay(path, model=ModelSource(tiny_folder, fast=True))
    assert "twin was plain, is torch" in str(other)


def test_replay_says_where_it_first_differs(tiny: Pipeline, tmp_path: Path) -> None:
    result = tiny("fox", seed=5)
    receipt = result.receipt | {"image_index": 0, "threads": 99}
    receipt["checks"] = [*receipt["checks"][:2], *({**check, "x0": ["?"]} for check in receipt["checks"][2:])]
    path = write_png(tmp_path / "out.png", Image.new("RGB", (32, 32)), {"diffuscope": json.dumps(receipt)})
    again = ds.replay(path, model=tiny)
    assert not again.identical
    assert again.first_difference == 2
    assert str(again) == f"not identical: it first differs at step 2; threads was 99, is {torch.get_num_threads()}"


def test_replay_refuses_what_it_cannot_repeat(tiny: Pipeline, tmp_path: Path) -> None:
    (path,) = tiny("fox", seed=5, tap={"unet.x": lambda value: value}).save(tmp_path / "tapped.png")
    with refused("path", "an image made with tap"):
        ds.replay(path, model=tiny)
    receipt = tiny("fox", seed=5).receipt | {"image_index": 0}
    receipt["weights"] = receipt["weights"] | {"unet": "0" * 64}
    path = write_png(tmp_path / "other.png", Image.new("RGB", (32, 32)), {"diffuscope": json.dumps(receipt)})
    with refused("model"):
        ds.replay(path, model=tiny)


@pytest.mark.parametrize("text", ["{", "[]", "null", '{"format": 1}', '{"format": 3}', "[" * 100_000])
def test_damaged_and_later_receipts(tmp_path: Path, text: str) -> None:
    path = write_png(tmp_path / "out.png", Image.new("RGB", (8, 8)), {"diffuscope": text})
    with pytest.raises(ImageError, match="receipt"):
        read(path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("weights", ["a"]),
        ("image_index", 7),
        ("image_index", -1),
        ("seed", None),
        ("upscale", 3),
        ("dtype", ["float32"]),
        ("edits", [3]),
        ("checks", [{"step": 0}]),
        ("checks", [{"step": 0, "x0": []}]),
    ],
)
def test_a_receipt_that_somebody_wrote_by_hand(tiny: Pipeline, tmp_path: Path, key: str, value: object) -> None:
    receipt = tiny("fox", seed=5).receipt | {"image_index": 0}
    path = tmp_path / "out.png"
    for spoilt in (receipt | {key: value}, {name: value for name, value in receipt.items() if name != key}):
        write_png(path, Image.new("RGB", (8, 8)), {"diffuscope": json.dumps(spoilt)})
        with pytest.raises(ImageError, match=f"damaged: its '{key}'"):
            ds.replay(path, model=tiny)


def test_a_receipt_older_than_an_option_has_its_default(tiny: Pipeline, tmp_path: Path) -> None:
    receipt = tiny("fox", seed=5).receipt | {"image_index": 0}
    older = {name: value for name, value in receipt.items() if name not in ("token_merging", "strength")}
    path = write_png(tmp_path / "out.png", Image.new("RGB", (32, 32)), {"diffuscope": json.dumps(older)})
    assert ds.replay(path, model=tiny).first_difference is None


def test_other_versions_and_fewer_checks_are_no_fault(tiny: Pipeline, tmp_path: Path) -> None:
    receipt = tiny("fox", seed=5).receipt | {"image_index": 0, "versions": {"abacus": "1"}, "checks": []}
    path = write_png(tmp_path / "out.png", Image.new("RGB", (32, 32)), {"diffuscope": json.dumps(receipt)})
    assert ds.replay(path, model=tiny).circumstances == ("abacus version was 1, is None",)


def test_what_a_receipt_says_beyond_this_version_is_named(tiny: Pipeline, tmp_path: Path) -> None:
    more = dict.fromkeys(("delta", "alpha", "gamma", "beta"), 1)
    receipt = tiny("fox", seed=5).receipt | {"image_index": 0} | more
    path = write_png(tmp_path / "out.png", Image.new("RGB", (32, 32)), {"diffuscope": json.dumps(receipt)})
    assert ds.replay(path, model=tiny).circumstances == (
        "not used of the receipt: 'alpha', 'beta', 'delta' and 1 more",
    )


def test_a_receipt_opens_no_folder(tiny: Pipeline, tiny_folder: Path, tmp_path: Path) -> None:
    receipt = tiny("fox", seed=5).receipt | {"image_index": 0, "model": str(tiny_folder)}
    path = write_png(tmp_path / "out.png", Image.new("RGB", (32, 32)), {"diffuscope": json.dumps(receipt)})
    with pytest.raises(ModelNotFoundError, match="give its folder"):
        ds.replay(path)


def test_a_full_disk_leaves_the_old_file_whole(tiny: Pipeline, tmp_path: Path) -> None:
    """The kernel refuses to write beyond a limit, as it does where there is no space."""
    result = tiny("fox", seed=1)
    (path,) = result.save(tmp_path / "out.png")
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        with pytest.raises(OutputError, match=r"out\.png cannot be written"):
            result.save(path)
        with pytest.raises(OutputError, match=r"/model .*File too large"):  # not a name that is gone by now
            tiny.save(tmp_path / "model")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["out.png"]
