"""Runs that end in the middle, in every way: what is resumed ends with the same bits, and nothing is lost."""

import resource
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from diffuscope.errors import OutputError
from diffuscope.recipes.emoji import UNetRecipe
from diffuscope.training import checkpoints, distributed
from diffuscope.training.checkpoints import Progress
from diffuscope.training.loop import train
from diffuscope.training.muon import MuonAdamW
from diffuscope.weights.store import files
from distilling import unet_task
from line import CONFIG, EVERY_STEP, Interruptible, InterruptionError, Line, Table, log
from served import PATIENCE
from together import together

TESTS = str(Path(__file__).parents[1])


def checkpoint(folder):
    return files.read(folder / "checkpoint.safetensors")


def assert_equal(whole, parts):
    """Weights, EMA and optimiser."""
    one, other = checkpoint(whole), checkpoint(parts)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def interrupted_after_every_step(folder, count=8):
    """The rows that each step saw."""
    seen = []
    for _ in range(EVERY_STEP.steps):
        task = Interruptible(count)
        with suppress(InterruptionError):
            train(task, EVERY_STEP, folder)
        seen += task.seen
    return seen


def test_a_run_resumed_at_every_step_ends_with_the_same_bits(tmp_path):
    task = Table()
    train(task, EVERY_STEP, tmp_path / "whole")
    seen = interrupted_after_every_step(tmp_path / "parts")
    assert_equal(tmp_path / "whole", tmp_path / "parts")
    assert torch.equal(torch.stack(seen), torch.stack(task.seen))
    assert [line["step"] for line in log(tmp_path / "parts") if "loss" in line] == [1, 11]


def whole_and_in_parts(folder):
    task = Table(4)
    train(task, EVERY_STEP, folder / "whole")
    seen = interrupted_after_every_step(folder / "parts", 4)
    torch.save((task.seen, seen), folder / f"rank{distributed.rank()}.pt")


def test_two_processes_resumed_at_every_step_end_with_the_same_bits(tmp_path):
    """And see the examples that one process sees, in its order."""
    together("integration.test_safe_training", "whole_and_in_parts", tmp_path)
    assert_equal(tmp_path / "whole", tmp_path / "parts")
    ranks = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in range(2)]
    one = Table()
    train(one, EVERY_STEP, tmp_path / "one")
    for way in range(2):
        both = [torch.stack(pair, 1).flatten() for pair in zip(ranks[0][way], ranks[1][way], strict=True)]
        assert len(both) == EVERY_STEP.steps
    assert all(torch.equal(a, b) for a, b in zip(both, one.seen, strict=False))
    one, two = checkpoint(tmp_path / "one"), checkpoint(tmp_path / "whole")
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=1e-4, atol=1e-5)


class Recorded:
    """A task that notes the rows and the loss of its steps, and is interrupted after ``steps`` of them."""

    def __init__(self, task, steps):
        self.task, self.steps, self.first, self.rows, self.losses = task, steps, None, [], []
        self.network, self.adamw_prefixes = task.network, task.adamw_prefixes

    def loss(self, context):
        if len(self.losses) == self.steps:
            raise InterruptionError
        self.first = context.step if self.first is None else self.first
        loss, numbers = self.task.loss(context)
        self.rows.append(context.rows(self.task.training.batch_size, len(self.task.examples)))
        self.losses.append(loss.item())
        return loss, numbers

    def validate(self, network):
        return self.task.validate(network)


