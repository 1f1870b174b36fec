"""``diffuscope info`` of images of other programs, of folders, and of what is none of these."""

import os
import shlex
import tempfile
from pathlib import Path

import pytest
import torch
from PIL import Image

from diffuscope.cli import main
from diffuscope.images import write_png
from diffuscope.pipeline import Pipeline
from diffuscope.pipeline.receipt import read
from diffuscope.weights.store import files
from lora_files import kohya, layers, trained, write

PICTURE = Image.new("RGB", (8, 8))


@pytest.fixture
def library(tiny: Pipeline, tmp_path: Path) -> Path:
    """A folder of ComfyUI with one file of each kind."""
    for name in ("checkpoints", "loras", "embeddings", "vae"):
        (tmp_path / "models" / name).mkdir(parents=True)
    tiny.save(tmp_path / "models" / "checkpoints" / "fox.safetensors", layout="single")
    write(tmp_path / "models" / "loras" / "ink.safetensors", kohya(layers(tiny, wanted=trained)))
    write(tmp_path / "models" / "embeddings" / "old.safetensors", {"emb_params": torch.ones(2, 32)})
    files.write(tmp_path / "models" / "vae" / "better.safetensors", tiny.vae.state_dict())
    return tmp_path


def test_a_folder_is_listed_by_what_its_files_are(library: Path, capsys) -> None:
    (library / "models" / "loras" / "torn.safetensors").write_bytes(b"?")
    (library / "models" / "loras" / "old.pt").touch()
    assert main(["info", str(library)]) == 0
    heading = ""
    kinds = {}
    for line in capsys.readouterr().out.splitlines()[1:]:
        heading = line if line and not line.startswith(" ") else heading
        if line.startswith(" "):
            kinds[Path(line.split()[0]).name] = heading.split()[0]
    assert kinds == {
        "fox.safetensors": "models",
        "ink.safetensors": "LoRAs",
        "old.safetensors": "embeddings",
        "better.safetensors": "VAEs",
        "torn.safetensors": "not",
        "old.pt": "pickled,",
    }


def test_headings_have_the_flags_that_work_for_that_folder(library: Path, capsys) -> None:
    headings = []
    for folder in (library, library / "models" / "checkpoints", library / "models" / "loras"):
        assert main(["info", str(folder)]) == 0
        lines = capsys.readouterr().out.splitlines()[1:]
        headings.append({line.split()[0]: line for line in lines if line and not line.startswith(" ")})
    assert all("--models-dir FOLDER" in heading for heading in headings[0].values())
    assert headings[1] == {"models": "models (--model PATH)"}
    assert headings[2] == {"LoRAs": "LoRAs (<lora:NAME:0.8> in the prompt, --lora-dir FOLDER)"}


def test_a_single_file_has_its_preset(library: Path, tiny: Pipeline, capsys) -> None:
    assert main(["info", str(library / "models" / "checkpoints" / "fox.safetensors")]) == 0
    preset = tiny.config.preset
    wanted = f"preset: {preset.width}x{preset.height}, {preset.num_inference_steps} steps of {preset.sampler}, "
    assert wanted in capsys.readouterr().out


def test_the_command_of_another_program_s_image_makes_one(library: Path, tmp_path: Path, capsys) -> None:
    settings = "Steps: 3, Sampler: Euler a, Schedule type: Karras, CFG scale: 2.5, Seed: 7, Size: 32x40, Model: fox"
    path = write_png(
        tmp_path / "theirs.png",
        PICTURE,
        {"parameters": f"it's a <fox>\nNegative prompt: blue\n{settings}, Model hash: ab, Face restoration: CodeFormer",
         "Author": "someone"},
    )  # fmt: skip
    assert main(["info", str(path)]) == 0
    said = capsys.readouterr().out
    assert "not used: Model hash: ab" in said
    assert "not used: Face restoration: CodeFormer" in said
    assert "Author: someone" in said
    (line,) = (line for line in said.splitlines() if line.startswith("  diffuscope generate"))
    words = shlex.split(line)[1:]
    words[words.index("FOLDER")] = str(library)
    assert main([*words, "--out", str(tmp_path / "ours.png"), "--quiet"]) == 0
    made = read(tmp_path / "ours.png")
    wanted = {"prompt": ["it's a <fox>"], "negative_prompt": ["blue"], "num_inference_steps": 3, "width": 32}
    wanted |= {"height": 40, "sampler": "euler_ancestral", "sigmas": "karras", "guidance_scale": 2.5, "seed": [7]}
    assert {name: made[name] for name in wanted} == wanted


