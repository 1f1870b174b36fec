"""LoRAs where things go wrong: interrupts, threads, two Pipelines over one network, names that two files have."""

import copy
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import Tensor

import diffuscope as ds
from diffuscope.adapters import merging
from diffuscope.adapters.merging import OVERTAKING, Merged, merged
from diffuscope.errors import NonFiniteError, OutOfMemoryError
from diffuscope.pipeline import Pipeline
from diffuscope.weights.adapter import lora
from lora_files import equal, kohya, layers, trained, weights_of, write
from refusals import refused
from served import PATIENCE


@pytest.fixture(scope="module")
def folder(tiny: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three LoRAs of all layers: ink, and twice "wood" in different folders."""
    place = tmp_path_factory.mktemp("loras")
    made = layers(tiny, wanted=trained)
    write(place / "ink.safetensors", kohya(made))
    for name, factor in (("a", 2.0), ("b", -1.0)):
        (place / name).mkdir()
        tensors = {key: tensor * factor if "lora_up" in key else tensor for key, tensor in kohya(made).items()}
        write(place / name / "wood.safetensors", tensors)
    return place


@pytest.fixture
def pipe(quick: Pipeline, folder: Path) -> Pipeline:
    pipe = Pipeline(copy.deepcopy(quick.components))
    pipe.lora_dir = folder
    return pipe


ACTIONS: dict[str, Callable[[Pipeline], object]] = {
    "load": lambda pipe: pipe.load_lora(pipe.lora_dir / "a" / "wood.safetensors", 0.5),
    "set": lambda pipe: pipe.set_lora("ink", 0.1),
    "unload": lambda pipe: pipe.unload_lora("ink"),
    "replace": lambda pipe: pipe.load_lora(pipe.lora_dir / "a" / "wood.safetensors", 0.5, name="ink"),
    "a call": lambda pipe: pipe("a fox <lora:a/wood:0.5>", seed=1),
    "a prompt": lambda pipe: pipe.encode_prompt("a fox <lora:a/wood:0.5>"),
}


@pytest.mark.parametrize("error", [KeyboardInterrupt, torch.OutOfMemoryError])
@pytest.mark.parametrize("action", ACTIONS)
def test_a_merge_that_breaks_off_leaves_all_as_it_was(
    pipe: Pipeline, folder: Path, monkeypatch: pytest.MonkeyPatch, action: str, error: type[BaseException]
) -> None:
    plain = weights_of(pipe)
    pipe.load_lora(folder / "ink.safetensors", 0.8)
    before = weights_of(pipe)
    place, name = (torch.nn.Module, "get_parameter") if action == "unload" else (lora, "merged")
    monkeypatch.setattr(place, name, _breaking(getattr(place, name), 7, error))
    with pytest.raises((error, OutOfMemoryError)):  # a call says what to change
        ACTIONS[action](pipe)
    assert pipe.adapters.weights["ink"] == 0.8
    assert equal(weights_of(pipe), before)
    pipe.unload_lora()
    assert equal(weights_of(pipe), plain)


def _breaking(real: Callable[..., object], at: int, error: type[BaseException]) -> Callable[..., object]:
    """The function, whose call number ``at`` raises the error instead."""
    calls = 0

    def breaking(*given: object) -> object:
        nonlocal calls
        calls += 1
        if calls == at:
            raise error
        return real(*given)

    return breaking


def test_even_an_interrupt_while_tensors_are_put_back_is_mended(
    pipe: Pipeline, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = pipe("a fox", seed=1).latents
    with monkeypatch.context() as patch:
        patch.setattr(lora, "merged", _breaking(lora.merged, 7, KeyboardInterrupt))
        patch.setattr(Merged, "_restore", _breaking(Merged._restore, 1, KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            pipe.load_lora(folder / "ink.safetensors")
    assert pipe.adapters.weights == {}
    assert torch.equal(pipe("a fox", seed=1).latents, plain)


def test_a_weight_that_overflows_is_told_and_undone(pipe: Pipeline, folder: Path) -> None:
    before = weights_of(pipe)
    with pytest.raises(NonFiniteError, match=r"'ink' at 3e\+38.*lower their weights"):
        pipe.load_lora(folder / "ink.safetensors", 3e38)
    assert pipe.adapters.weights == {}
    assert equal(weights_of(pipe), before)


PROMPTS = ["a fox <lora:ink:0.3>", "a fox <lora:a/wood:0.7>", "a fox", "a cat <lora:ink:0.3>", "a fox <lora:ink:1>"]


def test_threads_with_loras_make_what_each_makes_alone(pipe: Pipeline) -> None:
    def made(job: tuple[int, str]) -> tuple[Tensor, object]:
        result = pipe(job[1], seed=job[0], num_inference_steps=3)
        return result.latents, result.receipt["loras"]

    jobs = [(seed, prompt) for seed in range(2) for prompt in PROMPTS]
    alone = [made(job) for job in jobs]
    before = weights_of(pipe)
    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(made, jobs))
    assert all(torch.equal(a[0], b[0]) and a[1] == b[1] for a, b in zip(alone, together, strict=True))
    assert equal(weights_of(pipe), before)


def test_threads_with_exact_gradients_too(pipe: Pipeline) -> None:
    """The weights stay for the backward pass, which reads them after the network's call has returned."""
    options = {"colour": (0, 0, 1), "exact": True}

    def made(prompt: str) -> Tensor:
        return pipe(prompt, seed=1, num_inference_steps=1, guidance_options=options).latents

    prompts = PROMPTS[:2] * 2
    alone = [made(prompt) for prompt in prompts]
    with ThreadPoolExecutor(3) as pool:
        assert all(torch.equal(a, b) for a, b in zip(alone, pool.map(made, prompts), strict=True))


def test_what_is_loaded_while_a_run_is_under_way_does_not_reach_it(pipe: Pipeline, folder: Path) -> None:
    alone = pipe("a fox <lora:ink:0.3>", seed=1, num_inference_steps=3)
    run = pipe.steps("a fox <lora:ink:0.3>", seed=1, num_inference_steps=3)
    next(run)
    pipe.load_lora(folder / "a" / "wood.safetensors", 2.0)
    pipe.unload_lora("ink")
    result = run.result()
    assert torch.equal(result.latents, alone.latents)
    assert result.receipt["loras"] == alone.receipt["loras"]
    assert pipe.adapters.weights == {"wood": 2.0}


def test_two_pipelines_over_one_network_do_not_see_each_others_loras(pipe: Pipeline, folder: Path) -> None:
    other = Pipeline(pipe.components)
    plain = other("a fox", seed=1).latents
    hashes = other.weights
    pipe.load_lora(folder / "ink.safetensors", 0.8)
    inked = pipe("a fox", seed=1).latents
    assert torch.equal(other("a fox", seed=1).latents, plain)
    assert torch.equal(pipe("a fox", seed=1).latents, inked)
    other.load_lora(folder / "a" / "wood.safetensors", 0.5, name="ink")
    assert torch.equal(pipe("a fox", seed=1).latents, inked)
    assert Pipeline(pipe.components).weights == hashes
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda each: each("a fox", seed=1).latents, [pipe, other] * 3))
    assert all(torch.equal(latents, inked) for latents in both[::2])
    assert not torch.equal(both[1], inked)


