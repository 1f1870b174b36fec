"""A learned word: only its own vectors are trained, every other text stays as it is, and mistakes are refused."""

import copy
import json
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from diffuscope.errors import OutputError, TrainingError
from diffuscope.finetune import WordReport, train_word
from diffuscope.finetune.options import WordTraining
from diffuscope.pipeline import Pipeline
from diffuscope.training.run_folder import locked
from diffuscope.weights.store import files
from narrow import made
from refusals import refused

SHORT = {"word": "<blob>", "like": "ball", "steps": 12, "lr": 0.05, "batch_size": 2}
OTHERS = ["a red ball", "", "a blob", "<blo> b>"]


@pytest.fixture
def pipe(tiny: Pipeline) -> Pipeline:
    return Pipeline(copy.deepcopy(tiny.components))


@pytest.fixture(scope="module")
def learned(tiny: Pipeline, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> WordReport:
    """A word that was learned once. Its file is not to be written to."""
    pipe = Pipeline(copy.deepcopy(tiny.components))
    before = {name: value.clone() for name, value in tensors(pipe).items()}
    report = train_word(pipe, pictures, tmp_path_factory.mktemp("learned") / "blob.safetensors", **SHORT)
    after = tensors(pipe)  # of which the added vectors are none: they are no part of a model
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    return report


def tensors(pipe):
    return {f"{part}.{n}": t for part, net in pipe.components.networks.items() for n, t in net.state_dict().items()}


def test_only_the_words_own_vectors_are_trained(pipe, learned):
    assert learned.error_after < learned.error_before
    assert [*files.read(learned.path)] == ["<blob>"]
    states = [pipe.encode_prompt(text).embeddings for text in OTHERS]
    assert pipe.load_embedding(learned.path).word == "<blob>"
    for text, state in zip(OTHERS, states, strict=True):
        assert torch.equal(pipe.encode_prompt(text).embeddings, state)
    assert not torch.equal(*(pipe.encode_prompt(f"a {word}").embeddings for word in ("<blob>", "ball")))


def test_it_starts_from_the_tokens_of_another_word(pipe, pictures, tmp_path):
    still = SHORT | {"lr": 1e-9, "steps": 1, "vectors": 3, "like": "red ball"}
    with pytest.raises(TrainingError, match="higher lr"):  # a step of 1e-9 teaches nothing
        train_word(pipe, pictures, tmp_path / "blob.safetensors", **still)
    rows = files.read(tmp_path / "blob.run" / "checkpoint.safetensors")["ema.vectors.text_encoder"]
    ids = pipe.tokenizer.tokenize("red ball red")
    torch.testing.assert_close(rows, pipe.text_encoder.token_embedding.weight[ids], atol=1e-6, rtol=0)


@pytest.fixture
def ctrl_c():
    """What Ctrl-C does in a terminal: tests in the background inherit "ignore"."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(("number", "raised"), [(signal.SIGTERM, SystemExit), (signal.SIGINT, KeyboardInterrupt)])
def test_a_training_that_was_ended_resumes_to_the_same_bits(pipe, pictures, learned, tmp_path, ctrl_c, number, raised):
    told = []

    def end(step, steps, loss):
        if step == 5:
            signal.raise_signal(number)

    with pytest.raises(raised):
        train_word(pipe, pictures, tmp_path / "parts.safetensors", **SHORT, on_step=end)
    assert not (tmp_path / "parts.safetensors").exists()
    train_word(pipe, pictures, tmp_path / "parts.safetensors", **SHORT, tell=told.append)
    assert any("resuming" in line for line in told)
    whole, parts = (files.read(path)["<blob>"] for path in (learned.path, tmp_path / "parts.safetensors"))
    assert torch.equal(whole, parts)
    assert not list(tmp_path.rglob("checkpoint.safetensors"))


def test_a_second_ctrl_c_ends_a_training_at_once(pipe, pictures, tmp_path, ctrl_c):
    steps = []

    def end(step, total, loss):
        steps.append(step)
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train_word(pipe, pictures, tmp_path / "blob.safetensors", **SHORT, on_step=end)
    assert steps == [1]
    assert not list(tmp_path.rglob("checkpoint.safetensors"))
    assert signal.getsignal(signal.SIGINT) == signal.default_int_handler


def test_nothing_is_overwritten_unasked(pipe, pictures, learned, tmp_path):
    folder = shutil.copytree(learned.path.parent, tmp_path / "copy")
    path = folder / "blob.safetensors"
    before = path.read_bytes()
    with pytest.raises(OutputError, match=r"exists.*--overwrite"):
        train_word(pipe, pictures, path, **SHORT)
    path.unlink()
    with pytest.raises(OutputError, match=r"blob.run is of a training with other options"):
        train_word(pipe, pictures, path, **SHORT | {"seed": 1})
    train_word(pipe, pictures, path, **SHORT | {"seed": 1}, overwrite=True)
    assert path.read_bytes() != before
    assert json.loads((folder / "blob.run" / "run.json").read_text())["options"]["seed"] == 1


def test_two_trainings_in_one_folder_are_refused(pipe, pictures, tmp_path):
    with locked(tmp_path / "blob.run"), pytest.raises(TrainingError, match="another run"):
        train_word(pipe, pictures, tmp_path / "blob.safetensors", **SHORT)


@pytest.mark.parametrize("word", ["ball", "two words", "fox"])
def test_a_word_that_means_something_already_is_refused(pipe, pictures, tmp_path, word):
    with refused("word", word):
        train_word(pipe, pictures, tmp_path / "blob.safetensors", **SHORT | {"word": word})
    with refused("word"):
        WordTraining(like="ball")
    with refused("like"):
        WordTraining(word="<blob>")


def test_a_start_that_the_model_never_learned_is_refused(pipe, pictures, tmp_path):
    words = Pipeline(replace(pipe.components, words=frozenset({"ball", "cup"})))
    with refused("like", "balll") as caught:
        train_word(words, pictures, tmp_path / "blob.safetensors", **SHORT | {"like": "ball balll"})
    assert "'ball'" in caught.value.hint
    with torch.no_grad():
        pipe.text_encoder.token_embedding.weight[pipe.tokenizer.tokenize("cup")] = 0
    with refused("like", "cup"):
        train_word(pipe, pictures, tmp_path / "blob.safetensors", **SHORT | {"like": "cup"})


def test_a_start_of_several_tokens_is_said(pipe, pictures, tmp_path):
    told = []
    train_word(pipe, pictures, tmp_path / "a.safetensors", **SHORT | {"like": "red ball"}, tell=told.append)
    assert "'red ball' is 2 tokens" in told[0]
    train_word(
        pipe, pictures, tmp_path / "b.safetensors", **SHORT | {"like": "red ball", "vectors": 2}, tell=told.append
    )
    assert sum("tokens" in line for line in told) == 1


def test_a_loaded_word_is_refused_and_may_be_the_start_of_another(pipe, pictures, learned, tmp_path):
    pipe.load_embedding(learned.path)
    with refused("word", "<blob>"):
        train_word(pipe, pictures, tmp_path / "again.safetensors", **SHORT)
    train_word(pipe, pictures, tmp_path / "next.safetensors", **SHORT | {"word": "<next>", "like": "<blob>"})
    pipe.load_embedding(tmp_path / "next.safetensors")
    assert pipe.tokenizer.tokenize("<blob> <next>") == [49408, 49409]


def test_captions_without_the_word_are_refused(pipe, pictures, tmp_path):
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes((pictures / name).read_bytes())
    (tmp_path / "a.txt").write_text("a ball")
    with refused("word") as caught:
        train_word(pipe, tmp_path, tmp_path / "blob.safetensors", **SHORT)
    assert "a.png" in caught.value.got
    (tmp_path / "a.txt").write_text("a <blob> in the corner")
    told = []
    train_word(pipe, tmp_path, tmp_path / "blob.safetensors", **SHORT, tell=told.append)
    assert told[0] == "2 pictures, 0 skipped"
    assert "MiB" in told[1]


def test_models_that_cannot_be_trained_are_refused(tiny, pictures, tmp_path):
    schedule = replace(tiny.config.schedule, zero_snr=True)
    epsilon = Pipeline(replace(tiny.components, config=replace(tiny.config, schedule=schedule)))
    with refused("prediction", "epsilon"):
        train_word(epsilon, pictures, tmp_path / "blob.safetensors", **SHORT)
    for family in ("sd15-inpaint", "sd15-lcm"):
        with refused("model") as caught:
            train_word(made(family), pictures, tmp_path / "blob.safetensors", **SHORT)
        assert family in caught.value.got


def test_checkpoints_change_memory_and_not_the_result(pipe, pictures, tmp_path):
    told, words = [], []
    for name, checkpointing in (("plain", False), ("less", True)):
        report = train_word(
            pipe,
            pictures,
            tmp_path / f"{name}.safetensors",
            **SHORT | {"steps": 3},
            gradient_checkpointing=checkpointing,
            tell=told.append,
        )
        words.append(files.read(report.path)["<blob>"])
    torch.testing.assert_close(words[0], words[1], atol=1e-5, rtol=1e-4)
    plain, less = (float(line.split("about ")[1].split(" MiB")[0].replace(",", "")) for line in told if "MiB" in line)
    assert less < plain
