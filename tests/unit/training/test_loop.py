import math
from dataclasses import dataclass, replace
from itertools import chain, pairwise

import pytest
import torch

from diffuscope.errors import OutputError, TrainingError
from diffuscope.training.checkpoints import settings_of
from diffuscope.training.curves import plot
from diffuscope.training.loop import LoopConfig, StepContext, _begin, lr_factor, train
from diffuscope.training.order import positions
from diffuscope.training.run_folder import locked
from line import CONFIG, EVERY_STEP, Interruptible, InterruptionError, Line, Table, log
from refusals import refused


def test_the_caller_hears_of_every_checkpoint(tmp_path):
    heard = []
    ema = train(Line(), CONFIG, tmp_path, on_save=heard.append)
    assert heard == [ema]


def test_the_learning_rate_warms_up_holds_and_decays():
    config = LoopConfig(steps=100, warmup_steps=10, hold=0.5, min_lr_factor=0.1)
    assert lr_factor(config, 0, 0.0) == pytest.approx(0.1)
    assert lr_factor(config, 30, 0.3) == 1.0
    assert lr_factor(config, 75, 0.75) == pytest.approx(0.55)
    assert lr_factor(config, 99, 1.0) == pytest.approx(0.1)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", ["batch", "target", "activation", "loss", "gradient"])
def test_a_step_that_is_not_finite_changes_nothing(tmp_path, place, value):
    """Weights, EMA and optimiser are those before it; the run goes on, and the log names the step."""
    states = []

    class Task(Table):
        def loss(self, context):
            states.append(state_of(run))
            is_bad = context.step in (0, 4)
            hook = (
                self.network.bias.register_hook(lambda grad: grad * value) if is_bad and place == "gradient" else None
            )
            rows = context.rows(self.count, len(self.examples))
            x, truth = self.examples[rows], self.truth
            x = torch.where(torch.arange(8)[:, None] == 3, value, x) if is_bad and place == "batch" else x
            y = self.network(x)
            y = y + value if is_bad and place == "activation" else y
            wanted = self.examples[rows] @ truth.T
            wanted = wanted * value if is_bad and place == "target" else wanted
            loss = (y - wanted).square().mean()
            loss = loss * value if is_bad and place == "loss" else loss
            self.hook = hook
            return loss, {}

    task = Task()
    run = _begin(task, replace(CONFIG, steps=7, weight_decay=0.1), tmp_path, lambda _: None, {})
    while run.fraction() < 1:
        run.step()
        if task.hook is not None:
            task.hook.remove()
    run.finish()
    states.append(state_of(run))
    same = [all(torch.equal(a, b) for a, b in zip(*pair, strict=True)) for pair in pairwise(states)]
    assert same == [True, False, False, False, True, False, False]
    assert all(value.isfinite().all() for value in states[-1])
    named = [line["skipped_steps"] for line in log(tmp_path) if "skipped_steps" in line]
    assert list(chain(*named)) == [0, 4]


def state_of(run):
    tensors = [*run.task.network.parameters(), *run.ema.parameters(), *run.optimiser.state().values()]
    return [tensor.detach().clone() for tensor in tensors]


def test_a_run_that_learns_nothing_ends_with_an_error(tmp_path):
    task = Line()
    task.network.weight.data.fill_(math.nan)
    with pytest.raises(TrainingError, match=r"not finite in the last 60 steps, up to step 59.* lower lr than 0\.2"):
        train(task, CONFIG, tmp_path)
    assert not (tmp_path / "checkpoint.safetensors").exists()


def test_a_run_ends_after_many_steps_in_a_row_that_are_not_finite(tmp_path):
    """Its last checkpoint is that of the weights before them."""

    class Exploding(Line):
        def loss(self, context):
            loss, numbers = super().loss(context)
            return (loss if context.step < 15 else loss * math.inf), numbers

    task = Exploding()
    with pytest.raises(TrainingError, match="last 10 steps, up to step 24"):
        train(task, replace(CONFIG, max_skipped=10, save_every=0.0), tmp_path)
    assert task.network.weight.isfinite().all()


def test_an_exploding_learning_rate_is_refused_or_ends_the_run(tmp_path):
    for lr in (math.nan, math.inf, 0.0, -1.0):
        with refused("lr"):
            replace(CONFIG, lr=lr)
    with pytest.raises(TrainingError, match="lower lr"):
        train(Line(), replace(CONFIG, lr=1e38, max_skipped=5), tmp_path)