def test_a_call_within_a_step_of_another_is_refused_if_its_loras_differ(pipe: Pipeline) -> None:
    inner: list[object] = []

    def within(prompt: str) -> Callable[[ds.Denoiser], ds.Denoiser]:
        def guide(denoise: ds.Denoiser) -> ds.Denoiser:
            def guided(x: Tensor, sigma: float) -> Tensor:
                inner.append(pipe(prompt, seed=1))
                return denoise(x, sigma)

            return guided

        return guide

    alone = pipe("a fox <lora:ink:0.3>", seed=1).latents
    result = pipe("a fox <lora:ink:0.3>", seed=1, guidance=within("a cat <lora:ink:0.3>"))
    assert inner
    assert torch.equal(result.latents, alone)
    with refused("prompt"):
        pipe("a fox <lora:ink:0.3>", seed=1, guidance=within("a cat"))
    assert torch.equal(pipe("a fox <lora:ink:0.3>", seed=1).latents, alone)


def test_whoever_waits_gets_a_turn(pipe: Pipeline, folder: Path) -> None:
    """A network that is never idle is still handed over: those who come later with its LoRAs wait in their turn."""
    pipe.load_lora(folder / "ink.safetensors", 0.0)
    inked = (pipe.adapters._loaded["ink"]._replace(weight=1.0),)
    network, state = pipe.text_encoder, merged(pipe.text_encoder)
    order: list[str] = []
    inside, leave = threading.Event(), threading.Event()

    def first() -> None:
        with state.using(network, "text_encoder", ()):
            inside.set()
            leave.wait(PATIENCE)

    def use(name: str, loras: tuple[object, ...]) -> None:
        with state.using(network, "text_encoder", loras):
            order.append(name)

    threads = [threading.Thread(target=first)]
    threads[0].start()
    assert inside.wait(PATIENCE)
    threads.append(threading.Thread(target=use, args=("other", inked)))
    threads[1].start()
    while not state._queue:
        pass
    for k in range(OVERTAKING):  # these go before
        threads.append(threading.Thread(target=use, args=(str(k), ())))
        threads[-1].start()
        threads[-1].join(PATIENCE)
    assert len(order) == OVERTAKING
    threads.append(threading.Thread(target=use, args=("late", ())))
    threads[-1].start()
    while len(state._queue) < 2:
        pass
    leave.set()
    for thread in threads:
        thread.join(PATIENCE)
    assert order[OVERTAKING:] == ["other", "late"]


