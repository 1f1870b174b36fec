"""A run that goes on from a step of another: the same bits where nothing is changed, and a file repeats it."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from PIL import Image

import diffuscope as ds
from diffuscope.diffusion.samplers import TABLE, network_calls
from diffuscope.perf import memory
from diffuscope.pipeline import Pipeline, Run, receipt
from diffuscope.pipeline.inputs import Call
from diffuscope.request import Branch, Latents, Request
from refusals import refused

PROMPT, OTHER = "a red fox", "a blue fox"
START = Image.linear_gradient("L").convert("RGB")
MASK = Image.new("L", (32, 32))
MASK.paste(255, (0, 0, 16, 32))
CALLS = {
    "text": {},
    "batch": {"prompt": [PROMPT, "a hen"], "num_images_per_prompt": 2, "batch_size": 3},
    "img2img": {"image": START, "strength": 0.8},
    "inpainting": {"image": START, "mask_image": MASK},
}


@pytest.fixture(scope="module")
def small(tiny: Pipeline) -> Pipeline:
    """Of half the size: which steps are whose does not depend on it."""
    config = replace(tiny.config, preset=replace(tiny.config.preset, height=16, width=16))
    return Pipeline(replace(tiny.components, config=config))


def states(run: Run) -> list[torch.Tensor]:
    return [step.x.clone() for step in run]


def equal(left: list[torch.Tensor], right: list[torch.Tensor]) -> list[bool]:
    return [torch.equal(a, b) for a, b in zip(left, right, strict=True)]


@pytest.mark.parametrize("sampler", TABLE)
def test_every_sampler_keeps_its_bits(small: Pipeline, sampler: str) -> None:
    """Nothing changed, all are the same; a change, those before it: with what was recorded, and from the request."""
    call = {"seed": 3, "sampler": sampler, "num_inference_steps": 5}
    run = small.steps(PROMPT, **call)
    before = states(run)
    assert equal(states(run.branch(3)), before) == [True] * 5
    other = states(run.branch(3, prompt=OTHER))
    assert equal(other, before) == [True] * 3 + [False] * 2
    first = Branch(3, Request(PROMPT, **call))
    assert equal(states(small.steps(PROMPT, **call, branch=first)), before) == [True] * 5
    assert equal(states(small.steps(OTHER, **call, branch=first)), other) == [True] * 5


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("sampler", ["dpmpp_2m", "heun", "euler_ancestral", "dpmpp_sde"])
def test_batches_and_images(small: Pipeline, name: str, sampler: str) -> None:
    call = {"prompt": PROMPT, "seed": 3, "sampler": sampler, "num_inference_steps": 5} | CALLS[name]
    run = small.steps(**call)
    before = states(run)
    assert equal(states(run.branch(2)), before) == [True] * len(run)
    other = run.branch(2, guidance_scale=2)
    assert equal(states(other), before) == [True, True] + [False] * (len(run) - 2)
    inputs = {name: call[name] for name in ("image", "mask_image") if name in call}
    request = receipt.request_of(other.result().receipt)
    assert torch.equal(small(request, **inputs).latents, other.result().latents)


@pytest.mark.parametrize("steps", [3, 12])
def test_the_twin_keeps_its_bits_too(tiny_folder: Path, steps: int) -> None:
    """It embeds many timesteps in one product, whose bits may depend on how many they are."""
    twin = ds.load(str(tiny_folder), fast=True)
    run = twin.steps(PROMPT, seed=3, num_inference_steps=steps)
    before = states(run)
    for step in range(1, steps):
        assert equal(states(run.branch(step)), before) == [True] * steps


CHANGES = {
    "prompt": {"prompt": OTHER},
    "negative_prompt": {"negative_prompt": "green"},
    "guidance_scale": {"guidance_scale": 1},
    "guidance_options": {"guidance_options": {"rescale": 0.5}},
    "thresholding": {"thresholding": {"limit": 0.5}},
    "sampler": {"sampler": "heun"},
    "sampler_options": {"sampler_options": {"eta": 1.0}},
    "steps": {"num_inference_steps": 12},
    "spacing": {"sigmas": "karras"},
    "levels": {"sigmas": [3.0, 1.0, 0.2, 0.0]},
    "clip_skip": {"clip_skip": 1},
    "colour": {"guidance_options": {"colour": (0, 0, 1)}},
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_can_change(small: Pipeline, tmp_path: Path, name: str) -> None:
    """The file of each repeats it."""
    run = small.steps(PROMPT, seed=3, sampler="ddim", num_inference_steps=6)
    before = states(run)
    other = run.branch(3, **CHANGES[name])
    after = states(other)
    assert equal(before[:3], after[:3]) == [True] * 3
    assert not torch.equal(after[-1], before[-1])
    assert other.levels.sigmas[:4] == run.levels.sigmas[:4]
    assert all(above > below for above, below in pairwise(other.levels.sigmas))
    (path,) = other.result().save(tmp_path / "out.png")
    assert ds.replay(path, model=small).identical


def test_only_the_steps_after_it_are_computed(small: Pipeline) -> None:
    for sampler, step in (("euler", 4), ("heun", 2), ("restart", 1)):
        run = small.steps(PROMPT, seed=3, sampler=sampler, num_inference_steps=6)
        run.result()
        seen: list[int] = []
        run.branch(step, prompt=OTHER, tap={"unet.x": lambda x, seen=seen: seen.append(len(x))}).result()
        counts = network_calls(TABLE[sampler].function, run.levels.sigmas)
        assert len(seen) == sum(counts[step:])
        assert [len(answers) for answers in map(run.answers.__getitem__, range(6))] == counts


def test_a_run_that_has_not_come_so_far(small: Pipeline) -> None:
    """What it has not computed is computed by its own request."""
    whole = small.steps(PROMPT, seed=3, num_inference_steps=6)
    whole.result()
    begun = small.steps(PROMPT, seed=3, num_inference_steps=6)
    next(begun)
    expected = whole.branch(4, prompt=OTHER).result().latents
    assert torch.equal(begun.branch(4, prompt=OTHER).result().latents, expected)


def test_what_was_forgotten_is_computed_again(small: Pipeline) -> None:
    whole = small.steps(PROMPT, seed=3, sampler="heun", num_inference_steps=6)
    whole.result()
    run = small._begin(Call(PROMPT, seed=3, sampler="heun", num_inference_steps=6), budget=5 * 4 * 8 * 8 * 4)
    run.result()
    assert run.answers.complete == 2
    expected = whole.branch(4, prompt=OTHER).result().latents
    assert torch.equal(run.branch(4, prompt=OTHER).result().latents, expected)


def test_a_tree(small: Pipeline, tmp_path: Path) -> None:
    """A branch of a branch; before the place where it left, it is a branch of the first run."""
    run = small.steps(PROMPT, seed=3, num_inference_steps=6)
    blue = run.branch(2, prompt=OTHER)
    green = blue.branch(4, prompt="a green fox")
    first, second, third = states(run), states(blue), states(green)
    assert equal(second, third) == [True] * 4 + [False] * 2
    early = blue.branch(1, guidance_scale=2)
    assert equal(states(early), first)[:2] == [True, False]
    assert early.result().receipt["branch"]["request"]["prompt"] == [PROMPT]
    (path,) = green.result().save(tmp_path / "out.png")
    found = receipt.request_of(receipt.read(path))
    assert found.branch is not None
    assert found.branch.request.branch is not None
    assert (found.branch.step, found.branch.request.branch.step) == (4, 2)
    assert ds.replay(path, model=small).identical
    assert Request.from_json(found.to_json()) == found


def test_a_branch_that_comes_too_late(small: Pipeline) -> None:
    """Of a branch at step 4 the first two steps are those of the first request."""
    root, x = Request(PROMPT, seed=3, num_inference_steps=6), Latents.of(torch.zeros(1, 4, 8, 8))
    late = Request(OTHER, num_inference_steps=6, branch=Branch(4, root, x))
    found, plain = (small("a hen", num_inference_steps=6, branch=Branch(2, first)) for first in (late, root))
    assert torch.equal(found.latents, plain.latents)
    assert found.receipt["branch"] == plain.receipt["branch"]


def test_painted_latents(small: Pipeline, tmp_path: Path) -> None:
    run = small.steps(PROMPT, seed=3, num_inference_steps=6)
    kept = [step.x.clone() for step in run]
    painted = kept[2].clone()
    painted[:, :, :4, :4] = 2.0
    other = run.branch(3, x=painted, prompt=OTHER)
    after = states(other)
    assert torch.equal(after[2], painted)
    assert equal(after, kept) == [True, True, False, False, False, False]
    (path,) = other.result().save(tmp_path / "out.png")
    assert receipt.read(path)["edits"] == []
    assert ds.replay(path, model=small).identical
    below = other.branch(5, prompt=PROMPT)
    assert equal(states(below), after) == [True] * 5 + [False]
    start = run.branch(0, x=torch.zeros_like(painted))
    assert not torch.equal(start.result().latents, run.result().latents)
    end = run.branch(6, x=painted)
    assert torch.equal(end.result().latents, painted)


def test_an_edit_in_the_loop_is_a_branch(small: Pipeline, tmp_path: Path) -> None:
    """A file repeats it, and a branch keeps it."""
    run = small.steps(PROMPT, seed=3, sampler="dpmpp_2m", num_inference_steps=6)
    before = []
    for step in run:
        if step.index in (1, 3):
            step.x = step.x * 1.1
        before.append(step.x.clone())
    (path,) = run.result().save(tmp_path / "out.png")
    assert ds.replay(path, model=small).identical
    assert equal(states(run.branch(5)), before) == [True] * 6
    other = run.branch(3, prompt=OTHER)
    assert equal(states(other), before) == [True] * 3 + [False] * 3
    (path,) = other.result().save(tmp_path / "other.png")
    assert ds.replay(path, model=small).identical


def test_latents_too_large_for_a_file(small: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has their hash, and says that it cannot be repeated."""
    monkeypatch.setattr(receipt, "LATENTS", 100)
    run = small.steps(PROMPT, seed=3)
    step = next(run)
    step.x = step.x * 1.1
    (path,) = run.result().save(tmp_path / "out.png")
    found = receipt.read(path)
    assert found["edits"] == ["branch.x"]
    assert found["branch"]["x"]["data"] == ""
    assert len(found["branch"]["x"]["sha256"]) == 64
    with refused("path"):
        ds.replay(path, model=small)


