"""A list of requests: shared by processes, ended and started again, and always the same images."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import diffuscope as ds
from diffuscope.batch.many import LIST, begin, generate_many, read_requests
from diffuscope.batch.ray import ImageGenerator
from diffuscope.cli import main
from diffuscope.errors import DiffuscopeError
from diffuscope.images import image_hash, open_image
from diffuscope.pipeline import Pipeline
from diffuscope.pipeline.receipt import read
from refusals import refused

LINES = [
    {"prompt": "a red fox", "seed": 7},
    {"prompt": ["a hen", "a cup"], "num_images_per_prompt": 2},
    {"prompt": "a tree", "guidance_scale": 3},
    {"prompt": "a fox"},
    {"prompt": "a fox"},
]
NAMES = ["000001", *(f"000002-{k}" for k in range(4)), "000003", "000004", "000005"]


@pytest.fixture
def requests(tmp_path: Path) -> Path:
    return _file(tmp_path, "".join(json.dumps(line) + "\n" for line in LINES))


@pytest.fixture(scope="module")
def pipe(quick_folder: Path) -> Pipeline:
    return ds.load(quick_folder, device="cpu")


@pytest.fixture(scope="module")
def expected(pipe: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that one process makes."""
    folder = tmp_path_factory.mktemp("many")
    asked = read_requests(_file(folder, "".join(json.dumps(line) + "\n" for line in LINES)))
    made = [number for number, result in generate_many(pipe, asked, folder / "one") if result is not None]
    assert made == [1, 2, 3, 4, 5]
    return folder / "one"


def pictures(folder: Path) -> dict[str, tuple[str, object]]:
    """Name -> the pixels' hash, and the receipt."""
    return {path.stem: (image_hash(open_image(path)), read(path)) for path in sorted(folder.glob("*.png"))}


