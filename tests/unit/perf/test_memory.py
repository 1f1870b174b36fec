"""Out of memory: a typed error for each phase, smaller pieces where they help, and nothing begun that cannot fit."""

import os
import platform
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from diffuscope.cli import main
from diffuscope.config import FAMILIES, PRESETS
from diffuscope.errors import DiffuscopeError, OutOfMemoryError
from diffuscope.models.text_encoder import TextEncoder
from diffuscope.models.unet import UNet
from diffuscope.models.upscaler import Upscaler
from diffuscope.models.vae import VAE
from diffuscope.perf import memory, ops, peak
from diffuscope.perf.unet import FastUNet
from diffuscope.pipeline import Pipeline, codec
from narrow import random_model
from refusals import refused


def exhaust(*args: object, **kwargs: object) -> Tensor:
    """torch's own error: no machine has so much."""
    return torch.empty(1 << 60)


def python_s(*args: object, **kwargs: object) -> Tensor:
    raise MemoryError


def gpu_s(*args: object, **kwargs: object) -> Tensor:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


PHASES: dict[str, tuple[type, str, dict[str, object]]] = {
    "encoding the prompt": (TextEncoder, "forward", {}),
    "sampling": (UNet, "forward", {}),
    "decoding": (VAE, "decode", {}),
    "upscaling": (Upscaler, "forward", {"upscale": 4}),
    "encoding the image": (VAE, "encode", {"image": "in.png"}),
}


GLIBC = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no such heaps")


@GLIBC
def test_memory_that_was_freed_goes_back_to_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = [torch.ones(2_500) for _ in range(20_000)]  # 200 MB, too small for a mapping of their own
    parts = parts[::100]
    before = resident()
    monkeypatch.setattr(memory, "_trimmed", -memory.TRIM_EVERY)
    memory.trim()
    assert resident() < before - 100e6
    assert len(parts) == 200  # and are in use


@GLIBC
@pytest.mark.parametrize("served", [True, False])
def test_threads_share_the_heap_where_a_model_is_served(served: bool, tiny_folder: Path, tmp_path: Path) -> None:
    code = """
import ctypes, sys, threading
from diffuscope import ModelSource, load
from diffuscope.cli.generate import AdapterFlags
from diffuscope.cli.serve import opened

libc, there = ctypes.CDLL(None), threading.Barrier(8)
libc.malloc.restype = libc.fopen.restype = ctypes.c_void_p

def heaps():
    file = ctypes.c_void_p(libc.fopen(sys.argv[1].encode(), b"w"))
    libc.malloc_info(0, file)
    libc.fclose(file)
    return open(sys.argv[1]).read().count("<heap nr=")

def allocate():
    libc.malloc(100_000)
    there.wait()

pipe = opened(ModelSource(sys.argv[2]), AdapterFlags()) if sys.argv[3] == "True" else load(sys.argv[2])
before, threads = heaps(), [threading.Thread(target=allocate) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(heaps() - before)
"""
    command = [sys.executable, "-c", code, str(tmp_path / "heaps.xml"), str(tiny_folder), str(served)]
    more = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert more == 0 if served else more > 0


