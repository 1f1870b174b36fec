"""What people type that is no flag here, and what they are told; and the commands that follow."""

import re
from pathlib import Path

import pytest
from PIL import Image

import diffuscope as ds
from diffuscope.cli import COMMANDS, main
from diffuscope.cli.flags import in_flags
from diffuscope.cli.usage import ELSEWHERE, TRAINING
from diffuscope.pipeline import Pipeline
from diffuscope.pipeline.receipt import read
from lora_files import kohya, layers, trained, write

STEPS = ("--steps", "2", "--seed", "1", "--upscale", "1", "--quiet")


def refusal(capsys, *arguments: str) -> str:
    assert main([*arguments]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert len(said.err.splitlines()) == 1
    return said.err


def test_a_prompt_needs_no_quotes(tiny_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.png"
    assert main(["generate", *STEPS, "--model", str(tiny_folder), "-o", str(out), "a", "red fox,", "sitting"]) == 0
    assert read(out)["prompt"] == ["a red fox, sitting"]


@pytest.mark.parametrize(
    ("typed", "write"),
    [
        (("--cfg", "3"), "--guidance-scale 3"),
        (("--cfg-scale=3",), "--guidance-scale 3"),
        (("--num_inference_steps", "20"), "--steps 20"),
        (("--size", "512x384"), "--width 512 --height 384"),
        (("--size", "512"), "--width 512 --height 512"),
        (("-s", "7"), "--seed 7 or --steps 7"),
        (("--lora", "x/ink.safetensors"), "<lora:ink:0.8> in the prompt, and --lora-dir x"),
        (("--half",), "--dtype float16"),
        (("--scale", "3"), "--guidance-scale 3"),
        (("--precision", "full"), "--dtype float32"),
        (("--precision=autocast",), "--dtype float16"),
        (("--precision", "half"), "--dtype float16"),
        (("--precision", "bfloat16"), "--dtype bfloat16"),
        (("--W", "64"), "--width 64"),
        (("--H", "64"), "--height 64"),
        (("-W", "64"), "--width 64"),
        (("-H", "64"), "--height 64"),
        (("--outdir", "x"), "--out x"),
        (("--plms",), "--sampler pndm"),
        (("--sedd", "3"), "--seed"),
        (("--zzz",), "diffuscope generate --help"),
    ],
)
def test_a_flag_of_another_program_is_answered_with_what_to_write(typed, write, capsys) -> None:
    said = refusal(capsys, "generate", "a fox", *typed)
    assert write in said
    assert said.startswith("error: generate has no flag -")


def test_the_answers_are_flags_that_exist(capsys) -> None:
    assert main(["generate", "--help"]) == 0
    known = {*re.findall(r"--[\w-]+", capsys.readouterr().out)}
    assert {flag for text in ELSEWHERE.values() for flag in re.findall(r"--[\w-]+", text)} <= known
    assert not {f"--{name}" for name in ELSEWHERE} & known


@pytest.mark.parametrize(
    ("command", "typed", "write"),
    [
        ("word", "--placeholder_token", "write --word x"),
        ("word", "--seconds", "write --steps x"),
        ("lora", "--resolution", "write --size x"),
        ("lora", "--instance_data_dir", "write the folder itself"),
        ("lora", "--checkpoint", "write --model x"),
        ("lora", "--prompt", "write --caption x"),
        ("imagic", "--instance-prompt", "'--prompt'"),  # it has no captions
        ("imagic", "--num_inference_steps", "write --steps x"),
        ("imagic", "--width", "train imagic --help"),
    ],
)
def test_a_flag_of_a_training_script_is_answered_too(command, typed, write, capsys) -> None:
    assert write in refusal(capsys, "train", command, "a.png", typed, "x")


def test_the_answers_for_trainings_are_flags_that_exist(capsys) -> None:
    for command in ("word", "lora"):
        assert main(["train", command, "--help"]) == 0
    known = {*re.findall(r"--[\w-]+", capsys.readouterr().out)}
    assert {flag for text in TRAINING for flag in re.findall(r"--[\w-]+", text)} <= known
    assert not {f"--{flag}" for flags in TRAINING.values() for flag in flags.split()} & known


def test_a_name_with_spaces_belongs_in_quotes(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my pictures").mkdir()
    assert '"my pictures"' in refusal(capsys, "train", "word", "my", "pictures", "--word", "<x>")
    assert "--help" in refusal(capsys, "train", "word", "my", "picture", "--word", "<x>")


def test_a_prompt_behind_a_flag_and_none_at_all(capsys) -> None:
    assert "the prompt itself" in refusal(capsys, "generate", "--prompt", "a fox")
    assert "diffuscope generate a red fox" in refusal(capsys, "generate")
    assert "PICTURE" in refusal(capsys, "replay")
    assert "a.png, b.png" in refusal(capsys, "replay", "a.png", "b.png")


@pytest.mark.parametrize("command", ["generate", "explain"])
def test_a_file_is_no_prompt(command: str, capsys) -> None:
    assert "diffuscope info fox.png" in refusal(capsys, command, "fox.png")


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (("--mask", "x.png"), ("--image", "--mask")),
        (("--guidance-scale", "1", "--guidance-rescale", "0.7"), ("--guidance-scale", "--guidance-rescale")),
        (("--guidance-shape", "linear"), ("--guidance-shape", "--guidance-end")),
        (
            ("--thresholding-limit", "1", "--thresholding-ratio", "0.5"),
            ("--thresholding-limit", "--thresholding-ratio"),
        ),
        (("--denoising-start", "0.6", "--denoising-end", "0.5"), ("--denoising-start", "--denoising-end")),
        (("--dtype", "fp16"), ("--dtype", "'float16'")),
        (("--steps", "ten"), ("--steps", "from 1 to 1,000")),
    ],
)
def test_a_message_names_flags_and_nothing_of_python(flags, named, tiny_folder: Path, capsys) -> None:
    said = refusal(capsys, "generate", "a fox", "--model", str(tiny_folder), *flags)
    assert all(name in said for name in named)
    assert not re.search(r"[a-z]_[a-z]|None|\w\.\w+=", said.replace(str(tiny_folder), ""))


def test_help_has_no_markup_and_no_names_of_the_parser(capsys) -> None:
    for command in COMMANDS:
        assert main([*command.split(), "--help"]) == 0
        assert not re.search(r"``|\*\*|\{None\}|default: None|texts\.", capsys.readouterr().out), command


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("info", "info needs PATH"),
        ("samplers euler", "samplers does not take euler"),
        ("train", "train needs --corpus PATH, --teacher PATH, --out PATH"),
        ("train digits --out", "--out needs a value"),
        ("train digits --out x --seconds abc", "--seconds: got 'abc', expected FLOAT"),
        ("train q --corpus a --teacher b --out c", "stages: got 'q', expected one of 'vae'"),
        (
            "train words a --word b --like c",
            "stages: got 'words', expected one of 'vae', 'vae-finetune', 'examples', 'text', 'unet'. Did you mean "
            "'train word'?",
        ),
        ("generate a fox --offload", "--offload needs a value"),
        ("generate a fox --guidance-interval 10", "--guidance-interval: got '10', expected FLOAT FLOAT"),
        ("generate a fox --guidance-colour 1 2", "--guidance-colour: got '1', '2', expected FLOAT FLOAT FLOAT"),
    ],
)
def test_what_does_not_parse_is_one_sentence(typed: str, said: str, capsys) -> None:
    words = typed.split()
    command = next(name for name in (" ".join(words[:2]), words[0]) if name in COMMANDS)
    told = refusal(capsys, *words)
    assert told.startswith(f"error: {said}")
    assert told.endswith(f"See `diffuscope {command} --help`\n")


