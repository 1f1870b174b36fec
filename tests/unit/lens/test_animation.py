"""Films and records show and hear a run."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from diffuscope.errors import OutputError
from diffuscope.lens.animation import frames, save_gif, save_mp4
from diffuscope.lens.recording import Record, snapshots
from diffuscope.pipeline import Pipeline
from refusals import refused


def test_films_have_both_sides_of_each_step(tiny: Pipeline, tmp_path: Path) -> None:
    steps = snapshots(tiny.steps("a fox", seed=1))
    film = frames(tiny, steps)
    assert [frame.size for frame in film] == [(64, 32)] * 4
    right = np.asarray(film[1].crop((32, 0, 64, 32)), dtype=int)
    alone = np.asarray(tiny.decode(steps[1].x0)[0], dtype=int)
    assert np.abs(right - alone).max() <= 1  # frames are decoded together, which some processors round otherwise
    path = save_gif(film, tmp_path / "run.gif")
    with Image.open(path) as stored:
        assert stored.n_frames == 4
        assert stored.info["duration"] == 83 // 10 * 10  # GIF counts hundredths
    with pytest.raises(OutputError):
        save_gif(film, tmp_path / "none" / "run.gif")
    for save, name in ((save_gif, "run.mp4"), (save_mp4, "run.gif")):
        with refused("path", str(tmp_path / name)):
            save(film, tmp_path / name)
    with refused("images", []):
        save_gif([], path)
    with refused("fps", 51):
        save_gif(film, path, fps=51)
    with refused("images"):
        save_mp4([film[0].resize((63, 32))], tmp_path / "run.mp4")
    with refused("steps", []):
        frames(tiny, [])


def test_a_record_has_every_estimate_and_changes_nothing(tiny: Pipeline) -> None:
    record = Record()
    led = tiny("a fox", seed=1, sampler="euler", guidance=record)
    assert torch.equal(led.latents, tiny("a fox", seed=1, sampler="euler").latents)
    steps = snapshots(tiny.steps("a fox", seed=1, sampler="euler"))
    assert [torch.equal(x0, step.x0) for x0, step in zip(record.x0, steps, strict=True)] == [True] * 4
    for x, x0, noise, sigma in zip(record.x, record.x0, record.noise, record.sigmas, strict=True):
        torch.testing.assert_close(x0 + sigma * noise, x)
