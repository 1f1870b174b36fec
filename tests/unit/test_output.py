"""Names and files of results: nothing overwritten unasked, nothing half, nothing found impossible after the run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from diffuscope.errors import OutputError
from diffuscope.images import write_png
from diffuscope.metadata import read_texts
from diffuscope.output import check_output, numbered, part_of, permissions, replacing
from diffuscope.pipeline import Pipeline
from diffuscope.pipeline.receipt import read
from refusals import refused

PICTURE = Image.new("RGB", (2, 2))


def test_existing_images_stay_and_new_ones_are_numbered(tiny: Pipeline, tmp_path: Path) -> None:
    result = tiny("fox", seed=1, num_images_per_prompt=2)
    for first in ("out", "out-2", "out-3"):
        paths = result.save(tmp_path / "out.png", overwrite=False)
        assert [path.name for path in paths] == [f"{first}-0.png", f"{first}-1.png"]
        assert [read(path)["image_index"] for path in paths] == [0, 1]
    assert result.save(tmp_path / "out.png")[0].name == "out-0.png"
    (tmp_path / "fox.png").symlink_to(tmp_path / "gone.png")  # a link counts, wherever it leads
    assert numbered(tmp_path / "fox.png", 1, overwrite=False) == [tmp_path / "fox-2.png"]


def test_a_name_that_is_taken_during_the_run_is_not_overwritten(
    tiny: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = tiny("fox", seed=1)
    path, link = tmp_path / "out.png", os.link

    def late(source: str, target: str) -> None:
        monkeypatch.setattr(os, "link", link)
        path.write_text("another process")
        link(source, target)

    monkeypatch.setattr(os, "link", late)
    assert result.save(path, overwrite=False) == [tmp_path / "out-2.png"]
    assert path.read_text() == "another process"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["out-2.png", "out.png"]


def test_a_replaced_file_keeps_its_permissions_and_a_link_its_target(tmp_path: Path) -> None:
    path, link = tmp_path / "secret.png", tmp_path / "link.png"
    path.touch(0o600)
    link.symlink_to(path)
    for each in (path, link):
        write_png(each, PICTURE)
        assert permissions(path) == 0o600
    assert link.is_symlink()
    assert path.stat().st_size > 0


def test_what_must_not_be_replaced_is_refused_before_the_run(tmp_path: Path) -> None:
    path, pipe = tmp_path / "locked.png", tmp_path / "pipe.png"
    path.touch(0o444)
    os.mkfifo(pipe)
    for each, why in ((path, "read-only"), (pipe, "no file")):
        with pytest.raises(OutputError, match=why):
            check_output(each)
        with pytest.raises(OutputError, match=why):
            write_png(each, PICTURE)
        check_output(each, overwrite=False)  # another name is chosen
    assert path.read_bytes() == b""


@pytest.mark.parametrize("letter", ["x", "狐"])
def test_the_longest_name_is_written_and_a_longer_one_refused(tmp_path: Path, letter: str) -> None:
    stem = letter * (251 // len(letter.encode()))
    path = tmp_path / f"{stem.ljust(251 - len(stem.encode()) + len(stem), 'a')}.png"
    assert len(path.name.encode()) == 255
    assert write_png(path, PICTURE).is_file()
    assert len(part_of(path).name.encode()) <= 255
    with pytest.raises(OutputError, match="256 bytes"):
        check_output(path.with_stem(f"{path.stem}a"))
    with pytest.raises(OutputError, match="257 bytes"):  # two images: "-0" and "-1"
        check_output(path, count=2)


def test_names_with_zero_bytes_are_refused(tmp_path: Path) -> None:
    with refused("path"):
        write_png(tmp_path / "a\0b.png", PICTURE)
    with pytest.raises(OutputError, match="zero byte"), replacing(tmp_path / "a\0b"):
        pass


def test_names_that_are_not_utf_8(tiny: Pipeline, tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/o\xff.png"))
    result = tiny("fox", seed=1)
    result.receipt["vae"] = "v\udcff.safetensors"
    assert result.save(path) == [path]
    assert read(path)["vae"] == "v\udcff.safetensors"
    assert "VAE: v\N{REPLACEMENT CHARACTER}.safetensors" in read_texts(path).texts["parameters"]


def test_what_a_dead_process_left_is_removed_at_the_next_save(tmp_path: Path) -> None:
    """Files and folders; those of processes that run, of other machines and of other programs stay."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    own = part_of(tmp_path / "a.png").name
    dead = own.replace(f"-{os.getpid()}-", f"-{ended.pid}-")
    machine = own.split(".")[3].split("-")[0]
    kept = {own, own.replace(f"-{os.getpid()}-", "-1-"), dead.replace(machine, "0" * 8), "a.part", ".a.png.1234.part"}
    for name in (*kept, dead):
        (tmp_path / name).write_bytes(b"half")
    (tmp_path / dead.replace("a.png", "model")).mkdir()
    (tmp_path / dead.replace("a.png", "model") / "unet.safetensors").write_bytes(b"half")
    write_png(tmp_path / "b.png", PICTURE)
    assert {path.name for path in tmp_path.iterdir()} == {*kept, "b.png"}