def test_a_command_of_two_words_names_both(capsys) -> None:
    assert "See `diffuscope train word --help`" in refusal(capsys, "train", "word", "a", "b")


def test_messages_and_notes_name_flags(tiny_folder: Path, tmp_path: Path, capsys) -> None:
    style, model = tmp_path / "style.pt", ("--model", str(tiny_folder), "-o", str(tmp_path / "out.png"))
    style.write_bytes(b"PK\x03\x04" + bytes(40))
    said = refusal(capsys, "info", str(style))
    assert "(--allow-pickle)" in said
    assert "True" not in said
    said = refusal(capsys, "generate", "a fox", *model, "--second-device", "cuda:999")
    assert said.startswith("error: --second-device: ")
    assert "folder" in refusal(capsys, "generate", "a fox", *model, "--image", str(tmp_path))
    assert main(["generate", "a fox <lora:ink", *STEPS, *model, "--height", "256"]) == 0
    said = capsys.readouterr().err
    assert "the tag of a LoRA ends with >" in said
    assert in_flags('load it with dtype="float32"') == "load it with --dtype float32"


def test_samplers_are_listed(capsys) -> None:
    assert main(["samplers"]) == 0
    said = capsys.readouterr().out
    assert [line.split()[0] for line in said.split("\n\n")[0].splitlines()[1:]] == list(ds.samplers())
    assert re.search(r"^dpmpp_2m +DPM\+\+ 2M +2 +1 +none$", said, re.MULTILINE)


