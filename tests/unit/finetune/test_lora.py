"""A LoRA of one's own pictures: what is trained, pictures of the class that are made once, and mistakes."""

import copy
from itertools import pairwise

import pytest
import torch
from torch import nn

from diffuscope.bench.measure import random_model
from diffuscope.config import PRESETS
from diffuscope.errors import OutputError, TrainingError, WeightsError
from diffuscope.finetune import train_lora
from diffuscope.finetune.lora import LoraTask
from diffuscope.finetune.memory import activations
from diffuscope.finetune.networks import Factors, is_target, shared_copy, updated
from diffuscope.finetune.options import LoraTraining
from diffuscope.finetune.session import Watched
from diffuscope.finetune.subject import Denoising
from diffuscope.lens.gradient_memory import saved_tensors
from diffuscope.lens.shapes import call_with_zeros
from diffuscope.pipeline import Pipeline
from diffuscope.training.loop import StepContext
from diffuscope.weights.store import files
from refusals import refused

SHORT = {"caption": "a zeb ball", "steps": 8, "lr": 0.01, "rank": 2}


@pytest.fixture
def pipe(tiny: Pipeline) -> Pipeline:
    return Pipeline(copy.deepcopy(tiny.components))


def test_it_learns_and_the_pipeline_stays_as_it_is(tiny, pipe, pictures, tmp_path):
    before = {name: value.clone() for name, value in pipe.unet.state_dict().items()}
    report = train_lora(pipe, pictures, tmp_path / "zeb.safetensors", **SHORT)
    assert report.error_after < report.error_before
    assert all(torch.equal(before[name], value) for name, value in pipe.unet.state_dict().items())
    assert before.keys() == pipe.unet.state_dict().keys()
    loaded = pipe.load_lora(report.path)
    assert (loaded.matched, loaded.unmatched, loaded.layout) == (report.layers, (), "kohya")
    assert [*loaded.parts] == ["unet"]


def test_the_text_encoder_learns_where_it_is_asked(pipe, pictures, tmp_path):
    train_lora(pipe, pictures, tmp_path / "z.safetensors", **SHORT, text_encoder=True, dialect="diffusers")
    loaded = pipe.load_lora(tmp_path / "z.safetensors")
    assert loaded.layout == "PEFT"
    assert loaded.parts["text_encoder"] == 12  # four of attention and two of the MLP, in two layers


def test_pictures_of_the_class_are_made_once_and_named_by_what_they_depend_on(pipe, pictures, tmp_path):
    prior = SHORT | {"prior": ("a ball", "a cup"), "prior_count": 3, "steps": 2}
    told = []
    train_lora(pipe, pictures, tmp_path / "one.safetensors", **prior, tell=told.append)
    (path,) = tmp_path.glob("prior-*.safetensors")
    made = files.read(path)["latents"]
    seeds = pipe(["a ball", "a cup", "a ball"], seed=[0, 1, 2], output_type="latent")
    assert torch.equal(made, seeds.latents)
    train_lora(pipe, pictures, tmp_path / "two.safetensors", **prior | {"rank": 3}, tell=told.append)
    assert [line for line in told if "of the class" in line] == [
        "making 3 pictures of the class",
        f"3 pictures of the class are in {path}",
    ]
    train_lora(pipe, pictures, tmp_path / "three.safetensors", **prior | {"prior_count": 2})
    assert len([*tmp_path.glob("prior-*.safetensors")]) == 2
    files.write(path, {"latents": made[:1]})
    with pytest.raises(WeightsError, match="3 pictures"):
        train_lora(pipe, pictures, tmp_path / "four.safetensors", **prior)


def test_a_rate_that_explodes_ends_the_training(pipe, pictures, tmp_path):
    with pytest.raises(TrainingError, match="lower lr than 1000"):
        train_lora(pipe, pictures, tmp_path / "zeb.safetensors", **SHORT | {"lr": 1000.0, "steps": 40})
    assert not (tmp_path / "zeb.safetensors").exists()


