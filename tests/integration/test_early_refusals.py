"""What cannot be is refused before torch is imported, which takes seconds."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from diffuscope.cli import main

SHIPPED = [
    (["--sampler", "magic"], "--sampler: got 'magic'"),
    (["--width", "100"], "--width: got 100, expected a multiple of 8"),
    (["--height", "8192", "--width", "8192"], "--upscale: got 4, so 32768x32768"),
    (["--steps", "ten"], "--steps: got 'ten'"),
    (["--clip-skip", "9"], "--clip-skip: got 9"),
    (["--original-size", "8", "8"], "--original-size: got (8, 8)"),
    (["--image-guidance-scale", "2"], "--image-guidance-scale: got 2.0"),
    (["--seed", "1,2"], "--seed: got (1, 2), expected one whole number, or one per image (1)"),
    (["--dtype", "fp16"], "Write 'float16'"),
    (["--device", "tpu"], "--device: got 'tpu'"),
    (["--family", "sd99"], "--family: got 'sd99'"),
    (["--model", "emojy"], "Did you mean 'emoji'?"),
    (["--models-dir", "missing"], "no folder missing"),
    (["--image", "missing.png"], "--image: got 'missing.png', expected a file that exists"),
    (["--image", "x" * 300], "--image: got"),
    (["--mask", "missing.png"], "--image: got nothing, expected an image file with --mask"),
    (["--embedding", "missing.pt"], "--embedding: got 'missing.pt'"),
    (["--lora-dir", "missing"], "--lora-dir: got 'missing'"),
    (["--out", "missing/out.png"], "there is no folder missing"),
]

RUN = """
import contextlib, io, json, sys
from diffuscope.cli import main
for command, cases in json.loads(sys.argv[1]):
    for flags, wanted in cases:
        said = io.StringIO()
        with contextlib.redirect_stderr(said):
            code = main([command, "a fox", *flags])
        assert code == 2 and wanted in said.getvalue(), (flags, code, said.getvalue())
        assert "torch" not in sys.modules, flags
"""


@pytest.mark.parametrize("layout", ["own", "diffusers"])
def test_no_refusal_waits_for_torch(layout: str, tiny_folder: Path, diffusers_folder: Path, tmp_path: Path) -> None:
    """In one process: what no model can do, what the shipped model cannot, and what a folder's model cannot."""
    model = str(tiny_folder if layout == "own" else diffusers_folder)
    folder = [
        (["--model", model, "--width", "33"], "--width: got 33, expected a multiple of 2"),
        (["--model", model, "--clip-skip", "2"], "expected a whole number from 0 to 1"),
    ]
    shipped = SHIPPED if layout == "own" else []
    cases = json.dumps([("generate", [*shipped, *folder]), ("explain", [*shipped[:5], *folder])])
    done = subprocess.run([sys.executable, "-c", RUN, cases], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("stages", "missing"),
    [
        (["vae-finetune"], "vae/vae.safetensors"),
        (["examples"], "vae-finetune/vae.safetensors"),
        (["unet", "--vae", "a.bin"], "text/towers.safetensors"),
    ],
)
def test_a_stage_without_the_files_of_those_before_it_is_refused(stages, missing, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("a.bin").touch()
    assert main(["train", *stages, "--corpus", "a.bin", "--teacher", "a.bin", "--out", "out"]) == 2
    assert missing in capsys.readouterr().err