def resident() -> int:
    """Bytes of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("failure", [exhaust, python_s, gpu_s])
@pytest.mark.parametrize("phase", PHASES)
def test_each_phase_has_its_error(
    tiny: Pipeline, tmp_path: Path, phase: str, failure: Callable[..., Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    owner, method, arguments = PHASES[phase]
    if "image" in arguments:
        (path,) = tiny("fox", seed=1).save(tmp_path / "in.png")
        arguments = {"image": path}
    plain = tiny("fox", seed=1, **arguments)
    run = None
    with monkeypatch.context() as patched:
        patched.setattr(owner, method, failure)
        with pytest.raises(OutOfMemoryError, match="out of memory on cpu") as caught:  # noqa: PT012
            run = tiny.steps("fox", seed=1, **arguments)
            run.result()
    assert caught.value.phase == phase
    assert caught.value.hint
    assert isinstance(caught.value, DiffuscopeError)
    if phase in {"decoding", "upscaling"}:  # nothing is lost
        assert run is not None
        assert run.result().images == plain.images
    assert tiny("fox", seed=1, **arguments).images == plain.images


def test_the_command_line_says_what_to_change(
    tiny_folder: Path, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    for owner, method in ((UNet, "forward"), (VAE, "decode")):
        with monkeypatch.context() as patched:
            patched.setattr(owner, method, exhaust)
            assert main(["generate", "fox", "--model", str(tiny_folder), "--quiet", "-o", str(tmp_path / "a.png")]) == 2
        err = capsys.readouterr().err
        assert err.startswith("error: out of memory on cpu while ")
        assert "Traceback" not in err
    monkeypatch.setattr("diffuscope.pipeline.open_model", exhaust)  # where no phase was named
    assert main(["generate", "fox", "--model", str(tiny_folder), "--quiet", "-o", str(tmp_path / "a.png")]) == 2
    assert capsys.readouterr().err.startswith("error: out of memory")


def test_images_are_decoded_one_at_a_time_where_memory_is_short(
    tiny: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = tiny("fox", seed=1, num_images_per_prompt=3, upscale=4)
    rows: list[int] = []

    def short(real: Callable[..., Tensor], *, most: int) -> Callable[..., Tensor]:
        def limited(self: torch.nn.Module, x: Tensor, *rest: object) -> Tensor:
            rows.append(len(x))
            return exhaust() if len(x) > most else real(self, x, *rest)

        return limited

    monkeypatch.setattr(VAE, "decode", short(VAE.decode, most=1))
    monkeypatch.setattr(Upscaler, "forward", short(Upscaler.forward, most=1))
    again = tiny("fox", seed=1, num_images_per_prompt=3, upscale=4)
    assert rows == [3, 1, 1, 1] * 2
    for one, other in zip(plain.images, again.images, strict=True):
        assert np.abs(np.asarray(one, dtype=int) - np.asarray(other, dtype=int)).max() <= 1
    assert torch.equal(plain.latents, again.latents)
    assert again.receipt["notes"] == [*plain.receipt["notes"], memory.SHORT]


def test_an_image_is_upscaled_in_strips_where_memory_is_short(tiny: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = torch.rand(1, 3, 48, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    upscaler, real = tiny.upscaler, Upscaler.forward
    with torch.no_grad():
        whole = upscaler(pixels / 2 + 0.5)
        strips = torch.cat(list(upscaler.strips(pixels / 2 + 0.5, 32 * 7)), dim=2)
        assert strips.shape == whole.shape
        assert torch.allclose(strips, whole, rtol=0, atol=3e-6)
        (plain,) = codec.images(pixels, upscaler, [])
        short = lambda self, x, tap: exhaust() if x.shape[2] > 46 else real(self, x, tap)  # noqa: E731
        monkeypatch.setattr(Upscaler, "forward", short)
        monkeypatch.setattr(codec, "PIXELS_AT_ONCE", 64 * 32 * 8)
        (image,) = codec.images(pixels, upscaler, [])
    differences = torch.tensor(list(plain.tobytes())).sub(torch.tensor(list(image.tobytes()))).abs()
    assert differences.max() <= 1
    assert differences.count_nonzero() <= 10


def test_what_fails_on_an_accelerator_is_decoded_on_the_cpu() -> None:
    notes: list[int] = []

    def on_cpu(x: Tensor) -> int:
        notes.append(len(x))
        return 7

    assert memory.smaller(gpu_s, torch.zeros(3, 1), [], otherwise=on_cpu) == [7, 7, 7]
    assert notes == [1, 1, 1]
    with pytest.raises(torch.OutOfMemoryError):
        memory.smaller(gpu_s, torch.zeros(3, 1), [])
    with pytest.raises(ValueError, match="shape"):  # and nothing else is tried again
        memory.smaller(_refuse, torch.zeros(3, 1), [], otherwise=on_cpu)


def _refuse(_: Tensor) -> Tensor:
    raise ValueError("shape")


def test_a_size_that_cannot_fit_is_refused_before_anything_runs(
    tiny: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "available", lambda _: 40 << 20)
    monkeypatch.setattr(memory, "_CHECKED", 0)
    with monkeypatch.context() as patched:
        patched.setattr(TextEncoder, "forward", python_s)
        with pytest.raises(OutOfMemoryError, match=r"At most about \d+x\d+ fits") as caught:
            tiny.steps("fox", width=2048, height=1024)
    assert caught.value.phase == "planning 2048x1024"
    width, height = map(int, caught.value.hint.split("about ")[1].split(" ")[0].split("x"))
    tiny.steps("fox", width=width, height=height)
    assert abs(width / height - 2) < 0.1
    assert int(caught.value.hint.split("at least ")[1].split(" MiB")[0].replace(",", "")) > 40
    with pytest.raises(OutOfMemoryError, match=r"At most about \d+x\d+ fits"):  # whatever the number of images
        tiny.steps("fox", width=2048, height=1024, num_images_per_prompt=4)
    monkeypatch.setattr(memory, "available", lambda _: 1)
    with pytest.raises(OutOfMemoryError, match="No size"):
        tiny.steps("fox")
    monkeypatch.setattr(memory, "available", lambda _: None)
    tiny.steps("fox", width=2048, height=1024)


@pytest.mark.parametrize("fast", [False, True])
def test_fewer_images_at_once_where_memory_is_short(
    tiny: Pipeline, monkeypatch: pytest.MonkeyPatch, fast: bool
) -> None:
    pipe = Pipeline(tiny.components)
    plain = pipe("fox", seed=3, num_images_per_prompt=5)
    if fast:
        pipe = Pipeline(random_model(tiny.config).components, fast=True)
    cells, kind = (32 // tiny.config.vae.factor,) * 2, torch.float32
    room = peak.sampling(pipe.config.unet, cells, kind, 2 * 2, fast=fast)
    assert room < peak.sampling(pipe.config.unet, cells, kind, 3 * 2, fast=fast)
    monkeypatch.setattr(memory, "available", lambda _: room)
    monkeypatch.setattr(memory, "_CHECKED", 0)
    monkeypatch.setattr(peak, "decoding", lambda *_, **__: 0)
    result = pipe("fox", seed=3, num_images_per_prompt=5)
    assert "memory is short, so the networks compute 2 of 5 images at once" in result.receipt["notes"]
    assert result.receipt["batch_size"] == 2
    if not fast:
        torch.testing.assert_close(result.latents, plain.latents, rtol=1e-4, atol=1e-4)


def test_rows_of_the_unet_are_halved_where_memory_does_not_suffice(
    tiny: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, rows, real = tiny("fox", seed=1, num_images_per_prompt=3), [], UNet.forward

    def short(self: UNet, x: Tensor, *rest: object, **more: object) -> Tensor:
        rows.append(len(x))
        return exhaust() if len(x) > 2 else real(self, x, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(UNet, "forward", short)
    again = tiny("fox", seed=1, num_images_per_prompt=3)
    assert rows[:8] == [6, 3, 1, 2, 3, 1, 2, 1]  # found in the first step, and kept
    torch.testing.assert_close(again.latents, plain.latents, rtol=1e-4, atol=1e-4)
    assert sorted(again.receipt["notes"]) == sorted([*plain.receipt["notes"], memory.SPLIT])
    monkeypatch.setattr(UNet, "forward", exhaust)
    with pytest.raises(OutOfMemoryError) as caught:
        tiny("fox", seed=1)
    assert caught.value.phase == "sampling"


@pytest.mark.parametrize("fast", [False, True])
def test_the_peak_that_is_planned_is_the_peak(fast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of tensors that exist, counted as they are made and freed: the same, though nothing was computed before."""
    monkeypatch.setattr(ops, "packed", lambda *_: None)  # oneDNN's own tensors do not tell their size
    config = PRESETS["tiny-sdxl"]
    pipe = random_model(config)
    cells, rows = (8, 12), 2
    expected = peak.sampling(config.unet, cells, torch.float32, rows, fast=fast)
    x, context = torch.randn(rows, 4, *cells), torch.randn(rows, 77, config.unet.context_dim)
    pooled = torch.randn(rows, config.pooled_dim)
    extra = {"pooled": pooled, "sizes": torch.full((rows, config.sizes), 64.0)}
    twin = FastUNet(pipe.unet)
    prompt = twin.read(context, extra)
    timed = twin.timed(prompt, torch.tensor([5.0]))[0]
    run = (lambda: twin(x, timed, prompt)) if fast else (lambda: pipe.unet(x, 5.0, context, extra=extra))
    found = peak.traced(run, pipe.unet, twin.time.weight)
    assert abs(found - expected) <= 0.02 * expected