def test_what_holds_for_the_whole_run(small: Pipeline) -> None:
    run = small.steps(PROMPT, seed=3, num_inference_steps=6)
    for name, value in {"seed": 4, "height": 32, "strength": 0.5, "latents": torch.zeros(1), "image": START}.items():
        with refused(name):
            run.branch(2, **{name: value})
    for step in (-1, 6, 2.5):
        with refused("branch.step" if step == 6 else "step", step):
            run.branch(step)
    with refused("prompt"):
        run.branch(2, prompt=["a", "b"])
    with refused("branch.x"):
        run.branch(2, x=torch.zeros(1, 4, 3, 3))
    with refused("branch.x"):
        run.branch(2, x=torch.full((1, 4, 8, 8), torch.nan))
    with refused("sigmas"):
        run.branch(5, sigmas=[30.0, 20.0, 10.0])
    with pytest.raises(TypeError, match="Did you mean 'guidance_scale'"):
        run.branch(2, guidance_scal=1)
    with refused("seed", 3):
        small.steps(PROMPT, seed=3, branch=Branch(2, Request(OTHER, seed=4)))


def test_answers_of_another_run(small: Pipeline) -> None:
    run = small.steps(PROMPT, seed=3)
    run.result()
    with refused("answers"):
        small.steps(OTHER, seed=4, branch=Branch(2, Request(PROMPT, seed=4)), answers=run.answers)
    with refused("answers"):
        small.steps(OTHER, seed=3, answers=run.answers)
    request = Request(OTHER, branch=Branch(2, Request(PROMPT, seed=3)))
    kept = small(request, answers=run.answers)
    assert torch.equal(kept.latents, small(request).latents)


