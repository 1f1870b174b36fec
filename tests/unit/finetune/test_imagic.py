"""Imagic: two stages, a file with both, and pictures between the given one and the text."""

import copy
import signal

import pytest
import torch

from diffuscope.errors import ModelNotFoundError, WeightMismatchError, WeightsError
from diffuscope.finetune import imagic_file, load_imagic, train_imagic
from diffuscope.finetune.imagic_file import States
from diffuscope.pipeline import Pipeline
from diffuscope.weights.store import files
from refusals import refused

SHORT = {
    "prior_count": 2,
    "prompt": "a red ball",
    "rank": 2,
    "embedding_steps": 6,
    "steps": 6,
    "embedding_lr": 0.05,
    "lr": 0.01,
}


@pytest.fixture
def pipe(tiny: Pipeline) -> Pipeline:
    return Pipeline(copy.deepcopy(tiny.components))


@pytest.fixture(scope="module")
def trained(tiny: Pipeline, pictures, tmp_path_factory):
    """An edit that was learned once. Its file is not to be written to."""
    path = tmp_path_factory.mktemp("imagic") / "edit.safetensors"
    return train_imagic(Pipeline(copy.deepcopy(tiny.components)), pictures / "a.png", path, **SHORT)


def test_both_stages_learn_the_picture(trained):
    assert trained.error_after < trained.error_embedded < trained.error_before
    assert {folder.name for folder in trained.path.with_suffix(".run").iterdir()} == {"text", "network"}


def test_states_go_from_the_picture_to_the_text(pipe, trained):
    plain = pipe.encode_prompt("a red ball").embeddings
    weight = "mid.attn.0.block.0.cross_attn.key.weight"
    before = pipe.unet.get_parameter(weight).clone()
    edit = load_imagic(pipe, trained.path)
    assert not torch.equal(pipe.unet.get_parameter(weight), before)
    torch.testing.assert_close(edit.at(1.0).embeddings, plain)
    learned = files.read(trained.path)["imagic.learned"]
    torch.testing.assert_close(edit.at(0.0).embeddings[0], learned)
    torch.testing.assert_close(edit.at(0.25).embeddings[0], 0.25 * plain[0] + 0.75 * learned)
    result = pipe(conditioning=edit.at(0.5), seed=3)
    assert not [note for note in result.receipt["notes"] if "not used" in note]
    (image,) = edit.sweep([0.5], seed=3)
    assert image.tobytes() == result.images[0].tobytes()
    assert edit.sheet([0, 1]).width > 300
    edit.unload()
    assert torch.equal(pipe.unet.get_parameter(weight), before)


def test_a_training_ended_in_its_second_stage_goes_on_there(pipe, pictures, trained, tmp_path):
    """The first stage is repeated, as it is short; the file is the same bit for bit."""
    calls = []

    def end(step, steps, loss):
        calls.append(step)
        if len(calls) == 9:
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(SystemExit):
        train_imagic(pipe, pictures / "a.png", tmp_path / "edit.safetensors", **SHORT, on_step=end)
    told = []
    train_imagic(pipe, pictures / "a.png", tmp_path / "edit.safetensors", **SHORT, tell=told.append)
    assert sum("resuming" in line for line in told) == 2
    one, other = files.read(trained.path), files.read(tmp_path / "edit.safetensors")
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_one_picture_and_a_text_are_needed(pipe, pictures, tmp_path):
    with refused("picture"):
        train_imagic(pipe, pictures, tmp_path / "edit.safetensors", **SHORT)
    with refused("prompt"):
        train_imagic(pipe, pictures / "a.png", tmp_path / "edit.safetensors", **SHORT | {"prompt": " "})


def test_other_files_are_refused_and_leave_nothing_loaded(pipe, trained, tmp_path):
    with pytest.raises(ModelNotFoundError):
        load_imagic(pipe, tmp_path / "none.safetensors")
    lora = {name: value for name, value in files.read(trained.path).items() if not name.startswith("imagic.")}
    files.write(tmp_path / "lora.safetensors", lora)
    with pytest.raises(WeightsError, match="no Imagic"):
        load_imagic(pipe, tmp_path / "lora.safetensors")
    assert pipe.adapters.weights == {}
    wide = States(prompt="a", target=torch.zeros(77, 48), learned=torch.zeros(77, 48))
    imagic_file.write(tmp_path / "wide.safetensors", wide, lora, {})
    with pytest.raises(WeightMismatchError, match="48 wide"):
        load_imagic(pipe, tmp_path / "wide.safetensors")
    imagic_file.write(tmp_path / "more.safetensors", wide, lora | {"imagic.more": torch.zeros(1)}, {})
    with pytest.raises(WeightsError, match=r"'imagic\.more'"):
        load_imagic(pipe, tmp_path / "more.safetensors")
    damaged = States(prompt="a", target=torch.zeros(77, 32), learned=torch.full((77, 32), float("nan")))
    imagic_file.write(tmp_path / "nan.safetensors", damaged, {}, {})
    with pytest.raises(WeightsError):
        imagic_file.read(tmp_path / "nan.safetensors", 32)
    assert pipe.adapters.weights == {}
