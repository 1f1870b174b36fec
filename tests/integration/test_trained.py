"""The digits and the stages of the recipe: what is printed at their end is run."""

import functools
import shlex
from pathlib import Path

import pytest
from PIL import Image

from diffuscope.cli import main
from diffuscope.cli.train import say_result
from diffuscope.data import digits as data
from diffuscope.pipeline.receipt import read
from diffuscope.recipes import digits


@pytest.mark.slow
def test_a_digit_is_drawn_by_what_is_printed(tmp_path: Path, monkeypatch, capsys):
    """One step, and an exam of 20 digits by a judge of 200."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(digits, "examine", functools.partial(digits.examine, count=20))
    some = data.load_digits()[range(0, 5000, 4)]
    monkeypatch.setattr(data, "load_digits", lambda: some)
    assert main(["train", "digits", "--out", "my run", "--steps", "1"]) == 0
    said = capsys.readouterr()
    assert "training for 1 steps; my run/log.jsonl" in said.err
    program, flag, code = shlex.split(said.out.splitlines()[-1])
    assert (program, flag) == ("python", "-c")
    exec(code, {})
    with Image.open("my run/9.png") as image:
        assert image.size == (28, 28)
    assert main(["train", "digits", "--out", "my run", "--steps", "2"]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: --steps: got 2, expected 1")


def test_a_model_is_used_by_what_is_printed(tiny_folder: Path, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("my run").mkdir()
    Path("my run/model").symlink_to(tiny_folder)
    say_result(("text", "unet"), Path("my run"), {})
    _, python, _, command = capsys.readouterr().out.splitlines()
    exec(python, {})
    assert main(shlex.split(command)[1:]) == 0
    assert read(Path("out.png"))["prompt"] == read(Path("out-2.png"))["prompt"] == ["a red fox"]


def test_a_stage_is_followed_by_those_that_are_left(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    flags = {"corpus": Path("my corpus.xz"), "teacher": Path("t.pth"), "out": Path("run"), "initial": None, "scenes": 9}
    say_result(("vae",), Path("run"), flags)
    command = shlex.split(capsys.readouterr().out.splitlines()[-1])
    assert command[:5] == ["diffuscope", "train", "vae-finetune", "text", "unet"]
    assert main(command[1:]) == 2  # it is read, up to the first file that is not there
    assert capsys.readouterr().err.startswith("error: --corpus: got 'my corpus.xz'")
    say_result(("examples",), Path("run"), flags | {"initial": Path("emoji"), "as_difference": True})
    assert capsys.readouterr().out.splitlines()[-1].startswith("diffuscope train unet --corpus")
