"""Programs as they are started: stopped with a key, told by the environment, several at once."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from diffuscope.images import write_png
from diffuscope.pipeline.receipt import read
from diffuscope.training.loop import train
from hub_files import cached
from line import CONFIG, Line, log
from served import PATIENCE


def test_ctrl_c_stops_and_leaves_no_file(tiny_folder: Path, tmp_path: Path) -> None:
    """A run of many steps, interrupted after the progress bar shows the first."""
    command = [sys.executable, "-m", "diffuscope", "generate", "fox", "--model", str(tiny_folder), "--steps", "900"]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # tests run in the background inherit "ignore"
    try:
        process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    finally:
        signal.signal(signal.SIGINT, before)
    try:
        assert process.stderr is not None
        said = b""
        while b"/900 [" not in said.replace(b" 0/900 [", b""):
            chunk = os.read(process.stderr.fileno(), 4096)
            assert chunk, said
            said += chunk
        process.send_signal(signal.SIGINT)
        _, rest = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
    assert process.returncode == 130
    assert rest.endswith(b"stopped\n")
    assert b"Traceback" not in rest
    assert list(tmp_path.iterdir()) == []


def test_sigterm_stops_and_leaves_no_file(tiny_folder: Path, tmp_path: Path) -> None:
    """While a file is being written: nothing of it stays."""
    script = (
        "import os, signal, sys\n"
        "from diffuscope.cli import main\n"
        "from PIL import Image\n"
        "save = Image.Image.save\n"
        "def interrupted(*args, **kwargs):\n"
        "    save(*args, **kwargs)\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "Image.Image.save = interrupted\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    command = [sys.executable, "-c", script, "generate", "fox", "--model", str(tiny_folder), "--quiet"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 128 + signal.SIGTERM
    assert done.stderr == "stopped\n"
    assert list(tmp_path.iterdir()) == []


def _shell(line: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """``line`` run by a shell, with ``$D`` for the command."""
    environment = {**os.environ, "D": f"{sys.executable} -m diffuscope", **variables}
    return subprocess.run(
        ["sh", "-c", line], cwd=folder, env=environment, capture_output=True, encoding="latin-1", check=False
    )


@pytest.mark.parametrize("err", ["2>&-", "2>/dev/full", "2>&- >&-"])
def test_a_closed_or_full_terminal_costs_no_image(tiny_folder: Path, tmp_path: Path, err: str) -> None:
    done = _shell(f"$D generate fox --model {tiny_folder} {err}", tmp_path)
    assert done.returncode == 0
    assert read(tmp_path / "out.png")["prompt"] == ["fox"]


def test_output_that_cannot_be_written_is_said_once(tmp_path: Path) -> None:
    gone = _shell("$D --help | head -c 0; $D generate --help | head -c 0; $D schema | head -c 0", tmp_path)
    assert gone.stderr == ""
    full = _shell("$D --help > /dev/full; $D generate --help > /dev/full", tmp_path)
    assert len(full.stderr.splitlines()) == 2
    assert full.stderr.count("error: standard output cannot be written: No space left on device") == 2
    assert full.returncode == 2


def test_output_in_an_encoding_without_these_letters(tmp_path: Path) -> None:
    write_png(tmp_path / "fox.png", Image.new("RGB", (2, 2)), {"parameters": "狐 \N{FOX FACE} é"})
    done = _shell("$D info fox.png", tmp_path, PYTHONIOENCODING="latin-1")
    assert done.returncode == 0, done.stderr
    assert "\\u72d0 \\U0001f98a é" in done.stdout


def test_the_environment_says_where_the_cache_is(diffusers_folder: Path, tmp_path: Path) -> None:
    """Read by huggingface_hub when it is imported, so in a process of its own; HF_HOME holds the cache as ``hub``."""
    cached(diffusers_folder, tmp_path / "hub")
    for variables in ({"HF_HOME": str(tmp_path)}, {"HF_HUB_CACHE": str(tmp_path / "hub")}):
        environment = {**os.environ, **variables, "HF_HUB_OFFLINE": "1"}
        command = [sys.executable, "-m", "diffuscope", "info", "owner/tiny"]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, check=False)
        assert "the model 'tiny'" in done.stdout, done.stderr


@pytest.mark.slow
def test_two_processes_train_as_one_that_draws_for_both(tmp_path):
    """Started by torchrun: equal to one process whose gradient is the mean over both processes' draws."""
    script = tmp_path / "script.py"
    script.write_text(
        f"""
import sys
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
import torch
import weakref
from pathlib import Path
from line import CONFIG, Line
from diffuscope.training import distributed
from diffuscope.training.loop import train
torch.set_num_threads(1)
with distributed.process_group(torch.device("cpu")) as device:
    with distributed.process_group(device):  # as within Ray Train, which has connected the processes, and ends that
        pass
    average = train(Line(), CONFIG, Path({str(tmp_path)!r}) / "two")
    torch.save(average.state_dict(), Path({str(tmp_path)!r}) / f"rank{{distributed.rank()}}.pt")
    group = weakref.ref(torch.distributed.group.WORLD)
assert group() is None  # nor are its threads there: one that outlives Python may abort the process, seldom
"""
    )
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    done = subprocess.run(torchrun, timeout=600, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

    class Both(Line):
        def loss(self, context):
            other = torch.Generator().manual_seed(context.seed + 1)
            first, numbers = super().loss(context)
            second, _ = super().loss(replace(context, generator=other))
            return (first + second) / 2, numbers

    alone = train(Both(), CONFIG, tmp_path / "one").state_dict()
    for rank in range(2):
        state = torch.load(tmp_path / f"rank{rank}.pt", weights_only=True)
        assert all(torch.allclose(state[name], alone[name], atol=1e-5) for name in alone)
    assert [line["step"] for line in log(tmp_path / "two")] == [line["step"] for line in log(tmp_path / "one")]