def test_a_name_that_two_files_have_is_refused(pipe: Pipeline, folder: Path, tmp_path: Path) -> None:
    with refused("prompt") as caught:
        pipe("a fox <lora:wood:1>", seed=1)
    assert "a/wood or b/wood" in caught.value.want
    a, b = (pipe(f"a fox <lora:{name}/wood:1>", seed=1) for name in "ab")
    assert not torch.equal(a.latents, b.latents)
    (path,) = b.save(tmp_path / "b.png")
    bare = Pipeline(copy.deepcopy(pipe.components))
    assert ds.replay(path, model=bare, lora_dir=folder).identical
    moved = tmp_path / "moved"  # the receipt's hash decides among files of one name
    for source, name in (("a", "x"), ("b", "y")):
        (moved / name).mkdir(parents=True)
        shutil.copy(folder / source / "wood.safetensors", moved / name)
    bare.unload_lora()
    pipe.unload_lora()
    pipe.load_lora(folder / "b" / "wood.safetensors")
    (path,) = pipe("a fox", seed=1).save(tmp_path / "set.png")
    assert ds.replay(path, model=bare, lora_dir=moved).identical
    assert bare.adapters.weights == {"wood": 0.0}


def test_a_replay_leaves_other_threads_their_loras(pipe: Pipeline, folder: Path, tmp_path: Path) -> None:
    pipe.load_lora(folder / "ink.safetensors", 0.8)
    (path,) = pipe("a fox", seed=1).save(tmp_path / "out.png")
    pipe.set_lora("ink", 0.2)
    wanted = pipe("a fox", seed=1).latents
    before = weights_of(pipe)
    entries = ds.pipeline.receipt.read(path)["loras"]
    with pipe.adapters.as_in_receipt([entries]), ThreadPoolExecutor(1) as pool:
        assert torch.equal(pool.submit(lambda: pipe("a fox", seed=1).latents).result(), wanted)
        assert not torch.equal(pipe("a fox", seed=1).latents, wanted)
    assert equal(weights_of(pipe), before)


def test_a_run_that_is_collected_amid_other_work_waits_for_nobody(pipe):
    """Python may end an abandoned run while this thread looks a network up, and while another one merges."""
    run = pipe.steps("a fox <lora:ink:1>", seed=1)
    next(run)
    held, done = threading.Event(), threading.Event()

    def merge():
        with merged(pipe.unet)._turn:
            held.set()
            done.wait(2 * PATIENCE)

    def collect():
        with merging._LOCK:
            run._steps.close()
        done.set()

    threads = [threading.Thread(target=work, daemon=True) for work in (merge, collect)]
    threads[0].start()
    assert held.wait(PATIENCE)
    threads[1].start()
    assert done.wait(PATIENCE)
    threads[0].join(PATIENCE)