def some_steps(folder, steps):
    """Go on for ``steps`` with eight rows in all, and write what each of them had into the folder."""
    loop = replace(EVERY_STEP, lr=0.02)
    task = Recorded(unet_task(8 // distributed.world_size()), steps)
    with suppress(InterruptionError):
        train(task, loop, folder / "run", asked=UNetRecipe(training=task.task.training, loop=loop))
    torch.save((task.rows, task.losses), folder / f"{task.first:02}-{distributed.rank()}.pt")


def test_a_run_may_go_on_in_another_number_of_processes(tmp_path):
    """Two, one, and two again take the rows of one process in its order; losses of about 1 are within 1e-5 of its own.

    Of two processes the gradients are means of means: the same float32 numbers in another order of summing, equal to
    some 1e-7. Each step carries that into the weights; after 20 the losses differ by some 1e-7.
    """
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for folder in (whole, parts):
        folder.mkdir()
    some_steps(whole, EVERY_STEP.steps)
    one_rows, one_losses = torch.load(whole / "00-0.pt", weights_only=True)
    rows, losses = [], []
    for processes, steps in ((2, 7), (1, 6), (2, 7)):
        if processes == 1:
            some_steps(parts, steps)
        else:
            together("integration.test_safe_training", "some_steps", parts, steps)
        files_of = [parts / f"{len(rows):02}-{rank}.pt" for rank in range(processes)]
        found = [torch.load(path, weights_only=True) for path in files_of]
        rows += [torch.stack(step, 1).flatten() for step in zip(*(each[0] for each in found), strict=True)]
        losses += [sum(step) / processes for step in zip(*(each[1] for each in found), strict=True)]
    assert torch.equal(torch.stack(rows), torch.stack(one_rows))
    assert losses == pytest.approx(one_losses, rel=0, abs=1e-5)


def script_of(tmp_path, body):
    script = tmp_path / "script.py"
    script.write_text(f"import sys\nsys.path.insert(0, {TESTS!r})\n{body}")
    return [sys.executable, str(script)]


def test_sigterm_ends_a_run_with_a_checkpoint(tmp_path):
    body = f"""
import time
from contextlib import suppress
from pathlib import Path
from distilling import unet_task
from line import CONFIG, Line
from diffuscope.training.loop import train
folder = Path({str(tmp_path)!r})
class Slow(Line):
    def loss(self, context):
        while context.step == 30 and not (folder / "asked").exists():
            time.sleep(0.01)
        return super().loss(context)
train(Slow(), CONFIG, folder / "run")
"""
    process = subprocess.Popen(script_of(tmp_path, body))
    while not (tmp_path / "run" / "log.jsonl").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.terminate()
    (tmp_path / "asked").touch()  # a step of the run waits for it, however long that takes
    assert process.wait(PATIENCE) == 128 + signal.SIGTERM
    reached = checkpoint(tmp_path / "run")["optimiser.bias.step"].item()
    assert 0 < reached < CONFIG.steps
    train(Line(), CONFIG, tmp_path / "run")
    train(Line(), CONFIG, tmp_path / "whole")
    assert_equal(tmp_path / "whole", tmp_path / "run")
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def network():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64))
    return network, nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64)), MuonAdamW(network, 1e-2)


def test_a_full_disk_at_any_byte_leaves_the_last_checkpoint(tmp_path):
    """A limit of the file's size stands for the full disk: a real error of the system's in the middle of writing."""
    path, state = tmp_path / "checkpoint.safetensors", network()
    checkpoints.save(path, *state, Progress(1, 1.0), {})
    size = path.stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for point in range(20):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size * point // 20, hard))
        try:
            with pytest.raises(OutputError, match="cannot be written"):
                checkpoints.save(path, *state, Progress(2 + point, 2.0), {})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert checkpoints.restore(path, *network(), {}) == Progress(1, 1.0)
        assert [each.name for each in tmp_path.iterdir()] == [path.name]


@pytest.mark.slow
def test_kill_in_the_middle_of_saving_loses_nothing(tmp_path):
    """``benchmarks/kills.py`` does it a hundred times."""
    command = [sys.executable, "benchmarks/kills.py", "--kills", "5", "--folder", str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(TESTS).parent, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("5 of 5 kills survived")
    assert not list((tmp_path / "run").glob(".*.part"))
