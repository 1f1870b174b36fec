"""Networks that wait in the host's memory: the same bits, one network at a time, at the planned peak.

The "device" is the processor: networks are copied and freed as for a GPU, so that their memory can be counted.
"""

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import diffuscope as ds
import lora_files
from diffuscope import loading
from diffuscope.config import FAMILIES, PRESETS
from diffuscope.errors import OutOfMemoryError
from diffuscope.finetune import session
from diffuscope.loading import Components
from diffuscope.models.text_encoder import TextEncoder
from diffuscope.models.tokenizer import Tokenizer
from diffuscope.models.unet import UNet
from diffuscope.models.vae import VAE
from diffuscope.perf import memory, offload, ops, peak
from diffuscope.pipeline import Pipeline
from diffuscope.pipeline import open as opening
from diffuscope.weights.store.assign import blank
from narrow import made, random_model
from refusals import refused

CPU = torch.device("cpu")
OPTIONS = {"num_inference_steps": 2, "seed": 5}


def offloaded(pipe: Pipeline) -> Pipeline:
    pipe.engine.offload.allowed = False  # asked for, and so no note
    pipe.engine.offload.begin(CPU, pipe.components.networks.values())
    return pipe


def there(pipe: Pipeline) -> list[str]:
    moved = pipe.engine.offload._moved
    return [name for name, network in pipe.components.networks.items() if moved.get(network)]


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_the_same_bits_with_one_network_at_a_time(family: str, fast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, moving = made(family), offloaded(made(family))
    plain.engine.wanted = moving.engine.wanted = fast
    seen: list[list[str]] = []
    for kind in (TextEncoder, UNet, VAE):
        monkeypatch.setattr(kind, "__call__", _noting(nn.Module.__call__, lambda: seen.append(there(moving))))
    expected = plain("a red fox", **OPTIONS)
    image = expected.images[0].resize((32, 32))
    seen.clear()
    found = moving("a red fox", **OPTIONS)
    assert torch.equal(found.latents, expected.latents)
    assert found.images == expected.images
    assert found.receipt["weights"] == expected.receipt["weights"]
    assert found.receipt["notes"] == expected.receipt["notes"]
    encoders = [name for name in moving.components.networks if name.startswith("text_encoder")]
    assert all(each in (encoders, ["unet"], ["vae"]) for each in seen)
    again = {"image": image, "strength": 0.5, "guidance_options": {"colour": (0.1, 0.2, 0.9)}, **OPTIONS}
    assert torch.equal(moving("a red fox", **again).latents, plain("a red fox", **again).latents)
    assert torch.equal(moving.encode_image(image, seed=1), plain.encode_image(image, seed=1))


def _noting(real: Callable[..., object], note: Callable[[], object]) -> Callable[..., object]:
    def call(self: nn.Module, *args: object, **kwargs: object) -> object:
        note()
        return real(self, *args, **kwargs)

    return call


@torch.no_grad()
def test_weights_that_nobody_changed_are_not_copied_back() -> None:
    pipe = made("sd15")
    weights = {name: each.data_ptr() for name, each in pipe.unet.named_parameters()}
    offloaded(pipe)
    pipe("a red fox", **OPTIONS)
    assert there(pipe) == ["vae"]
    assert {name: each.data_ptr() for name, each in pipe.unet.named_parameters()} == weights
    with pipe.engine.using(pipe.unet):
        pipe.unet.conv_in.weight.mul_(2)
        pipe.unet.conv_out.weight.data = pipe.unet.conv_out.weight.data * 2
    pipe.decode(torch.zeros(1, 4, 8, 8))
    plain = made("sd15")
    for layer in ("conv_in", "conv_out"):
        getattr(plain.unet, layer).weight.mul_(2)
    changed = {name for name, each in pipe.unet.named_parameters() if each.data_ptr() != weights[name]}
    assert changed == {"conv_in.weight", "conv_out.weight"}
    assert torch.equal(pipe("a red fox", **OPTIONS).latents, plain("a red fox", **OPTIONS).latents)


def test_loras_are_merged_where_the_networks_run(tmp_path: Path) -> None:
    plain, moving = made("sd15"), offloaded(made("sd15"))
    path = lora_files.write(tmp_path / "fox.safetensors", lora_files.kohya(lora_files.layers(plain)))
    for pipe in (plain, moving):
        pipe.load_lora(path, 0.5)
    for weight in (0.5, 0.0):
        for pipe in (plain, moving):
            pipe.set_lora("fox", weight)
        assert torch.equal(moving("a fox", **OPTIONS).latents, plain("a fox", **OPTIONS).latents)


def test_a_run_whose_latents_are_looked_at() -> None:
    plain, moving = made("sd15"), offloaded(made("sd15"))
    for pipe in (plain, moving):
        pipe.engine.wanted = True
    expected = plain("a red fox", seed=5, num_inference_steps=3)
    run = moving.steps("a red fox", seed=5, num_inference_steps=3)
    for step in run:
        moving.decode(step.x0)
        assert there(moving) == ["vae"]
    assert torch.equal(run.result().latents, expected.latents)


@pytest.mark.parametrize("moves", [False, True])
def test_the_peak_of_a_call_is_the_planned_one(moves: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ops, "packed", lambda *_: None)  # oneDNN's own tensors do not tell their size
    pipe, options = (
        random_model(PRESETS["tiny-sd15"]),
        {"width": 128, "height": 128, "upscale": 1, "num_inference_steps": 1, "seed": 5},
    )
    pipe.engine.wanted = True
    if moves:
        offloaded(pipe)
    else:
        pipe.engine.lay(pipe.unet)
    networks = pipe.components.networks.values()
    known = [each for network in networks for each in (*network.parameters(), *network.buffers())]
    found = peak.counted(lambda: pipe("a fox", **options), known)
    found += 0 if moves else sum(map(peak.weights, networks))
    planned = peak.call(pipe.components, 128, 128, rows=2, images=1, upscale=1, fast=True, offload=moves)
    assert abs(found - planned) <= 0.1 * planned, (found, planned)


def test_the_planned_peaks_of_stable_diffusion() -> None:
    """GiB in half precision, one image of 512x512 with guidance."""
    config = FAMILIES["sd15"]
    with blank():
        networks = {"text_encoder": TextEncoder(config.text_encoder), "unet": UNet(config.unet), "vae": VAE(config.vae)}
    parts = {name: network.to(torch.float16) for name, network in networks.items()}
    components = Components(config=config, tokenizer=Tokenizer(), **parts)  # type: ignore[arg-type]
    sizes = [
        peak.call(components, 512, 512, rows=2, images=1, upscale=1, fast=True, offload=moves) / 2**30
        for moves in (False, True)
    ]
    assert sizes[0] <= 2.37
    assert sizes[1] <= 1.75


def test_it_begins_where_memory_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe, plain = made("sd15"), made("sd15")("a red fox", **OPTIONS)
    room = peak.sampling(
        pipe.config.unet, (plain.latents.shape[2], plain.latents.shape[3]), torch.float32, 2, fast=False
    )
    monkeypatch.setattr(memory, "available", lambda _: room - 1000)
    monkeypatch.setattr(memory, "_CHECKED", 0)
    monkeypatch.setattr(memory, "_FAR", 1 << 20)
    monkeypatch.setattr(peak, "decoding", lambda *_, **__: 0)
    monkeypatch.setattr(offload, "has_own_memory", lambda _: True)
    monkeypatch.setattr(offload.Offload, "gain", lambda self, _: 0 if self.device is None else 1000)
    result = pipe("a red fox", **OPTIONS)
    assert pipe.engine.offload.device == CPU
    assert memory.OFFLOADED in result.receipt["notes"]
    assert torch.equal(result.latents, plain.latents)
    pipe = made("sd15")
    pipe.engine.offload.allowed = False
    pipe("a red fox", **OPTIONS)
    assert pipe.engine.offload.device is None


def test_weights_to_be_brought_count_as_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = offloaded(made("sd15"))
    monkeypatch.setattr(memory, "available", lambda _: 1)
    monkeypatch.setattr(memory, "_CHECKED", 0)
    with pytest.raises(OutOfMemoryError, match=r"at least \d+ MiB, and 0 MiB are left"):
        pipe("a red fox", **OPTIONS)


def test_opening_a_model(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ds.load(tiny_folder, device="cpu", offload=True).engine.offload.device is None  # it has one memory
    monkeypatch.setattr(opening, "has_own_memory", lambda _: True)
    pipe = ds.load(tiny_folder, device="cpu", offload=True)
    assert pipe.engine.offload.device == CPU
    assert not there(pipe)
    with refused("pipe"):
        session.identity(pipe, None)
    real, places = loading.load_components, []

    def short(model: object, place: torch.device, *rest: object, **more: object) -> Components:
        places.append(place)
        if len(places) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(model, place, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(loading, "load_components", short)
    assert ds.load(tiny_folder, device="cpu").engine.offload.device == CPU
    places.clear()
    with pytest.raises(OutOfMemoryError):
        ds.load(tiny_folder, device="cpu", offload=False)
    assert len(places) == 1


def test_a_network_that_somebody_uses_stays() -> None:
    pipe = offloaded(made("sd15"))
    engine = pipe.engine
    with engine.using(pipe.vae), engine.using(pipe.unet), engine.using(pipe.unet):
        assert there(pipe) == ["unet", "vae"]
    with engine.using(pipe.text_encoder):
        assert there(pipe) == ["text_encoder"]
        gain = engine.offload.gain(pipe.unet)
    assert gain == peak.weights(pipe.text_encoder) - peak.weights(pipe.unet)


def test_a_copy_that_fails_leaves_all_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, pipe = made("sd15")("a red fox", **OPTIONS), offloaded(made("sd15"))
    real, left, mine = Tensor.to, [30], threading.get_ident()

    def failing(self: Tensor, *args: object, **kwargs: object) -> Tensor:
        if threading.get_ident() == mine:  # another one hashes the weights meanwhile
            left[0] -= bool(kwargs.get("copy"))
            if left[0] < 0:
                raise torch.OutOfMemoryError("CUDA out of memory")
        return real(self, *args, **kwargs)  # type: ignore[call-overload]

    with monkeypatch.context() as patched:
        patched.setattr(Tensor, "to", failing)
        with pytest.raises(OutOfMemoryError):
            pipe("a red fox", **OPTIONS)
    assert torch.equal(pipe("a red fox", **OPTIONS).latents, plain.latents)