def test_a_call_that_cannot_be_branched(small: Pipeline) -> None:
    run = small.steps(PROMPT, seed=3)
    next(run).x0.mul_(2)
    with refused("run"):
        run.branch(2)
    drawn = torch.Generator().manual_seed(1)
    torch.randn(3, generator=drawn)
    run = small.steps(PROMPT, generator=drawn)
    next(run)
    with refused("run"):
        run.branch(1)
    fresh = small.steps(PROMPT, generator=torch.Generator().manual_seed(1))
    whole = fresh.result().latents
    assert torch.equal(fresh.branch(2).result().latents, whole)


def test_latents_as_json() -> None:
    values = torch.randn(2, 4, 3, 5)
    kept = Latents.of(values)
    assert Latents.from_json(kept.to_json()) == kept
    assert str(kept) == "Latents([2, 4, 3, 5])"
    with refused("x"):
        Latents.of(values[0])


def test_memory_may_choose_other_batches(small: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was recorded with all images at once is that of the run, also where fewer fit now."""
    run = small.steps(PROMPT, num_images_per_prompt=3, seed=3)
    before = states(run)
    monkeypatch.setattr(memory, "images_at_once", lambda *_, **__: 2)
    other = run.branch(2, prompt=OTHER)
    assert equal(states(other), before) == [True, True, False, False]
    assert other.receipt["batch_size"] == 2
    drawn = [torch.Generator().manual_seed(seed) for seed in (3, 4, 5)]
    assert small(PROMPT, num_images_per_prompt=3, generator=drawn).receipt["batch_size"] == 2


def test_cached_steps_begin_anew(small: Pipeline) -> None:
    """With and without what was recorded the branch is the same, though its U-Net has a cache."""
    call = {"seed": 3, "num_inference_steps": 6, "step_caching": 2}
    run = small.steps(PROMPT, **call)
    before = states(run)
    other = states(run.branch(3, prompt=OTHER))
    assert equal(other, before) == [True] * 3 + [False] * 3
    alone = small.steps(OTHER, **call, branch=Branch(3, Request(PROMPT, **call)))
    assert equal(states(alone), other) == [True] * 6
