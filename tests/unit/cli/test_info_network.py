"""``diffuscope info`` of a network by itself."""

import re
from dataclasses import replace
from pathlib import Path

from diffuscope.cli import main
from diffuscope.config import TINY
from diffuscope.models.vae import VAE
from diffuscope.pipeline import Pipeline
from diffuscope.weights.layout.diffusers import to_diffusers
from diffuscope.weights.store import files


def test_info_of_one_network(tiny: Pipeline, tmp_path: Path, capsys) -> None:
    """A file, or a folder of diffusers with nothing else; families that share the shapes of a VAE are one line."""
    folder = tiny.save(tmp_path / "whole") / "vae"
    assert main(["info", str(folder)]) == 0
    said = capsys.readouterr().out
    assert f"{folder / 'diffusion_pytorch_model.safetensors'}: a VAE" in said
    assert re.search(r"family: tiny or tiny-sd15 or .* or 11 more\n", said)
    config = replace(TINY.vae, channels=(8, 16, 32), norm_groups=8)
    files.write(folder / "diffusion_pytorch_model.safetensors", to_diffusers(VAE(config).state_dict(), config))
    assert main(["info", str(folder)]) == 0
    assert "family: none that is known; the nearest family is emoji" in capsys.readouterr().out