@pytest.mark.slow
def test_two_processes_make_what_one_makes(requests: Path, expected: Path, quick_folder: Path, tmp_path: Path) -> None:
    command = ["-m", "diffuscope", "batch", str(requests), "--model", str(quick_folder), "--out", str(tmp_path / "two")]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--rdzv-backend", "c10d"]
    done = subprocess.run(
        [*torchrun, "--rdzv-endpoint", "localhost:0", *command, "--device", "cpu"],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert sorted(line for line in done.stdout.splitlines() if "process" in line) == [
        f"process 0 of 2: lines: 3 made, 0 there before, 0 failed; in {tmp_path / 'two'}",
        f"process 1 of 2: lines: 2 made, 0 there before, 0 failed; in {tmp_path / 'two'}",
    ]
    one, two = pictures(expected), pictures(tmp_path / "two")
    assert [*one] == NAMES
    assert two == one
    assert one["000004"][0] != one["000005"][0]  # each line has a seed of its own


def test_killed_and_started_again(
    requests: Path, expected: Path, pipe: Pipeline, quick_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "killed"
    slow = [sys.executable, "-m", "diffuscope", "batch", str(requests), "--model", str(quick_folder), "--device", "cpu"]
    one_thread = os.environ | {"OMP_NUM_THREADS": "1"}  # as this process has: a receipt holds the number of threads
    process = subprocess.Popen([*slow, "--out", str(folder), "--quiet"], env=one_thread)
    try:
        while not any(folder.glob("00*.png")) and process.poll() is None:
            pass
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.wait()
    first = {path: path.stat().st_mtime_ns for path in folder.glob("00*.png")}
    whole = {1: NAMES[:1], 2: NAMES[1:5], 3: NAMES[5:6], 4: NAMES[6:7], 5: NAMES[7:]}
    there = [number for number, names in whole.items() if all((folder / f"{name}.png") in first for name in names)]
    for rank in (2, 0, 1):  # another number of processes, in any order
        for number, result in generate_many(pipe, read_requests(requests), folder, rank=rank, processes=3):
            assert (result is None) == (number in there)
    assert pictures(folder) == pictures(expected)
    kept = [folder / f"{name}.png" for number in there for name in whole[number]]
    assert all(path.stat().st_mtime_ns == first[path] for path in kept)
    assert not list(folder.glob("*.part"))


def test_one_line_that_fails(requests: Path, quick_folder: Path, tmp_path: Path, capsys) -> None:
    with requests.open("a") as file:
        file.write('{"prompt": "a fox", "width": 33}\n{"prompt": "a cup"}\n')
    out = tmp_path / "out"
    command = ["batch", str(requests), "--model", str(quick_folder), "--out", str(out), "--device", "cpu"]
    assert main(command) == 2
    said = capsys.readouterr()
    assert "error: line 6: width" in said.err  # as the list has it
    assert said.out == f"lines: 6 made, 0 there before, 1 failed; in {out}\n"
    assert main(command) == 2  # tried again
    assert capsys.readouterr().out == f"lines: 0 made, 6 there before, 1 failed; in {out}\n"


def test_columns_of_requests_become_columns_of_images(pipe: Pipeline, expected: Path) -> None:
    """What Ray Data calls in a worker."""
    lines = [*map(json.dumps, LINES[:2]), '{"prompt": "a fox", "width": 33}']
    found = ImageGenerator(lambda: pipe)({"id": np.arange(3), "request": np.array(lines)})
    assert {*found} == {"id", "request", "images", "error"}
    assert [*found["id"]] == [0, 1, 2]
    first, several, none = found["images"]
    assert read(first[0]) == read(expected / "000001.png")
    assert [read(image)["image_index"] for image in several] == [0, 1, 2, 3]
    assert none == []
    assert [*found["error"][:2]] == [None, None]
    assert found["error"][2].startswith("width: got 33")


def test_without_ray_the_extra_is_named(
    requests: Path, quick_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    command = ["batch", str(requests), "--model", str(quick_folder), "--out", str(tmp_path / "out")]
    assert main([*command, "--ray", "auto"]) == 2
    assert "error: --ray: got 'auto', expected the extra `ray`. Run: pip install ray" in capsys.readouterr().err
    assert main([*command, "--workers", "2"]) == 2
    assert "--workers: got 2, expected" in capsys.readouterr().err


def test_what_is_refused(requests: Path, quick: Pipeline, tmp_path: Path) -> None:
    folder, asked, text = tmp_path / "out", read_requests(requests), requests.read_text()
    made = generate_many(quick, asked, folder)
    next(made)
    with pytest.raises(DiffuscopeError, match="line 2"):
        read_requests(_file(tmp_path, '{"prompt": "a"}\n{"prompt": "a", "steps": 3}\n'))
    with refused("line 1: promt", "a"):  # and not that a prompt is missing
        read_requests(_file(tmp_path, '{"promt": "a"}\n'))
    for wrong in ("", "\n", '{"seed": 1}\n', "a fox\n", '{"prompt": "a"}\n\n'):
        with pytest.raises(DiffuscopeError):
            read_requests(_file(tmp_path, wrong))
    with refused("requests"):
        read_requests(tmp_path / "none.jsonl")
    with refused("out"):
        next(generate_many(quick, read_requests(_file(tmp_path, '{"prompt": "a"}\n')), folder))
    longer = read_requests(_file(tmp_path, text + '{"prompt": "one more"}\n'))
    assert [number for number, _ in generate_many(quick, longer, folder)] == [1, 2, 3, 4, 5, 6]
    assert len((folder / LIST).read_text().splitlines()) == 6
    assert all(result is None for _, result in generate_many(quick, asked, folder))
    other = Pipeline(quick.components)
    other.__dict__["weights"] = {**quick.weights, "unet": "0"}
    with refused("out"):
        next(generate_many(other, longer, folder))


def test_a_line_ends_at_a_line_feed_alone(tmp_path: Path) -> None:
    """Not at what Unicode also calls the end of a line, which JSON may hold as it is."""
    asked = read_requests(_file(tmp_path, '{"prompt": "a fox\u2028in snow\x85"}\n{"prompt": "a cup", "seed": null}\n'))
    assert [(each.prompt, each.seed) for each in asked] == [("a fox\u2028in snow\x85", 1), ("a cup", 2)]
    assert begin(begin(tmp_path / "out", asked), asked) == tmp_path / "out"


def test_the_mark_with_which_some_programs_begin_a_file_is_none_of_it(tmp_path: Path) -> None:
    (path := tmp_path / "asked.jsonl").write_bytes(b'\xef\xbb\xbf{"prompt": "a fox"}\n')
    assert [each.prompt for each in read_requests(path)] == ["a fox"]


def test_names_of_a_line_are_those_of_the_list(requests: Path, quick_folder: Path, tmp_path: Path, capsys) -> None:
    requests.write_text('{"prompt": "a fox", "count": 3}\n')
    assert main(["batch", str(requests), "--model", str(quick_folder), "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert "'num_images_per_prompt'" in said
    assert "--" not in said


def test_a_folder_whose_list_is_damaged_is_refused(tmp_path: Path) -> None:
    asked = read_requests(_file(tmp_path, '{"prompt": "a fox"}\n'))
    (folder := begin(tmp_path / "out", asked)).joinpath(LIST).write_bytes(b"\xff\n")
    with refused("out"):
        begin(folder, asked)


def _file(folder: Path, text: str) -> Path:
    (folder / "asked.jsonl").write_text(text)
    return folder / "asked.jsonl"
