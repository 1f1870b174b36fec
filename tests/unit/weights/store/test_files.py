"""safetensors files: what is refused before reading, and that a write is whole or not at all."""

import json
import pickle
import zipfile

import pytest
import safetensors.torch
import torch

from diffuscope.errors import OutputError, WeightsError
from diffuscope.weights.store import documents, files, headers


def container(header, data=b"", *, length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def entry(start=0, end=4, *, dtype="F32", shape=(1,)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}


FOUR = b"\0" * 4
BAD = {
    "empty": b"",
    "short": b"\1\0\0",
    "header over the limit": container(b"{", length=100_000_001),
    "header beyond the end": container(b"{}", length=3),
    "no JSON": container(b"{nothing}"),
    "no UTF-8": container(b'{"\xff":1}'),
    "deep JSON": container(b'{"a":' + b"[" * 100_000),
    "a list": container(b"[]"),
    "metadata no strings": container({"__metadata__": {"a": 1}}),
    "metadata no table": container({"__metadata__": "a"}),
    "entry no table": container({"a": 1}),
    "entry incomplete": container({"a": {"dtype": "F32", "shape": [1]}}, FOUR),
    "unknown dtype": container({"a": entry(dtype="F31")}, FOUR),
    "dtype no string": container({"a": entry(dtype=["F32"])}, FOUR),
    "negative shape": container({"a": entry(shape=(-1, -1))}, FOUR),
    "fractional shape": container({"a": entry(shape=(1.0,))}, FOUR),
    "shape of truths": container({"a": entry(shape=(True,))}, FOUR),
    "a million dimensions": container({"a": entry(shape=(2,) * 1_000_000)}, FOUR),
    "a gigantic side": container({"a": entry(shape=(1 << 63,))}, FOUR),
    "one offset": container({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4]}}, FOUR),
    "offsets backwards": container({"a": entry(4, 0)}, FOUR),
    "bytes disagree": container({"a": entry(shape=(2,))}, FOUR),
    "overlap": container({"a": entry(), "b": entry(2, 6)}, FOUR * 2),
    "hole": container({"a": entry(), "b": entry(8, 12)}, FOUR * 3),
    "late start": container({"a": entry(4, 8)}, FOUR * 2),
    "data truncated": container({"a": entry()}, b"\0\0"),
    "data left over": container({"a": entry()}, FOUR * 2),
    "many dimensions": container({"a": entry(shape=(1,) * 17)}, FOUR),
    "a dtype that torch lacks": container({"a": entry(0, 8, dtype="C64")}, FOUR * 2),
    "key twice": container(
        b'{"a":' + json.dumps(entry()).encode() + b',"a":' + json.dumps(entry()).encode() + b"}", FOUR
    ),
}
FOREIGN = {
    "pickle": (pickle.dumps({"a": 1}), "pickle, which can run code; give the model's .safetensors file"),
    "web page": (b"<!DOCTYPE html><html></html>", "web page"),
    "LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "Git LFS pointer"),
}


@pytest.mark.parametrize(
    ("content", "reason"), [*((bad, "is refused") for bad in BAD.values()), *FOREIGN.values()], ids=[*BAD, *FOREIGN]
)
def test_bad_file_is_refused_with_its_name_and_reason(tmp_path, content, reason):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    for reader in (headers.read_header, files.read):
        with pytest.raises(WeightsError, match=reason) as caught:
            reader(path)
        assert str(path) in str(caught.value)


def test_torch_checkpoint_is_refused(tmp_path):
    path = tmp_path / "model.ckpt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(1))
    with pytest.raises(WeightsError, match=r"zip archive.*pickled"):
        files.read(path)


def test_missing_file_and_folder_are_refused(tmp_path):
    with pytest.raises(WeightsError, match="No such file"):
        files.read(tmp_path / "none.safetensors")
    with pytest.raises(WeightsError, match="directory"):
        files.read(tmp_path)


def test_a_header_of_pickle_like_length_is_no_pickle(tmp_path):
    path = tmp_path / "a.safetensors"
    text = json.dumps({"a": entry()}).encode().ljust(0x280)  # little-endian 80 02, as protocol 2 begins
    path.write_bytes(container(text, FOUR))
    assert files.read(path)["a"].shape == (1,)


def test_round_trip_of_dtypes_shapes_metadata_and_layouts(tmp_path):
    path = tmp_path / "a.safetensors"
    base = torch.arange(24.0).reshape(2, 3, 4)
    tensors = {
        "half": base.half(),
        "brain": base.bfloat16(),
        "int8": base.to(torch.int8),
        "truth": base > 3,
        "view": base[:, 1],
        "same view": base[:, 1],
        "transposed": base.transpose(0, 2),
        "channels last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "scalar": torch.tensor(1.5),
        "nothing": torch.zeros(0, 3),
        "parameter": torch.nn.Parameter(torch.ones(2)),
    }
    files.write(path, tensors, {"made": "here"})
    found = files.read(path)
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)
    header = headers.read_header(path)
    assert header.metadata == {"made": "here"}
    assert header.tensors["half"].dtype == "F16"
    assert header.tensors["half"].shape == (2, 3, 4)
    assert safetensors.torch.load_file(path).keys() == tensors.keys()


def test_changing_a_tensor_that_was_read_leaves_the_file(tmp_path):
    path = tmp_path / "a.safetensors"
    files.write(path, {"a": torch.ones(3)})
    files.read(path)["a"].zero_()
    assert torch.equal(files.read(path)["a"], torch.ones(3))


def test_writing_over_a_file_that_is_mapped_is_safe(tmp_path):
    path = tmp_path / "a.safetensors"
    files.write(path, {"a": torch.ones(5000)})
    mapped = files.read(path)["a"]
    files.write(path, {"a": torch.zeros(1)})
    assert mapped.sum() == 5000
    assert files.read(path)["a"].shape == (1,)


def test_permissions_are_those_of_any_new_file(tmp_path):
    (tmp_path / "plain").touch()
    files.write(tmp_path / "a.safetensors", {"a": torch.ones(1)})
    assert (tmp_path / "a.safetensors").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_no_folder_is_an_output_error(tmp_path):
    with pytest.raises(OutputError, match="No such file or directory; give a folder"):
        files.write(tmp_path / "none" / "a.safetensors", {"a": torch.ones(1)})


def test_a_file_in_the_way_is_an_output_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be written"):
        documents.write_text(tmp_path / "file" / "a.json", "{}")
    with pytest.raises(OutputError, match="cannot be made"):
        documents.make_folder(tmp_path / "file" / "deep")


def test_a_full_disk_is_an_output_error_and_leaves_the_old_file(tmp_path):
    """/dev/full is the disk that is always full."""
    path = tmp_path / "a.txt"
    documents.write_text(path, "old")

    def fill_the_disk():
        with files.replacing(path) as part:
            part.unlink()
            part.symlink_to("/dev/full")
            part.write_bytes(b"new")

    with pytest.raises(OutputError, match=r"a\.txt cannot be written: No space left"):
        fill_the_disk()
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"]


def test_a_write_that_breaks_off_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    documents.write_text(path, "old")

    def break_off():
        with files.replacing(path) as part:
            part.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        break_off()
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"]