def test_the_error_of_a_prior_is_no_explosion(pipe, pictures, tmp_path, monkeypatch):
    """The pictures of the class may be far harder than one's own."""
    monkeypatch.setattr(Denoising, "errors", lambda _self, unet, x0, *_: unet.conv_out.bias.sum() * 0 + x0[:, 0, 0, 0])
    training = LoraTraining(caption="a ball", prior=("a cup",), batch_size=2)
    task = LoraTask(pipe, torch.full((1, 4, 8, 8), 0.1), ["a ball"], 16, training)
    task.set_prior(torch.full((1, 4, 8, 8), 9.0), ["a cup"])
    watched = Watched(task, 0.1, 40, training, 1e-3)
    for step in range(20):
        loss, _ = watched.loss(StepContext(torch.Generator(), step, step, 0.0))
    assert loss.item() == pytest.approx(9.1)


def test_numbers_that_are_not_finite_are_left_out_and_end_a_training_of_nothing_else(pipe, pictures, tmp_path):
    pipe.unet.conv_out.bias.fill_(float("nan"))
    with pytest.raises(TrainingError, match="not finite in the last 8 steps"):
        train_lora(pipe, pictures, tmp_path / "zeb.safetensors", **SHORT)
    assert '"skipped": 8.0' in (tmp_path / "zeb.run" / "log.jsonl").read_text()


def test_a_checkpoint_of_another_architecture_is_refused(pipe, pictures, tmp_path):
    (tmp_path / "zeb.run").mkdir()
    files.write(tmp_path / "zeb.run" / "checkpoint.safetensors", {"network.weight": torch.zeros(2)})
    with pytest.raises(WeightsError, match="no checkpoint of this run"):
        train_lora(pipe, pictures, tmp_path / "zeb.safetensors", **SHORT)


def test_captions_are_needed_and_what_has_none_is_listed(pipe, pictures, tmp_path):
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes((pictures / name).read_bytes())
    with refused("pictures") as caught:
        train_lora(pipe, tmp_path, tmp_path / "zeb.safetensors", **SHORT | {"caption": None})
    assert "a.png: no caption" in caught.value.got
    (tmp_path / "a.txt").write_text("a zeb ball")
    (tmp_path / "b.txt").write_text(" ")
    told = []
    train_lora(pipe, tmp_path, tmp_path / "zeb.safetensors", **SHORT | {"steps": 2}, tell=told.append)
    assert told[0].splitlines() == ["1 picture, 1 skipped", "  b.png: an empty caption"]
    with refused("pictures"):
        train_lora(pipe, tmp_path / "nothing", tmp_path / "zeb.safetensors", **SHORT, overwrite=True)


@pytest.mark.parametrize(
    ("option", "value"), [("rank", 0), ("lr", float("nan")), ("targets", "everything"), ("size", 33), ("batch_size", 0)]
)
def test_impossible_options_are_refused(pipe, pictures, tmp_path, option, value):
    with refused(option):
        train_lora(pipe, pictures, tmp_path / "zeb.safetensors", **SHORT | {option: value})


def test_other_mistakes_of_a_call_are_refused(pipe, pictures, tmp_path):
    with refused("batch_size", 1):
        train_lora(pipe, pictures, tmp_path / "zeb.safetensors", **SHORT, batch_size=1, prior=("a ball",))
    with refused("out"):
        train_lora(pipe, pictures, tmp_path / "zeb.pt", **SHORT)
    with pytest.raises(TypeError, match="Did you mean 'rank'"):
        train_lora(pipe, pictures, tmp_path / "zeb.safetensors", **SHORT, rnk=3)


