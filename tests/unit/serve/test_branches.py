"""Jobs that go on from a step of another one."""

from dataclasses import replace

import pytest
import torch

import diffuscope as ds
from diffuscope.request import Latents
from diffuscope.serve import Engine, Limits, Origin
from refusals import refused
from served import PATIENCE

FOX = ds.Request("a fox", seed=3, upscale=1, sampler="heun", num_inference_steps=5)
PAIR = ds.Request(("a fox", "a hen"), negative_prompt="a cup", seed=3, upscale=1, num_inference_steps=4)
KEPT = ("x", "x0", "cond", "uncond")


@pytest.fixture
def engine(tiny):
    made = Engine(tiny, running=2, exact=True)
    yield made
    made.stop(drain=False)


def states(engine, job, kind="x", image=0):
    job.result(PATIENCE)
    return [engine.array(job.id, image, step, kind) for step in range(len(job.plan.levels.sigmas) - 1)]


def test_a_branch_keeps_the_steps_before_it_and_computes_only_the_others(engine):
    job = engine.submit(FOX, record=KEPT)
    before = states(engine, job)
    calls = engine.batcher.calls
    same = engine.branch(Origin(job.id, 3), {}, record=KEPT)
    assert all(torch.equal(a, b) for a, b in zip(states(engine, same), before, strict=True))
    assert engine.batcher.calls - calls == 2 + 1 + 1  # two steps of heun, the last with one call; and the decoder
    for kind in ("cond", "uncond"):
        pairs = zip(states(engine, same, kind), states(engine, job, kind), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)
    blue = engine.branch(Origin(job.id, 3), {"prompt": "a blue fox"}, record=KEPT)
    equal = [torch.equal(a, b) for a, b in zip(states(engine, blue), before, strict=True)]
    assert equal == [True, True, True, False, False]
    assert blue.origin == Origin(job.id, 3)
    below = engine.branch(Origin(blue.id, 4), {"guidance_scale": 2}, record=KEPT)
    equal = [torch.equal(a, b) for a, b in zip(states(engine, below), states(engine, blue), strict=True)]
    assert equal == [True, True, True, True, False]


def test_what_a_cancelled_run_has_for_branches_counts(engine):
    job = engine.submit(replace(FOX, num_inference_steps=200), record=KEPT)
    next(event for event in job.events(timeout=PATIENCE) if event.kind == "step")
    job.cancel()
    engine.stop(drain=False)  # waits for its thread
    kept = engine.answers.get((job.id, 0))
    assert kept.complete > 0
    assert engine.answers.size == kept.size > 0


def test_its_image_is_that_of_its_request_alone(engine, tiny, tmp_path):
    job = engine.submit(FOX, record=KEPT)
    x = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(1))
    painted = engine.branch(Origin(job.id, 2), {"sampler": "euler"}, x=Latents.of(x))
    (result,) = painted.result(PATIENCE)
    assert torch.equal(tiny(painted.request).latents, result.latents)
    (path,) = result.save(tmp_path / "out.png")
    assert ds.replay(path, model=tiny).identical


def test_what_was_forgotten_is_computed_again(tiny):
    made = {}
    for budget in (0, 1 << 20):
        engine = Engine(tiny, running=1, exact=True, limits=Limits(answers=budget))
        job = engine.submit(FOX, record=KEPT)
        job.result(PATIENCE)
        calls = engine.batcher.calls
        (result,) = engine.branch(Origin(job.id, 3), {"prompt": "a blue fox"}).result(PATIENCE)
        made[budget] = result.latents, engine.batcher.calls - calls
        engine.stop()
    assert torch.equal(made[0][0], made[1 << 20][0])
    assert (made[0][1], made[1 << 20][1]) == (10, 4)


def test_jobs_of_several_images(engine):
    job = engine.submit(PAIR, record=KEPT)
    both = engine.branch(Origin(job.id, 2), {"guidance_scale": 2}, record=KEPT)
    second = engine.branch(Origin(job.id, 2, image=1), {"prompt": "a red hen"}, record=KEPT)
    for image, branch, own in ((0, both, 0), (1, both, 1), (1, second, 0)):
        pairs = zip(states(engine, branch, image=own), states(engine, job, image=image), strict=True)
        assert [torch.equal(a, b) for a, b in pairs] == [True, True, False, False]
    (result,) = second.result()
    assert result.receipt["prompt"] == ["a red hen"]
    assert result.receipt["branch"]["request"]["prompt"] == ["a hen"]
    assert result.seeds == [4]
    x = torch.stack([torch.zeros(4, 16, 16), torch.ones(4, 16, 16)])
    painted = engine.branch(Origin(job.id, 2), {}, x=Latents.of(x), record=KEPT)
    assert [states(engine, painted, image=k)[1].mean() for k in (0, 1)] == [0, 1]


def test_what_cannot_be_branched(engine):
    job = engine.submit(PAIR)
    with refused("from.job"):
        engine.branch(Origin("0", 1), {})
    with refused("branch.step", 4):
        engine.branch(Origin(job.id, 4), {})
    with refused("from.image", 2):
        engine.branch(Origin(job.id, 1, image=2), {})
    with refused("seed", 9):
        engine.branch(Origin(job.id, 1), {"seed": 9})
    with refused("prompt"):
        engine.branch(Origin(job.id, 1), {"prompt": "a fox"})
    with refused("branch.x"):
        engine.branch(Origin(job.id, 1), {}, x=Latents.of(torch.zeros(1, 4, 16, 16)))
