"""Jobs on one model: the images are those of calls made alone, and jobs wait, run and end as they should."""

import copy
import subprocess
import sys
import threading
from concurrent.futures import CancelledError
from dataclasses import replace

import pytest
import torch

import diffuscope as ds
import lora_files
from diffuscope.errors import BusyError, StoppingError, TimeLimitError
from diffuscope.models.unet import UNet
from diffuscope.perf import memory
from diffuscope.perf.weights import Watch
from diffuscope.pipeline import Pipeline
from diffuscope.pipeline.inputs import Call
from diffuscope.serve import Engine, Limits, batcher
from refusals import refused
from served import PATIENCE

SOME = [
    ds.Request(prompt="a fox", seed=1, upscale=1),
    ds.Request(prompt="a red cup", seed=2, upscale=1, sampler="dpmpp_2m", num_inference_steps=3),
    ds.Request(prompt="a tree", seed=3, upscale=1, sampler="euler_ancestral", guidance_scale=1.0),
    ds.Request(prompt="a moon", seed=4, upscale=1, sampler="heun", num_inference_steps=2, negative_prompt="a sun"),
    ds.Request(prompt=("a ball", "a car"), seed=(5, 9), upscale=1, num_images_per_prompt=1),
    ds.Request(
        prompt="a house", seed=6, upscale=1, height=64, width=32, guidance_options=ds.GuidanceOptions(rescale=0.5)
    ),
]


@pytest.fixture
def engine(tiny):
    made = Engine(tiny, running=4)
    yield made
    made.stop(drain=False)


@pytest.fixture(scope="module")
def alone(tiny):
    return [tiny(request) for request in SOME]


@pytest.fixture
def patient(monkeypatch):
    """Calls wait for those of the other runs, however slow the machine is: there are some to share."""
    monkeypatch.setattr(batcher, "WAIT", PATIENCE)


def test_images_of_any_mix_are_those_made_alone(engine, alone, patient):
    jobs = [engine.submit(request, owner=str(k % 2), interactive=k % 3 == 0) for k, request in enumerate(SOME * 3)]
    for k, job in enumerate(jobs):
        wanted = alone[k % len(SOME)]
        results = job.result(PATIENCE)
        assert [seed for result in results for seed in result.seeds] == wanted.seeds
        latents = torch.cat([result.latents for result in results])
        torch.testing.assert_close(latents, wanted.latents, rtol=1e-4, atol=1e-4)
    assert engine.batcher.joined > engine.batcher.calls


def test_fast_twins_run_the_shared_calls_too(tiny, alone, patient, monkeypatch: pytest.MonkeyPatch):
    def plain(*_: object, **__: object) -> None:
        raise AssertionError("the plain network ran")

    networks = {name: copy.deepcopy(getattr(tiny, name)) for name in ("unet", "vae")}  # twins lay weights out anew
    fast = Pipeline(replace(tiny.components, **networks), fast=True)
    monkeypatch.setattr(UNet, "forward", plain)
    looks, is_unchanged = [], Watch.is_unchanged
    monkeypatch.setattr(Watch, "is_unchanged", lambda watch: looks.append(watch) or is_unchanged(watch))
    engine = Engine(fast, running=4)
    jobs = [engine.submit(request) for request in SOME * 2]
    for k, job in enumerate(jobs):
        latents = torch.cat([result.latents for result in job.result(PATIENCE)])
        torch.testing.assert_close(latents, alone[k % len(SOME)].latents, rtol=1e-3, atol=1e-3)
    assert engine.batcher.joined > engine.batcher.calls
    assert len(looks) < engine.batcher.joined + engine.batcher.calls  # of the weights: not one for each run and call
    engine.stop()


@pytest.mark.parametrize("fast", [False, True])
def test_each_job_has_the_loras_that_its_prompt_names(tiny_folder, tmp_path, fast):
    pipe = ds.load(str(tiny_folder), fast=fast)
    tensors = lora_files.kohya(lora_files.layers(pipe, wanted=lora_files.trained))
    lora_files.write(tmp_path / "one.safetensors", tensors)
    lora_files.write(tmp_path / "two.safetensors", {name: values.flip(0) for name, values in tensors.items()})
    pipe.lora_dir = tmp_path
    prompts = ["a fox", "a fox <lora:one:0.8>", "a cup <lora:two:1>", "a tree", "a fox <lora:one:0.3>"]
    requests = [ds.Request(prompt=prompt, seed=k, upscale=1) for k, prompt in enumerate(prompts)]
    wanted = [pipe(request).latents for request in requests]
    engine = Engine(pipe, running=4)
    for job, latents in zip([engine.submit(request) for request in requests * 2], wanted * 2, strict=True):
        torch.testing.assert_close(job.result(PATIENCE)[0].latents, latents, rtol=1e-4, atol=1e-4)
    engine.stop()
    assert (wanted[1] - pipe("a fox", seed=1, upscale=1).latents).abs().max() > 0.1