def test_each_choice_of_layers_has_more_of_them(tiny: Pipeline):
    chosen = [
        {name for name, module in tiny.unet.named_modules() if is_target(name, targets, tiny.unet)}
        for targets in ("cross-attention", "attention", "transformer", "all")
    ]
    assert all(few < many for few, many in pairwise(chosen))
    assert all(name.rpartition(".")[0].endswith("cross_attn") for name in chosen[0])
    assert not any(name in chosen[3] for name in ("conv_in", "conv_out", "time_embed.linear_1"))


def test_a_copy_shares_every_tensor_and_no_module(tiny: Pipeline):
    twin = shared_copy(tiny.unet)
    for (name, one), (other_name, other) in zip(tiny.unet.named_modules(), twin.named_modules(), strict=True):
        assert name == other_name
        assert one is not other
    assert all(a is b for a, b in zip(tiny.unet.parameters(), twin.parameters(), strict=True))


def test_updates_start_without_effect(tiny: Pipeline):
    factors = Factors(tiny.unet, 4, "all", torch.Generator().manual_seed(0))
    x, context = torch.randn(1, 4, 8, 8), torch.randn(1, 7, 32)
    with torch.no_grad():
        assert torch.equal(updated(tiny.unet, factors)(x, 3.0, context), tiny.unet(x, 3.0, context))
    assert isinstance(factors.up, nn.ParameterDict)


def test_options_are_stated_once() -> None:
    names = list(LoraTraining(caption="a").to_dict())
    assert len(names) == len({*names})
    assert {"rank", "batch_size", "overwrite"} <= {*names}
    assert "tell" not in names


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_memory_is_counted_as_it_is_kept(checkpointing: bool, dtype: torch.dtype) -> None:
    """A real forward pass keeps what was counted from shapes; with checkpoints one block comes back at a time."""
    tiny = random_model(PRESETS["tiny"], torch.device("cpu"), dtype)
    options = LoraTraining(caption="a", rank=2, batch_size=2, targets="all", gradient_checkpointing=checkpointing)
    task = LoraTask(tiny, torch.zeros(2, 4, 16, 16), ["a", "a"], 32, options)
    with torch.enable_grad(), saved_tensors() as kept:
        call_with_zeros(task.unet, 2, (16, 16))
    counted, real = activations(tiny, 32, options, 2, "all"), sum(kept.values())
    assert real < counted if checkpointing else real == counted
    whole = activations(tiny, 32, LoraTraining(caption="a", batch_size=2), 2, "all")
    assert counted <= whole


@pytest.mark.parametrize("seed", [5_000_000_000, 2**63 - 1])
def test_every_seed_that_is_taken_can_be_trained_with(pipe, pictures, tmp_path, seed):
    prior = {"prior": ("a ball",), "prior_count": 2, "batch_size": 2}
    train_lora(pipe, pictures, tmp_path / "zeb.safetensors", **SHORT | {"steps": 2}, **prior, seed=seed)


def test_a_file_that_cannot_be_written_is_refused_before_the_training(pipe, pictures, tmp_path):
    (tmp_path / "zeb.safetensors").mkdir()
    with pytest.raises(OutputError):
        train_lora(pipe, pictures, tmp_path / "zeb.safetensors", **SHORT, overwrite=True)
    assert not (tmp_path / "zeb.run").exists()


def test_a_folder_whose_record_is_damaged_is_of_another_training(pipe, pictures, tmp_path):
    (tmp_path / "zeb.run").mkdir()
    (tmp_path / "zeb.run" / "run.json").write_bytes(b"\xff")
    with pytest.raises(OutputError, match="--overwrite"):
        train_lora(pipe, pictures, tmp_path / "zeb.safetensors", **SHORT)
    train_lora(pipe, pictures, tmp_path / "zeb.safetensors", **SHORT, overwrite=True)


def test_a_training_that_changes_nothing_is_not_told_to_train_less(pipe, pictures, tmp_path):
    with pytest.raises(TrainingError, match="higher lr"):
        train_lora(pipe, pictures, tmp_path / "zeb.safetensors", **SHORT | {"lr": 1e-30})