def test_every_example_comes_once_an_epoch_whatever_the_number_of_processes():
    order = positions(3, 50, 0, 100)
    assert sorted(order[:50].tolist()) == sorted(order[50:].tolist()) == list(range(50))
    assert not torch.equal(order[:50], order[50:])
    assert torch.equal(positions(3, 50, 37, 30), order[37:67])
    assert not torch.equal(positions(4, 50, 0, 50), order[:50])
    for processes in (1, 2, 4):
        rows = []
        for step in range(3):
            parts = [context(step, rank, processes).rows(8 // processes, 50) for rank in range(processes)]
            rows += [parts[i % processes][i // processes] for i in range(8)]
        assert torch.equal(torch.stack(rows), order[:24])


def context(step, rank=0, processes=1):
    return StepContext(torch.Generator(), 0, step, 0.0, run_seed=3, rank=rank, processes=processes)


def test_two_processes_have_the_halves_of_one_ones_batch():
    """Rows, noise and therefore gradient: the mean of the halves is the whole."""
    whole, halves = Table(8), [Table(4), Table(4)]
    whole.loss(context(5))[0].backward()
    for rank, half in enumerate(halves):
        half.loss(context(5, rank, 2))[0].backward()
    mean = (halves[0].network.weight.grad + halves[1].network.weight.grad) / 2
    torch.testing.assert_close(mean, whole.network.weight.grad)


def test_a_folder_takes_one_run_at_a_time(tmp_path):
    with locked(tmp_path), pytest.raises(TrainingError, match=f"another run writes into {tmp_path}"):
        train(Line(), CONFIG, tmp_path)


def test_a_run_goes_on_with_the_settings_with_which_it_began(tmp_path, monkeypatch):
    """Those that change no number may be others."""

    @dataclass(frozen=True)
    class Recipe:
        loop: LoopConfig
        batch_size: int = 8
        compiled: bool = False

    recipe = Recipe(replace(CONFIG, save_every=0.0))
    with pytest.raises(InterruptionError):
        train(Interruptible(), recipe.loop, tmp_path, asked=recipe)
    before = (tmp_path / "checkpoint.safetensors").read_bytes()
    slower = replace(recipe, loop=replace(recipe.loop, lr=0.1))
    with refused("loop.lr", 0.1) as caught:
        train(Table(), slower.loop, tmp_path, asked=slower)
    assert caught.value.want.startswith("0.2,")
    with refused("batch_size", 4):
        train(Table(), recipe.loop, tmp_path, asked=replace(recipe, batch_size=4))
    assert (tmp_path / "checkpoint.safetensors").read_bytes() == before
    monkeypatch.setenv("WORLD_SIZE", "2")  # two processes with halves of the batch see the same
    assert settings_of(replace(recipe, batch_size=4))["batch_size"] == 8
    monkeypatch.undo()
    quiet = replace(recipe, loop=replace(recipe.loop, log_every=7, save_every=9.0), compiled=True)
    train(Table(), quiet.loop, tmp_path, asked=quiet)


def test_a_torn_line_of_the_log_stops_nothing(tmp_path):
    """And what was written after the checkpoint is written again, not twice."""
    with pytest.raises(InterruptionError):
        train(Interruptible(), EVERY_STEP, tmp_path)
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": 9.0, "seconds": 1.0, "loss": 1.0}\n{"step": 9.0, "sec')
    train(Table(), EVERY_STEP, tmp_path)
    assert [line["step"] for line in log(tmp_path) if "loss" in line] == [1, 11]
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": null}\n{"step": "nine"}\n{"step": ' + "[" * 100_000 + '\n{"step": 9.0, "sec')
    train(Table(), EVERY_STEP, tmp_path)
    plot(tmp_path / "log.jsonl", tmp_path / "curves.png")


def test_a_run_has_one_length():
    with refused("steps"):
        LoopConfig()
    with refused("steps"):
        replace(CONFIG, seconds=1.0)
    with refused("warmup_steps", 0):
        replace(CONFIG, warmup_steps=0)


@pytest.mark.parametrize("seconds", [0.0, -5.0, float("nan"), float("inf")])
def test_a_length_that_no_run_can_have_is_refused(seconds):
    """A run of less than no time would never end."""
    with refused("seconds"):
        replace(CONFIG, steps=None, seconds=seconds)


def test_curves_are_plotted(tmp_path):
    train(Line(), CONFIG, tmp_path)
    plot(tmp_path / "log.jsonl", tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_curves_that_cannot_be_written_are_an_error_of_the_place(tmp_path):
    (tmp_path / "log.jsonl").write_text('{"step": 0, "loss": 2.5}\n')
    (tmp_path / "curves.png").mkdir()
    with pytest.raises(OutputError):
        plot(tmp_path / "log.jsonl", tmp_path / "curves.png")