def test_memory_is_given_back_after_work(engine, monkeypatch: pytest.MonkeyPatch):
    trims = []
    monkeypatch.setattr(memory, "trim", lambda: trims.append(True))
    for job in [engine.submit(SOME[0]), engine.submit(SOME[0])]:
        job.result(PATIENCE)
    engine.stop()
    assert len(trims) == 2


def test_exact_means_the_same_bits(tiny, alone):
    engine = Engine(tiny, running=3, exact=True)
    jobs = [engine.submit(request) for request in SOME]
    single = [k for k in range(len(SOME)) if len(alone[k].seeds) == 1]
    assert all(torch.equal(jobs[k].result(PATIENCE)[0].latents, alone[k].latents) for k in single)
    assert jobs[0].result()[0].images[0].tobytes() == alone[0].images[0].tobytes()
    engine.stop()


def test_a_call_with_a_tap_runs_by_itself_with_it(engine, tiny):
    call = Call(prompt="a fox", seed=1, upscale=1, tap={"unet.mid.*": lambda value: value * 0})
    changed = engine.submit(call).result(PATIENCE)[0].latents
    assert torch.equal(changed, tiny(call).latents)


def test_events_tell_the_way_of_a_job(engine):
    job = engine.submit(replace(SOME[0], num_images_per_prompt=2, num_inference_steps=2), record=("x",))
    events = list(job.events())
    assert [event.id for event in events] == list(range(1, len(events) + 1))
    assert [event.kind for event in events if event.image is None] == ["queued", "done"]
    for image in range(2):
        own = [(event.kind, event.step) for event in events if event.image == image]
        assert own == [("started", None), ("step", 0), ("step", 1), ("image", None)]
    assert [event.id for event in job.events(after=3)] == [event.id for event in events[3:]]
    assert job.state == "done"
    assert torch.equal(engine.array(job.id, 1, 1, "x"), job.result()[1].latents[0])
    assert engine.array(job.id, 1, 2, "x") is None
    assert engine.array(job.id, 1, 1, "x0") is None


def hold(engine):
    """Fill the engine's places with a run that waits; returns its job and what lets it go on."""
    go, entered = threading.Event(), threading.Event()

    def wait(value):
        entered.set()
        go.wait(PATIENCE)
        return value

    job = engine.submit(Call(prompt="a fox", seed=1, upscale=1, tap={"unet.x": wait}))
    assert entered.wait(PATIENCE)
    return job, go


def test_what_waits_is_cancelled_at_once_and_what_runs_at_its_next_call(tiny):
    engine = Engine(tiny, running=1)
    running, go = hold(engine)
    waiting = engine.submit(SOME[1])
    waiting.cancel()
    assert (waiting.state, engine.waiting) == ("cancelled", 0)
    with pytest.raises(CancelledError):
        waiting.result(1)
    running.cancel()
    go.set()
    with pytest.raises(CancelledError):
        running.result(PATIENCE)
    engine.stop()
    assert sum(event.kind == "step" for event in running.after(0)) <= 2


def test_a_full_queue_refuses_and_takes_again_later(tiny):
    engine = Engine(tiny, running=1, queue=2)
    running, go = hold(engine)
    kept = engine.submit(replace(SOME[0], num_images_per_prompt=2))
    with pytest.raises(BusyError):
        engine.submit(SOME[0])
    go.set()
    running.result(PATIENCE)
    assert len(kept.result(PATIENCE)) == 2
    engine.submit(SOME[0]).result(PATIENCE)
    engine.stop()
    with pytest.raises(StoppingError):
        engine.submit(SOME[0])


def test_an_impossible_request_is_refused_before_it_waits(engine):
    with refused("sampler"):
        engine.submit(ds.Request(prompt="a fox", sampler="magic"))
    assert engine.jobs == []


