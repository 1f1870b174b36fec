"""``diffuscope inspect`` writes the tensors that ``inspect`` returns."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from diffuscope.cli import main
from diffuscope.lens.inspect import inspect
from diffuscope.pipeline import Pipeline

CALL = ["--seed", "1", "--steps", "2"]


@pytest.mark.parametrize(
    ("kind", "texts", "options"),
    [
        ("attention", [], {}),
        ("ablation", ["names=unet.mid.*.cross_attn", "heads=0,1", "strength=0.5"],
         {"names": "unet.mid.*.cross_attn", "heads": [0, 1], "strength": 0.5}),
        ("colour", ["colour=0.9,0.1,0.1", "scale=20"], {"colour": [0.9, 0.1, 0.1], "scale": 20}),
        ("prompt-to-prompt", ["edit=a blue fox"], {"edit": "a blue fox"}),
    ],
)  # fmt: skip
def test_the_file_has_the_tensors_of_the_function(
    tiny: Pipeline, tiny_folder: Path, tmp_path: Path, kind: str, texts: list[str], options: dict
) -> None:
    out = tmp_path / "found.safetensors"
    given = ["--options", *texts] if texts else []
    arguments = ["inspect", "a red fox", "--kind", kind, *given, *CALL, "--model", str(tiny_folder), "--out", str(out)]
    assert main(arguments) == 0
    expected = inspect(tiny, kind, "a red fox", options=options, seed=1, num_inference_steps=2)
    with safe_open(out, "pt") as file:
        assert set(file.keys()) == set(expected.tensors)
        for name in file.keys():  # noqa: SIM118
            assert torch.equal(file.get_tensor(name), expected[name]), name
        assert json.loads(file.metadata()["diffuscope"]) == json.loads(json.dumps(expected.about))


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--kind", "atention"], "--kind"),
        (["--out", "maps.png"], "--out"),
        (["--out", "no/such/maps.safetensors"], "there is no folder"),
        (["--options", "speed=3"], "speed"),
        (["--image", "no-such.png"], "--image"),
        (["--branch-file", "no-such.json"], "--branch-file"),
        (["--branch-file", "branch.json"], "--branch-file"),
    ],
)
def test_what_is_not_possible_is_told(
    tiny_folder: Path, tmp_path: Path, monkeypatch, capsys, arguments: list[str], named: str
) -> None:
    (tmp_path / "branch.json").write_text('{"step": 1, "recuest": {}}', encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert main(["inspect", "a red fox", *CALL, "--model", str(tiny_folder), *arguments]) == 2
    assert named in capsys.readouterr().err
