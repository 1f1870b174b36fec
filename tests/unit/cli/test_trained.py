"""What a training prints at its end is run: the line of Python, and the command; and what it says before."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from diffuscope.cli import main
from diffuscope.cli.trained import quoted
from diffuscope.pipeline.receipt import read

SHORT = ("--batch-size", "2", "--steps", "4")
WORDS = [
    "",
    "a b",
    "it's",
    "<lora:x y>",
    'say "x"',
    "$HOME",
    "`id`",
    "a\\b",
    "wow!",
    "käuz chen",
    "a;b",
    "~",
    "*",
    "#x",
]


@pytest.fixture
def place(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with a model and a picture whose names have a space and an umlaut."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_folder, "my model")
    Path("my pictures").mkdir()
    Image.new("RGB", (40, 40), "purple").save("my pictures/Käuz chen.png")
    return tmp_path


def taught(capsys, *arguments: str) -> tuple[str, str]:
    """What ``train`` printed last: Python and the command."""
    assert main(["train", *arguments, "--model", "my model", *SHORT, "--dtype", "float32", "--quiet"]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    *_, title, python, other, command = said.out.splitlines()
    assert (title, other) == ("In Python:", "As a command:")
    return python, command


def run(python: str, command: str) -> dict[str, object]:
    """Run both; the receipt of the command's image."""
    exec(python, {})
    assert read(Path("out.png"))["dtype"] == "float32"
    program, *arguments = shlex.split(command)
    assert program == "diffuscope"
    assert main(arguments) == 0
    return read(Path("out-2.png"))


@pytest.mark.parametrize("style", [False, True])
def test_a_word_is_drawn_by_what_is_printed(place, capsys, style):
    flags = ("--word", "<käuz>", "--like", "ball", "--lr", "0.05", "-o", "mein Käuz.safetensors")
    receipt = run(*taught(capsys, "word", "my pictures", *flags, *["--style"] * style))
    assert [each["word"] for each in receipt["embeddings"]] == ["<käuz>"]
    assert receipt["prompt"] == ["a picture, <käuz> style" if style else "a <käuz>"]


@pytest.mark.parametrize("caption", ["a zeb ball", "-x", 'a "zeb" $ball'])
def test_a_lora_is_used_by_what_is_printed(place, capsys, caption):
    Path("mine").mkdir()
    flags = (f"--caption={caption}", "--lr", "0.01", "-o", "mine/my zeb.safetensors")
    receipt = run(*taught(capsys, "lora", "my pictures/Käuz chen.png", *flags))
    assert [each["name"] for each in receipt["loras"]] == ["my zeb"]
    assert receipt["prompt"][0].strip() == f"{caption} <lora:my zeb>"


def test_an_imagic_is_used_by_what_is_printed(place, capsys):
    flags = ("--prompt", "a red ball", "--embedding-steps", "4", "--embedding-lr", "0.05", "--lr", "0.01")
    receipt = run(*taught(capsys, "imagic", "my pictures/Käuz chen.png", *flags, "-o", "red.safetensors"))
    assert [each["name"] for each in receipt["loras"]] == ["red"]
    assert receipt["prompt"] == ["a red ball <lora:red>"]


def test_a_sheet_is_drawn_and_replaces_nothing_unasked(place, capsys):
    picture, before = Path("my pictures/Käuz chen.png"), Path("my pictures/Käuz chen.png").read_bytes()
    flags = ["train", "imagic", str(picture), "--prompt", "a red ball", "--model", "my model", *SHORT]
    assert main([*flags, "--sheet", str(picture)]) == 2
    assert "exists; give another name for the sheet" in capsys.readouterr().err
    flags += ["--embedding-steps", "4", "--embedding-lr", "0.05", "--lr", "0.01", "--sheet", "my sheet.png"]
    assert main(flags) == 0
    assert "drawing 11 pictures for the sheet" in capsys.readouterr().err
    with Image.open("my sheet.png") as drawn:
        assert drawn.width > 11 * 32
    assert main(flags) == 2
    assert main([*flags, "--overwrite"]) == 0
    assert picture.read_bytes() == before


def test_a_shell_reads_a_word_as_it_was():
    done = subprocess.run(
        ["sh", "-c", f"printf '%s\\n' {' '.join(map(quoted, WORDS))}"], capture_output=True, text=True, check=True
    )
    assert done.stdout.split("\n")[:-1] == WORDS
    assert quoted("a <fox>") == '"a <fox>"'  # single quotes mean nothing to the command prompt of Windows


def test_the_prompt_of_imagic_is_named_as_its_flag(place, capsys):
    assert main(["train", "imagic", "my pictures"]) == 2
    assert capsys.readouterr().err.startswith("error: --prompt: got none")
    assert main(["train", "imagic", "my pictures/none.png", "--prompt", "a ball", "--model", "my model"]) == 2
    assert capsys.readouterr().err.startswith("error: pictures: got")
    shutil.copy("my pictures/Käuz chen.png", "my pictures/b.png")
    assert main(["train", "imagic", "my pictures", "--prompt", "a ball", "--model", "my model"]) == 2
    assert capsys.readouterr().err.startswith("error: picture: got 'my pictures', expected one")


def test_texts_that_do_not_fit_are_said(place, capsys):
    flags = ("--caption", "ball " * 90, "--prior", "cup " * 91, "--prior-count", "2", "--lr", "0.01")
    assert main(["train", "lora", "my pictures", "--model", "my model", *SHORT, *flags]) == 0
    said = capsys.readouterr().err
    assert re.search(r"the caption of Käuz chen\.png has 90 tokens and 75 fit.*\n.*the prior has 91 tokens", said)
    flags = (
        "--prompt",
        "ball " * 92,
        "--embedding-steps",
        "4",
        "--embedding-lr",
        "0.05",
        "--lr",
        "0.01",
        "-o",
        "e.safetensors",
    )
    assert main(["train", "imagic", "my pictures", "--model", "my model", *SHORT, *flags]) == 0
    assert "the prompt has 92 tokens and 75 fit" in capsys.readouterr().err


def test_the_name_of_a_lora_can_stand_in_a_prompt(place, capsys):
    for name in ("a:b", "a>b", " a"):
        assert (
            main(["train", "lora", "my pictures", "--caption", "x", "--model", "my model", "-o", f"{name}.safetensors"])
            == 2
        )
        assert "<lora:NAME:WEIGHT>" in capsys.readouterr().err