def test_several_calls_are_one_job(engine, tiny):
    seen = [[], []]
    calls = [
        Call(prompt=("a fox", "a cup"), seed=(1, 1), upscale=1, tap={"unet.x": lambda x: seen[0].append(len(x))}),
        Call(prompt="a fox", seed=1, upscale=1, tap={"unet.x": lambda x: seen[1].append(len(x))}),
    ]
    job = engine.submit_calls(calls, keep_states=False)
    both, one = job.result(PATIENCE)
    assert (len(both.images), len(one.images), job.states) == (2, 1, [[], []])
    torch.testing.assert_close(both.latents[:1], one.latents, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(one.latents, tiny("a fox", seed=1, upscale=1).latents, rtol=1e-4, atol=1e-4)
    assert set(seen[0]) == {4}
    assert set(seen[1]) == {2}
    with refused("calls", []):
        engine.submit_calls([])


def test_a_failing_call_fails_its_job_and_no_other(engine):
    def fail(_value):
        raise ZeroDivisionError("on purpose")

    bad = engine.submit(Call(prompt="a fox", seed=1, upscale=1, tap={"unet.x": fail}))
    good = engine.submit(SOME[0])
    with pytest.raises(ZeroDivisionError, match="on purpose"):
        bad.result(PATIENCE)
    assert bad.state == "failed"
    assert len(good.result(PATIENCE)) == 1


def test_the_last_jobs_are_kept(tiny):
    engine = Engine(tiny, running=1, limits=Limits(jobs=2))
    jobs = []
    for _ in range(4):
        jobs.append(engine.submit(replace(SOME[0], num_inference_steps=1)))
        jobs[-1].result(PATIENCE)
    assert engine.job(jobs[0].id) is None
    assert engine.job(jobs[3].id) is jobs[3]
    engine.stop()
    with refused("running", 0):
        Engine(tiny, running=0)


def test_an_image_that_takes_too_long_fails(tiny):
    engine = Engine(tiny, running=1, limits=Limits(seconds=0))
    with pytest.raises(TimeLimitError):
        engine.submit(SOME[0]).result(PATIENCE)
    engine.stop()


def test_images_that_are_kept_have_a_budget_of_memory(tiny):
    engine = Engine(tiny, running=1, limits=Limits(results=1))
    first, last = (engine.submit(replace(SOME[0], num_inference_steps=1)) for _ in range(2))
    first.result(PATIENCE)
    last.result(PATIENCE)
    engine.submit(SOME[0]).result(PATIENCE)
    assert engine.job(first.id) is None
    engine.stop()


def test_a_slot_is_its_owners_own(tiny):
    engine = Engine(tiny, running=1)
    running, go = hold(engine)
    mine, theirs = (engine.submit(SOME[0], owner=owner, slot="view") for owner in ("me", "you"))
    newer = engine.submit(SOME[0], owner="me", slot="view")
    assert [job.state for job in (mine, theirs, newer)] == ["cancelled", "queued", "queued"]
    go.set()
    running.result(PATIENCE)
    newer.result(PATIENCE)
    engine.stop()


def test_python_may_end_while_an_engine_works(tiny_folder):
    code = """
import atexit, sys
import diffuscope as ds
from diffuscope.serve import Engine
atexit.register(lambda: print(sum(thread.is_alive() for thread in engine._threads)))  # called after the engine's own
engine = Engine(ds.load(sys.argv[1]))
jobs = [engine.submit(ds.Request(prompt="a fox", seed=seed, num_inference_steps=50)) for seed in range(40)]
"""
    command = [sys.executable, "-c", code, str(tiny_folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "0\n", "")


def test_a_job_that_is_refused_takes_no_slot(tiny):
    """What runs or waits there stays: nothing comes in its place."""
    engine = Engine(tiny, running=1, queue=2)
    running, go = hold(engine)
    older = engine.submit(SOME[0], slot="view")
    with pytest.raises(BusyError):
        engine.submit(replace(SOME[0], num_images_per_prompt=3), slot="view")
    assert older.state == "queued"
    newer = engine.submit(replace(SOME[0], num_images_per_prompt=2), slot="view")  # there is room in its place
    assert [job.state for job in (older, newer)] == ["cancelled", "queued"]
    engine.refuse()
    with pytest.raises(StoppingError):
        engine.submit(SOME[0], slot="view")
    go.set()
    running.result(PATIENCE)
    assert len(newer.result(PATIENCE)) == 2
    engine.stop()


def test_one_image_need_not_wait_for_those_of_a_large_job(engine):
    request = ds.Request(prompt="a cup", seed=7, upscale=1, num_inference_steps=300)
    large = engine.submit(replace(request, num_images_per_prompt=64), owner="large")
    engine.submit(replace(request, num_inference_steps=20), owner="small").result(PATIENCE)
    assert large.state == "running"
    assert not any(large.results)
    large.cancel()