def test_the_least_that_is_needed_grows_as_it_must() -> None:
    config = FAMILIES["sd15"]
    one = memory.needed(config, 512, 512, 2)
    assert one == 2 * 256 * 512 * 512  # the decoder's finest layer
    assert memory.needed(config, 1024, 1024, 2) == 4 * one
    skips = 320 * 3 + (320 + 640 * 2) // 4 + (640 + 1280 * 2) // 16 + (1280 + 1280 * 2) // 64
    assert memory.needed(config, 512, 512, 512) == 512 * skips * 64 * 64
    assert memory.needed(replace(config, vae=replace(config.vae, channels=(32, 32, 32, 32))), 512, 512, 0) == one // 8


def test_what_is_left_is_a_plausible_number() -> None:
    left = memory.available(torch.device("cpu"))
    assert left is None or 1 <= left < 1 << 50


@pytest.mark.parametrize("upscale", [1, 4])
def test_cancelling_is_heard_while_decoding_and_upscaling(
    tiny: Pipeline, upscale: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From another thread it would come anywhere: here after the first activation of the last network."""
    run = tiny.steps("fox", seed=1, upscale=upscale)
    network = Upscaler if upscale == 4 else VAE
    seen: list[str] = []

    def wants(self: codec._Watched, name: str) -> bool:
        self.check()
        if (network is Upscaler) is name.startswith("layers."):
            seen.append(name)
            run.cancel()
        return False

    monkeypatch.setattr(codec._Watched, "wants", wants)
    with refused("run"):
        run.result()
    assert len(seen) == 1