def test_replay_finds_model_and_vae_by_the_names_in_the_receipt(library: Path, tmp_path: Path, capsys) -> None:
    out, flags = tmp_path / "out.png", ["--models-dir", str(library)]
    call = ["generate", "fox <lora:ink:0.5>", *flags, "--model", "fox", "--vae", "better", "--seed", "1", "--quiet"]
    assert main([*call, "--out", str(out)]) == 0
    assert read(out)["model_file"] == "fox.safetensors"
    assert main(["replay", str(out), *flags]) == 0
    assert "identical: every pixel is the same" in capsys.readouterr().out
    assert main(["info", str(out)]) == 0
    assert ", Model: fox, VAE: better.safetensors, " in capsys.readouterr().out
    assert main(["replay", str(out)]) == 2
    assert "'fox.safetensors'" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["{outside}/fox.safetensors", "../fox.safetensors", "owner/name", "\0", "x" * 5000])
def test_a_stranger_s_receipt_opens_no_file_but_those_in_the_folder(
    library: Path, tiny: Pipeline, tmp_path: Path, name: str, capsys
) -> None:
    outside = tmp_path / "fox.safetensors"
    outside.write_bytes(b"must not be opened")
    result = tiny("fox", seed=1)
    result.receipt["model_file"] = name.format(outside=tmp_path)
    (path,) = result.save(tmp_path / "out.png")
    assert main(["replay", str(path), "--models-dir", str(library)]) == 2
    assert "error: no model " in capsys.readouterr().err


def test_every_text_of_an_image_is_shown_or_named(tiny: Pipeline, tmp_path: Path, capsys) -> None:
    """Beside a receipt too."""
    result = tiny("a fox", seed=1)
    (path,) = result.save(tmp_path / "out.png")
    from diffuscope.metadata import read_texts

    write_png(path, result.images[0], read_texts(path).texts | {"Author": "x" * 1000})
    assert main(["info", str(path)]) == 0
    said = capsys.readouterr().out
    assert f"  Author: {'x' * 100} ... (1,000 characters)" in said
    assert '"prompt": ["a fox"]' in said


@pytest.mark.parametrize("name", ["nope.png", "nope.JPG", "nope.safetensors", "x" * 5000, "a\0b.png"])
def test_what_is_not_there(name: str, capsys) -> None:
    assert main(["info", name]) == 2
    assert len(capsys.readouterr().err) < 2000


def test_a_missing_image_is_no_such_file(capsys) -> None:
    assert main(["info", "nope.png"]) == 2
    assert "nope.png: no such file" in capsys.readouterr().err


def test_surrogates_in_names_and_prompts(tmp_path: Path, capsys) -> None:
    """Python reads them from JSON; no terminal takes them."""
    path = write_png(
        tmp_path / "a.png", PICTURE, {"invokeai_metadata": '{"positive_prompt": "\\ud800", "x": "\\udfff"}'}
    )
    assert main(["info", str(path)]) == 0
    header = b'{"\\ud800":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"__metadata__":{"a":"\\ud800"}}'
    weights = tmp_path / "a.safetensors"
    weights.write_bytes(len(header).to_bytes(8, "little") + header + b"\0")
    assert main(["info", str(weights)]) in {0, 2}
    assert "\ud800" not in "".join(capsys.readouterr())


def test_folders_without_the_right_to_read(capsys) -> None:
    if os.geteuid() != 0:
        pytest.skip("another user's folder is needed")
    with tempfile.TemporaryDirectory() as name:  # not tmp_path: the folders above that one may be closed to others
        Path(name).chmod(0o755)
        locked, generate = Path(name, "locked"), ["generate", "fox", "--out", str(Path(name, "never.png"))]
        locked.mkdir(mode=0o700)
        commands = [
            ["info", str(locked)],
            ["info", str(locked / "a.png")],
            ["info", str(locked / "a.safetensors")],
            [*generate, "--model", str(locked)],
            [*generate, "--model", "fox", "--models-dir", str(locked)],
        ]
        for command in commands:  # Python itself may be closed to others, so what a command imports is imported before
            main(command)
        capsys.readouterr()
        os.seteuid(65534)
        try:
            try:
                locked.stat()
            except PermissionError:
                pytest.skip("the folder for temporary files is closed to other users")
            codes = [main(command) for command in commands]
        finally:
            os.seteuid(0)
    assert codes == [2] * 5
    err = capsys.readouterr().err
    assert "Traceback" not in err
    assert err.count("permission denied") >= 3
