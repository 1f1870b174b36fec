"""A folder of pictures: what can be used, and what is skipped and why."""

import json

import pytest
import torch
from PIL import Image

from diffuscope.training.pictures import read_pictures
from refusals import refused


def write(path, size=(40, 32), caption=None, colour="red"):
    path.parent.mkdir(exist_ok=True)
    Image.new("RGB", size, colour).save(path)
    if caption is not None:
        path.with_suffix(".txt").write_bytes(caption)


@pytest.fixture
def folder(tmp_path):
    write(tmp_path / "a.png", caption=b"a red\n square ")
    write(tmp_path / "below" / "b.JPG", caption=b"another")
    write(tmp_path / "told.webp")
    write(tmp_path / "none.png")
    write(tmp_path / "empty.png", caption=b" \n")
    write(tmp_path / "latin.png", caption=b"caf\xe9")
    write(tmp_path / "tiny.png", size=(40, 8), caption=b"tiny")
    (tmp_path / "half.png").write_bytes((tmp_path / "a.png").read_bytes()[:60])
    (tmp_path / "half.txt").write_text("half")
    (tmp_path / "phone.heic").write_bytes(b"no reader for this")
    (tmp_path / "phone.txt").write_text("a phone")
    (tmp_path / "notes.md").write_text("no picture")
    entry = json.dumps({"file_name": "told.webp", "text": "told by the folder"})
    (tmp_path / "metadata.jsonl").write_text(entry + "\n\n")
    return tmp_path


def test_what_can_be_used_is_used_and_the_rest_is_listed(folder):
    pictures = read_pictures(folder, 32)
    found = dict(zip(pictures.names, pictures.captions, strict=True))
    assert found == {"a.png": "a red square", "below/b.JPG": "another", "told.webp": "told by the folder"}
    assert pictures.images.shape == (3, 3, 32, 32)
    torch.testing.assert_close(pictures.images[0, :, 16, 16], torch.tensor([1.0, -1.0, -1.0]))
    assert pictures.skipped.keys() == {"none.png", "empty.png", "latin.png", "tiny.png", "half.png", "phone.heic"}
    assert pictures.skipped["none.png"] == "no caption"
    assert pictures.skipped["empty.png"] == "an empty caption"
    assert pictures.skipped["tiny.png"] == "40x8 pixels, fewer than 16"
    assert "cannot be read" in pictures.skipped["latin.png"]
    assert "cannot be read" in pictures.skipped["half.png"]
    assert str(pictures).splitlines()[0] == "3 pictures, 6 skipped"
    assert len(read_pictures(folder, 32, smallest=8).names) == 4


def test_a_folder_of_nothing_is_refused(tmp_path):
    with refused("pictures"):
        read_pictures(tmp_path / "none", 32)
    with refused("pictures"):
        read_pictures(tmp_path, 32)
    write(tmp_path / "a.png")
    with refused("pictures") as caught:
        read_pictures(tmp_path, 32)
    assert "a.png: no caption" in caught.value.got
    assert "a.txt" in caught.value.hint
    write(tmp_path / "phone.bmp")
    with refused("pictures") as caught:
        read_pictures(tmp_path / "phone.bmp", 32, caption="a red square")
    assert caught.value.got.startswith(f"{tmp_path / 'phone.bmp'}, where none can be used (phone.bmp: no PNG")
    assert not caught.value.hint


def test_metadata_that_cannot_be_read_is_refused(folder):
    with (folder / "metadata.jsonl").open("a") as file:
        file.write('{"file_name": "a.png"}\n')
    with refused("pictures") as caught:
        read_pictures(folder, 32)
    assert "line 3" in caught.value.got


def test_the_mark_with_which_some_programs_begin_a_text_is_none_of_it(tmp_path):
    mark = b"\xef\xbb\xbf"
    write(tmp_path / "a.png", caption=mark + b"a red square")
    write(tmp_path / "b.png")
    write(tmp_path / "only.png", caption=mark)
    (tmp_path / "metadata.jsonl").write_bytes(mark + json.dumps({"file_name": "b.png", "text": "told"}).encode())
    pictures = read_pictures(tmp_path, 32)
    assert pictures.captions == ["a red square", "told"]
    assert pictures.skipped == {"only.png": "an empty caption"}


def test_a_caption_finds_a_name_whose_umlaut_is_two_letters(tmp_path):
    write(tmp_path / "Ka\u0308uzchen 1.png")
    (tmp_path / "metadata.jsonl").write_text(json.dumps({"file_name": "K\u00e4uzchen 1.png", "text": "an owl"}))
    assert read_pictures(tmp_path, 32).captions == ["an owl"]
