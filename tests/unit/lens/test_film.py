"""Films: an MP4 holds the frames given and is what players read; notebooks show it; bad input is said first."""

import subprocess
from pathlib import Path

import imageio_ffmpeg
import pytest
from PIL import Image

from diffuscope.errors import InputError, OutputError
from diffuscope.lens.film import Clip, save_gif, save_mp4

COLOURS = ("#d22", "#2a4", "#26c", "#fd3")
FILM = [Image.new("RGB", (64, 32), colour) for colour in COLOURS]


def decoded(path: Path, rate: float = 12) -> list[Image.Image]:
    """The frames that ffmpeg reads back."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", path, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    data = subprocess.run(command, capture_output=True, check=True).stdout
    size = 64 * 32 * 3
    return [Image.frombytes("RGB", (64, 32), data[at : at + size]) for at in range(0, len(data), size)]


def test_an_mp4_holds_the_frames_in_order(tmp_path: Path) -> None:
    path = save_mp4(FILM, tmp_path / "run.mp4")
    assert path.read_bytes()[4:8] == b"ftyp"
    found = decoded(path)
    assert len(found) == len(FILM)
    for given, kept in zip(FILM, found, strict=True):
        gaps = [abs(a - b) for a, b in zip(given.getpixel((20, 10)), kept.getpixel((20, 10)), strict=True)]
        assert max(gaps) <= 6
    assert path.read_bytes() == save_mp4(FILM, tmp_path / "again.mp4").read_bytes()
    assert sorted(each.name for each in tmp_path.iterdir()) == ["again.mp4", "run.mp4"]


@pytest.mark.parametrize(
    ("film", "name", "rate", "message"),
    [
        ([], "run.mp4", 12, "0 frames"),
        (FILM, "run.avi", 12, "name.mp4"),
        (FILM, "run.mp4", 0, "at 0 a second"),
        ([*FILM, Image.new("RGB", (32, 32))], "run.mp4", 12, "give one size"),
        ([Image.new("RGB", (33, 32))], "run.mp4", 12, "even"),
    ],
)
def test_bad_films_are_refused(tmp_path: Path, film, name, rate, message) -> None:
    with pytest.raises(InputError, match=message):
        save_mp4(film, tmp_path / name, rate=rate)
    assert not list(tmp_path.iterdir())


def test_a_film_without_a_place_or_ffmpeg_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OutputError, match="cannot be written"):
        save_mp4(FILM, tmp_path / "none" / "run.mp4")
    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", lambda: "false")
    with pytest.raises(OutputError, match="ffmpeg could not write"):
        save_mp4(FILM, tmp_path / "run.mp4")
    monkeypatch.setitem(__import__("sys").modules, "imageio_ffmpeg", None)
    with pytest.raises(InputError, match=r"diffuscope\[video\]"):
        save_mp4(FILM, tmp_path / "run.mp4")
    assert not list(tmp_path.iterdir())


def test_a_clip_carries_its_file(tmp_path: Path) -> None:
    moving = Clip(save_gif(FILM, tmp_path / "run.gif"), width=300)._repr_html_()
    assert moving.startswith('<img width="300"')
    assert "data:image/gif;base64,R0lGOD" in moving
    assert "data:video/mp4;base64," in Clip(save_mp4(FILM, tmp_path / "run.mp4"))._repr_html_()
    for wrong in (tmp_path / "none.gif", tmp_path / "run.txt"):
        with pytest.raises(InputError, match="no film"):
            Clip(wrong)
