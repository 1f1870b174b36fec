"""The commands, run as a person runs them."""

import json
import os
import re
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

import diffuscope as ds
from diffuscope.cli import COMMANDS, main
from diffuscope.images import image_hash, open_image, write_png
from diffuscope.metadata import read_texts
from diffuscope.pipeline import Pipeline
from diffuscope.pipeline.receipt import read
from lora_files import kohya, layers, trained, write
from narrow import made


def test_generate_writes_what_a_call_makes(tiny: Pipeline, tiny_folder: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out.png"
    flags = ["--model", str(tiny_folder), "--seed", "7", "--count", "2", "--steps", "3", "--guidance-scale", "2"]
    flags += ["--negative-prompt", "blue", "--sampler", "Euler a", "--upscale", "4", "--out", str(out)]
    flags += [
        "--sampler-options",
        "eta=0.5",
        "--final-sigma",
        "sigma_min",
        "--thresholding-ratio",
        "0.9",
        "--thresholding-max-value",
        "2",
    ]
    assert main(["generate", "a red fox", *flags]) == 0
    said = capsys.readouterr()
    assert said.out.splitlines() == [
        f"{tmp_path / 'out-0.png'}  128x128  seed 7",
        f"{tmp_path / 'out-1.png'}  128x128  seed 8",
    ]
    assert "0/3" in said.err  # the progress bar
    result = tiny(
        "a red fox",
        seed=7,
        num_images_per_prompt=2,
        num_inference_steps=3,
        guidance_scale=2,
        negative_prompt="blue",
        sampler="euler_ancestral",
        sampler_options={"eta": 0.5},
        final_sigma="sigma_min",
        thresholding={"ratio": 0.9, "max_value": 2},
        upscale=4,
    )
    for k, image in enumerate(result.images):
        assert image_hash(open_image(tmp_path / f"out-{k}.png")) == image_hash(image)
    assert read(tmp_path / "out-1.png") == result.receipt | {"image_index": 1, "model_file": "tiny"}


def test_commas_part_numbers_and_no_texts(tiny_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.png"
    call = [
        "generate",
        "a fox, sitting",
        "--negative-prompt",
        "blue, red",
        "--model",
        str(tiny_folder),
        "--out",
        str(out),
    ]
    assert main([*call, "--sigmas", "5,1,0", "--sampler", "euler", "--seed", "7", "--upscale", "1"]) == 0
    receipt = read(out)
    assert (receipt["prompt"], receipt["negative_prompt"]) == (["a fox, sitting"], ["blue, red"])
    assert receipt["sigmas"] == [5.0, 1.0, 0.0]


def test_generate_guides_in_other_ways_and_replays(tiny: Pipeline, tiny_folder: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out.png"
    call = ["generate", "a red fox", "--model", str(tiny_folder), "--seed", "7", "--steps", "3", "--out", str(out)]
    flags = ["--guidance-scale", "4", "--guidance-norm", "whole", "--guidance-end", "0", "--guidance-shape", "cosine"]
    flags += ["--guidance-interval", "0.1", "9", "--guidance-colour", "0.1", "0.9", "0.5"]
    flags += ["--guidance-colour-scale", "3", "--guidance-colour-low", "0.2"]
    assert main([*call, *flags]) == 0
    assert read(out)["guidance_options"] == {
        "norm": "whole",
        "end": 0.0,
        "shape": "cosine",
        "interval": [0.1, 9.0],
        "colour": [0.1, 0.9, 0.5],
        "colour_scale": 3.0,
        "colour_low": 0.2,
    }
    assert main(["replay", str(out), "--model", str(tiny_folder)]) == 0
    assert capsys.readouterr().out.endswith("identical: every pixel is the same\n")
    assert main([*call, "--guidance-scale", "1", "--guidance-rescale", "0.7"]) == 2
    assert re.search("guidance[-_]scale", capsys.readouterr().err)


def test_generate_from_an_image_quietly_without_metadata(tiny_folder: Path, tmp_path: Path, capsys) -> None:
    start = tmp_path / "in.png"
    Image.new("RGB", (64, 64), "red").save(start)
    out, preview = tmp_path / "out.png", tmp_path / "preview.png"
    flags = ["--model", str(tiny_folder), "--image", str(start), "--strength", "0.5", "--no-metadata", "--quiet"]
    assert main(["generate", "fox", *flags, "--preview", str(preview), "-o", str(out)]) == 0
    said = capsys.readouterr()
    assert said.out == said.err == ""
    assert read_texts(out).texts == {}
    assert open_image(preview).size == open_image(out).size == (32, 32)


def test_branch(tiny: Pipeline, tiny_folder: Path, tmp_path: Path, capsys) -> None:
    """Go on from a step of an image with a flag changed; its file is replayed, and branched again."""
    (fox,) = tiny("a red fox", seed=5, guidance_options={"rescale": 0.5}).save(tmp_path / "fox.png")
    blue, again = tmp_path / "blue.png", tmp_path / "again.png"
    model = ["--model", str(tiny_folder)]
    flags = ["--step", "2", "--prompt", "a blue fox", "--guidance-end", "2", "--out", str(blue), "--quiet"]
    assert main(["branch", str(fox), *flags, *model]) == 0
    receipt = read(blue)
    assert receipt["prompt"] == ["a blue fox"]
    assert receipt["guidance_options"] == {"rescale": 0.5, "end": 2.0}
    assert receipt["branch"]["step"] == 2
    assert receipt["checks"][0] == read(fox)["checks"][0]
    capsys.readouterr()
    assert main(["replay", str(blue), *model]) == 0
    assert "identical: every pixel is the same" in capsys.readouterr().out
    assert main(["branch", str(blue), "--step", "3", "--sampler", "euler", "--out", str(again), *model]) == 0
    assert read(again)["branch"]["request"]["branch"]["step"] == 2
    assert main(["branch", str(blue), "--step", "9", *model]) == 2
    assert "--step: got 9, expected a step from 0 to 3" in capsys.readouterr().err
    assert main(["branch", str(blue), "--seed", "9", *model]) == 2
    assert "no flag --seed" in capsys.readouterr().err


def test_generate_and_replay_with_a_mask(tiny: Pipeline, tiny_folder: Path, tmp_path: Path, capsys) -> None:
    start, mask, out = (tmp_path / name for name in ("in.png", "mask.png", "out.png"))
    picture, white = Image.effect_noise((32, 32), 60).convert("RGB"), Image.new("L", (32, 32))
    white.paste(255, (8, 8, 24, 24))
    picture.save(start)
    white.save(mask)
    given = ["--model", str(tiny_folder), "--image", str(start), "--mask", str(mask)]
    flags = ["--strength", "1", "--clip-skip", "1", "--seed", "3", "--quiet", "--out", str(out)]
    assert main(["generate", "fox", *given, *flags]) == 0
    result = tiny("fox", image=picture, mask_image=white, strength=1.0, clip_skip=1, seed=3)
    assert image_hash(open_image(out)) == image_hash(result.images[0])
    assert main(["replay", str(out), *given]) == 0
    assert "identical: every pixel is the same" in capsys.readouterr().out
    assert main(["generate", "fox", "--model", str(tiny_folder), "--mask", str(mask), "--out", str(out)]) == 2
    assert "mask" in capsys.readouterr().err


def test_a_prompt_that_is_too_long_is_said_and_drawn(tiny_folder: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out.png"
    prompt = "cat " * 75 + "Red hen"
    assert main(["generate", prompt, "--model", str(tiny_folder), "--quiet", "--out", str(out)]) == 0
    assert capsys.readouterr().err.startswith(
        "warning: the prompt has 77 tokens and 75 fit; the model does not see these words: 'Red hen'\n"
    )
    assert out.exists()


def test_replay(tiny_folder: Path, tmp_path: Path, capsys) -> None:
    (path,) = ds.load(tiny_folder)("fox", seed=1).save(tmp_path / "out.png")
    again = tmp_path / "again.png"
    assert main(["replay", str(path), "--model", str(tiny_folder), "--out", str(again)]) == 0
    assert capsys.readouterr().out == f"identical: every pixel is the same\n{again}\n"
    assert image_hash(open_image(again)) == image_hash(open_image(path))
    assert read(again) == read(path)
    assert main(["replay", str(path)]) == 2
    assert "'tiny'" in capsys.readouterr().err


def test_info(tiny: Pipeline, tiny_folder: Path, tmp_path: Path, capsys) -> None:
    assert main(["info", str(tiny_folder)]) == 0
    said = capsys.readouterr().out
    assert "the model 'tiny', in our layout" in said
    assert "unet:" in said
    assert main(["info", str(tiny.save(tmp_path / "theirs"))]) == 0
    assert "in the layout of diffusers" in capsys.readouterr().out
    assert main(["info", str(tiny_folder / "vae.safetensors")]) == 0
    assert f"{len(tiny.vae.state_dict())} tensors" in capsys.readouterr().out
    result = tiny("fox", seed=1)
    (path,) = result.save(tmp_path / "out.png")
    assert main(["info", str(path)]) == 0
    said = capsys.readouterr().out
    assert "Steps: 4, Sampler: DDIM" in said
    assert json.loads(said[said.index("{") :]) == read(path)
    result.receipt["notes"] += ["begin" + "a" * 5000 + "end"]
    result.save(path)
    assert main(["info", str(path)]) == 0
    said = capsys.readouterr().out
    (notes,) = (line for line in said.splitlines() if line.startswith('  "notes"'))
    assert "begin" in notes
    assert notes.removesuffix(",").endswith('end"]')
    assert len(notes) < 2100
    assert "long entries are cut" in said
    Image.new("RGB", (2, 2)).save(path)
    assert main(["info", str(path)]) == 0
    assert "no receipt" in capsys.readouterr().out


def test_info_of_a_folder_says_which_family_and_why(tmp_path: Path, capsys) -> None:
    """Of families of equal shapes the one that predicts what the folder's scheduler says."""
    assert main(["info", str(made("sd21-v").save(tmp_path / "model"))]) == 0
    said = capsys.readouterr().out
    assert "predicts v" in said
    assert "family: tiny-sd21-v\n" in said
    assert "because its U-Net takes 32-dim text embeddings" in said
    assert "text_encoder: " in said
    assert " F32, " in said
    assert len(said.splitlines()) < 25


def test_info_names_what_a_scheduler_file_says_in_vain(folder: Path, capsys) -> None:
    path = folder / "scheduler/scheduler_config.json"
    document = json.loads(path.read_text())
    path.write_text(json.dumps(document | {"steps_offset": 0, "skip_prk_steps": True, "flow_shift": 3.0}))
    assert main(["info", str(folder)]) == 0
    said = capsys.readouterr().out
    assert "scheduler/scheduler_config.json is outdated: steps_offset 0 is read as 1" in said
    for key in ("skip_prk_steps", "flow_shift"):
        assert f"without effect: scheduler/scheduler_config.json: {key}\n" in said


def test_info_leaves_the_terminal_alone(tmp_path: Path, capsys) -> None:
    path = write_png(tmp_path / "out.png", Image.new("RGB", (2, 2)), {"parameters": "a\x1b]0;title\x07 fox\x9b2J\nb"})
    assert main(["info", str(path)]) == 0
    assert "a\ufffd]0;title\ufffd fox\ufffd2J\nb" in capsys.readouterr().out


@pytest.mark.parametrize("what", ["gone", "gone.png", "gone.safetensors"])
def test_info_of_nothing(what: str, capsys) -> None:
    assert main(["info", what]) == 2
    assert "gone" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("policy", "spins", "mark"),
    [("", "1000", "ok"), ("passive", "", "ok"), ("ACTIVE", "1000", "note"), ("", "", "note"), ("", "999999", "note")],
)
def test_doctor_knows_how_threads_wait(monkeypatch: pytest.MonkeyPatch, policy: str, spins: str, mark: str) -> None:
    from diffuscope.cli import doctor

    for name, value in (("OMP_WAIT_POLICY", policy), ("GOMP_SPINCOUNT", spins)):
        monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name, raising=False)
    assert [found for found, _ in doctor._waiting()] == [mark]


def test_a_call_says_that_threads_keep_cores_which_others_use(tiny: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (99.0, 0.0, 0.0), raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.delenv(name, raising=False)
    assert any("OMP_WAIT_POLICY=passive" in note for note in tiny("a fox", seed=1).notes) is (sys.platform == "linux")
    monkeypatch.setenv("GOMP_SPINCOUNT", "1000")
    assert not any("OMP_WAIT_POLICY" in note for note in tiny("a fox", seed=1).notes)


def test_what_is_served_is_run_by_its_twins(tiny_folder: Path) -> None:
    from diffuscope.cli.generate import AdapterFlags
    from diffuscope.cli.serve import opened

    for fast, wanted in ((None, True), (False, False)):
        source = ds.ModelSource(str(tiny_folder), device="cpu", fast=fast)
        assert opened(source, AdapterFlags()).engine.wanted is wanted


def test_doctor_knows_what_is_faster_on_this_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    from diffuscope.cli import doctor

    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    for known, version in ((True, None), (False, "2026.4.1")):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda known=known: known)
        monkeypatch.setattr(doctor, "_version", lambda _, version=version: version)
        (_, first), (mark, second) = doctor._halves()
        assert ("bfloat16" in first) is known
        assert "--backend openvino" in second
        assert mark == ("note" if version is None else "ok")


def test_doctor(capsys) -> None:
    assert main(["doctor"]) == 0
    said = capsys.readouterr().out
    assert "torch" in said
    assert "device auto is" in said
    assert "broken" not in said


def test_help_lists_every_command(capsys) -> None:
    assert main(["--help"]) == 0
    said = capsys.readouterr().out
    assert all(f"  {name} " in said for name in COMMANDS)
    assert main([]) == 2
    assert main(["--version"]) == 0


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name: str, capsys) -> None:
    assert main([*name.split(), "--help"]) == 0
    assert f"usage: diffuscope {name}" in capsys.readouterr().out


def test_an_unknown_command_or_flag(capsys) -> None:
    assert main(["generat"]) == 2
    assert "did you mean 'generate'?" in capsys.readouterr().err
    assert main(["generate", "fox", "--stepz", "3"]) == 2
    assert "--stepz" in capsys.readouterr().err
    assert main(["generate"]) == 2


def test_our_own_fault_is_exit_code_1(capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(COMMANDS, "broken", ("diffuscope.cli.gone:gone", "a command whose module is missing"))
    assert main(["broken"]) == 1
    said = capsys.readouterr().err
    assert "Traceback" in said
    assert "bug in diffuscope" in said


def test_data_build_says_what_is_wrong(tmp_path: Path, capsys) -> None:
    assert main(["data", "build", "--folder", str(tmp_path), "--out", str(tmp_path / "c.xz")]) == 2
    assert str(tmp_path) in capsys.readouterr().err
    assert main(["data", "build", "--folder", str(tmp_path), "--out", str(tmp_path / "gone" / "c.xz")]) == 2
    assert "gone" in capsys.readouterr().err
    assert main(["data"]) == 2
    assert "data build" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_train_says_what_is_missing(tmp_path: Path, capsys) -> None:
    files = ["--corpus", str(tmp_path / "corpus.xz"), "--teacher", str(tmp_path / "t.pth"), "--out", str(tmp_path)]
    assert main(["train", *files]) == 2
    assert "stage" in capsys.readouterr().err
    assert main(["train", "vae", *files]) == 2
    assert "corpus.xz" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_difference_needs_a_shipped_model_to_begin_with(tmp_path: Path, capsys) -> None:
    (tmp_path / "corpus.xz").touch()
    files = [f"--corpus={tmp_path / 'corpus.xz'}", f"--teacher={tmp_path / 'corpus.xz'}", f"--out={tmp_path}"]
    for initial in ([], [f"--initial={tmp_path}"]):
        assert main(["train", "unet", *files, *initial, "--as-difference"]) == 2
        assert "a shipped model for a difference: emoji" in capsys.readouterr().err.replace("\n", " ")


def test_generate_with_another_program_s_folder(tiny: Pipeline, tmp_path: Path, capsys) -> None:
    for name in ("checkpoints", "loras", "embeddings"):
        (tmp_path / "models" / name).mkdir(parents=True)
    tiny.save(tmp_path / "models" / "checkpoints" / "fox.safetensors", layout="single")
    alien = {f"lora_unet_blocks_9.lora_{half}.weight": torch.ones(2, 2) for half in ("up", "down")}
    lora = kohya(layers(tiny, wanted=trained)) | alien
    write(tmp_path / "models" / "loras" / "ink.safetensors", lora)
    write(tmp_path / "models" / "embeddings" / "old.safetensors", {"emb_params": torch.ones(2, 32)})
    write(tmp_path / "mine.safetensors", {"<mine>": torch.ones(1, 32)})
    out = tmp_path / "out.png"
    flags = ["--models-dir", str(tmp_path), "--model", "fox", "--embedding", str(tmp_path / "mine.safetensors")]
    assert main(["generate", "an Old fox <lora:ink:0.5>", *flags, "--seed", "1", "-o", str(out)]) == 0
    said = capsys.readouterr()
    assert "embedding '<mine>': 1 vector" in said.out
    assert "embedding 'old': 2 vectors" in said.out
    assert "warning: LoRA 'ink' (kohya): 60 of 61 layers matched" in said.err
    found = read(out)
    assert found["prompt"] == ["an Old fox <lora:ink:0.5>"]
    assert [each["word"] for each in found["embeddings"]] == ["old"]
    assert main(["generate", "<lora:imk>", "--models-dir", str(tmp_path), "--model", "fox"]) == 2
    err = capsys.readouterr().err
    assert "imk" in err
    assert "'ink'" in err


def test_generate_and_replay_with_a_folder_of_loras(tiny: Pipeline, tiny_folder: Path, tmp_path: Path, capsys) -> None:
    write(tmp_path / "ink.safetensors", kohya(layers(tiny, wanted=trained)))
    out, model = tmp_path / "out.png", ["--model", str(tiny_folder)]
    flags = [*model, "--lora-dir", str(tmp_path)]
    assert main(["generate", "a fox <lora:ink:0.5>", *flags, "--seed", "1", "-o", str(out)]) == 0
    assert main(["replay", str(out), *flags]) == 0
    assert "identical: every pixel is the same" in capsys.readouterr().out
    assert main(["replay", str(out), *model]) == 2
    assert "'ink'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("wrong", "begins"),
    [
        (("--steps", "0"), "error: --steps"),
        (("--count", "0"), "error: --count"),
        (("--guidance-scale", "nan"), "error: --guidance-scale"),
        (("--model", "num_inference_steps"), "error: "),
    ],
)
def test_an_error_begins_with_the_flag_and_shows_its_value(wrong, begins, tmp_path, capsys):
    assert main(["generate", "a fox", f"--out={tmp_path / 'fox.png'}", *wrong]) == 2
    err = capsys.readouterr().err
    assert err.startswith(begins)
    assert wrong[1] in err
    assert not list(tmp_path.iterdir())
