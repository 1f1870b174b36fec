"""The command line is an interface: its flags are frozen here, and both ways to start it work."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from diffuscope.cli import COMMANDS, main
from house.places import assert_none

GUIDANCE = (
    "guidance-scale image-guidance-scale guidance-rescale guidance-norm guidance-end guidance-shape guidance-interval "
    "guidance-colour guidance-colour-scale guidance-colour-low "
    "guidance-similarity guidance-similarity-scale guidance-similarity-low guidance-exact"
)
SAMPLING = (
    "seed steps sampler sampler-options step-caching token-merging sigmas final-sigma thresholding-limit "
    f"thresholding-ratio thresholding-max-value {GUIDANCE} height width"
)
BRANCHED = SAMPLING.removeprefix("seed ").removesuffix(" height width")
SIZES = "original-size crops-coords-top-left target-size"
PROMPT = "negative-prompt prompt-syntax clip-skip"
IMAGES = "strength image mask denoising-start denoising-end original-size crops-coords-top-left target-size"
OPENING = "device dtype family vae prediction zero-snr fast backend second-device offload models-dir allow-pickle"
TRAINING = "batch-size seed size min-snr-gamma max-grad-norm gradient-checkpointing overwrite"
FLAGS = {
    "generate": f"{PROMPT} count batch-size {SAMPLING} upscale {IMAGES} branch-file model {OPENING} "
    "lora-dir embedding out overwrite preview film no-metadata quiet",
    "batch": f"out ray workers quiet model {OPENING} lora-dir embedding",
    "info": "allow-pickle",
    "verify": "device family vae prediction zero-snr fast backend second-device offload models-dir allow-pickle out "
    "steps",
    "replay": f"out overwrite image mask model {OPENING} lora-dir embedding",
    "branch": f"step prompt {PROMPT} {BRANCHED} upscale {SIZES} image mask model {OPENING} lora-dir embedding "
    "out overwrite preview film no-metadata quiet",
    "serve": f"host port allowed-host running queue per-caller drain exact {OPENING} lora-dir embedding",
    "lab": f"port no-browser {OPENING} lora-dir embedding",
    "samplers": "",
    "schema": "",
    "explain": f"{PROMPT} batch-size {SAMPLING} {IMAGES} model {OPENING} lora-dir embedding out",
    "inspect": f"{PROMPT} {SAMPLING} strength image mask branch-file model {OPENING} lora-dir embedding "
    "kind options out",
    "data build": "folder out attribution",
    "train": "corpus teacher out vae initial seconds stop-after scenes as-difference device",
    "train digits": "out seconds steps device",
    "train fashion": "out folder seconds steps device",
    "train word": f"out quiet word like vectors style steps lr {TRAINING} model {OPENING}",
    "train lora": "out quiet caption prior prior-count prior-weight rank alpha targets text-encoder dialect steps lr "
    f"{TRAINING} model {OPENING}",
    "train imagic": "out quiet prompt rank targets embedding-steps embedding-lr steps lr prior-count sheet "
    f"{TRAINING} model {OPENING}",
    "eval": "towers count only guidance-scale out sheet corpus teacher model classifier device dtype",
    "eval sheet": "model out device dtype",
    "eval preset": "count calls guidance-scale sampler out corpus teacher model classifier device dtype",
    "eval classifier": "corpus out seconds batch device",
    "bench": f"height width steps batch seconds random no-peers compile json page {OPENING}",
    "doctor": "",
}
"""A new flag is added here too, on purpose; one that is gone breaks somebody's script."""


def test_commands_and_flags_are_those_that_were_agreed(capsys, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", "80")  # wider, and groups of flags stand side by side
    assert list(COMMANDS) == list(FLAGS)
    flags = {}
    for command in FLAGS:
        assert main([*command.split(), "--help"]) == 0
        page = capsys.readouterr().out
        names = re.findall(r"^[^\w-]*(?:-\w(?: \S+)?, )?--([a-z][a-z-]*)", page, re.MULTILINE)
        flags[command] = " ".join(name for name in names if name != "help")
    assert_none(
        f"{command}: the help lists {flags[command]!r}, agreed was {agreed!r}"
        for command, agreed in FLAGS.items()
        if flags[command] != agreed
    )


def test_the_command_starts_as_a_script_and_as_a_module(tmp_path: Path):
    for start in ([str(Path(sys.executable).with_name("diffuscope"))], [sys.executable, "-m", "diffuscope"]):
        done = subprocess.run([*start, "--version"], cwd=tmp_path, capture_output=True, text=True, check=True)
        assert re.fullmatch(r"diffuscope \d+\.\d+\.\d+\S*\n", done.stdout), start
        assert done.stderr == "", start


def test_torchrun_leaves_the_flags_of_train_to_it():
    """It takes any beginning of its own options for the option, even behind the module's name: --start, for one."""
    from torch.distributed.run import get_args_parser

    given = ["train", "unet", *(part for flag in FLAGS["train"].split() for part in (f"--{flag}", "x"))]
    assert get_args_parser().parse_args(["--standalone", "-m", "diffuscope", *given]).training_script_args == given