def test_a_film_shows_every_step(tiny: Pipeline, tiny_folder: Path, tmp_path: Path, capsys) -> None:
    film, model = tmp_path / "fox.gif", ("--model", str(tiny_folder), "-o", str(tmp_path / "out.png"))
    assert main(["generate", "a fox", *STEPS, *model, "--count", "2", "--film", str(film)]) == 0
    with Image.open(film) as shown:
        assert (shown.n_frames, shown.size) == (2, (64, 32))
    capsys.readouterr()
    first = film.read_bytes()
    assert main(["generate", "a fox", *STEPS, *model, "--film", str(film)]) == 0
    capsys.readouterr()
    assert film.read_bytes() == first
    assert film.with_name("fox-2.gif").exists()
    film.with_name("x.gif").mkdir()
    assert "folder" in refusal(capsys, "generate", "a fox", *model, "--film", str(film.with_name("x.gif")))
    assert "film" in refusal(capsys, "generate", "a fox", *model, "--film", str(tmp_path / "fox.avi"))
    assert "gone" in refusal(capsys, "generate", "a fox", *model, "--film", str(tmp_path / "gone" / "fox.gif"))


def test_what_matched_of_a_lora_is_said(tiny: Pipeline, tiny_folder: Path, tmp_path: Path, capsys) -> None:
    write(tmp_path / "ink.safetensors", kohya(layers(tiny, wanted=trained)))
    flags = ("--model", str(tiny_folder), "--lora-dir", str(tmp_path), "-o", str(tmp_path / "out.png"))
    assert main(["generate", "a fox <lora:ink:0.5>", *flags, "--steps", "2"]) == 0
    assert "LoRA 'ink' (kohya): 60 of 60 layers matched" in capsys.readouterr().out


def test_explain_takes_a_lora_an_image_and_a_device(tiny: Pipeline, tiny_folder: Path, tmp_path: Path) -> None:
    write(tmp_path / "ink.safetensors", kohya(layers(tiny, wanted=trained)))
    Image.new("RGB", (32, 32), "red").save(tmp_path / "in.png")
    out = tmp_path / "fox.html"
    flags = ("--lora-dir", str(tmp_path), "--image", str(tmp_path / "in.png"), "--device", "cpu", "--out", str(out))
    model = ("--model", str(tiny_folder), "--steps", "2")
    assert main(["explain", "a", "fox", "<lora:ink:0.5>", *flags, *model]) == 0
    assert "a fox &lt;lora:ink:0.5&gt;" in out.read_text(encoding="utf-8")
