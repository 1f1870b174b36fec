"""Loading: devices and dtypes, packed files, configs, no second copy of the weights, no network."""

import shutil
import socket
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import diffuscope as ds
from diffuscope import loading
from diffuscope.cli import doctor
from diffuscope.config import PRESETS, TINY
from diffuscope.loading import choose_device, choose_dtype, load_network, load_upscaler
from diffuscope.model_files import parts
from diffuscope.pipeline import Pipeline
from diffuscope.weights.layout import own_config
from diffuscope.weights.store import files, packing
from diffuscope.weights.store.stores import open_store
from narrow import made


@pytest.mark.parametrize("config", [*PRESETS.values(), replace(TINY, name="ünï/code")])
def test_a_config_survives_its_file(config) -> None:
    import json

    assert own_config.from_json(json.loads(own_config.to_json(config))) == config


def test_a_missing_key_is_the_default() -> None:
    assert own_config.from_json({"name": "sd", "preset": {"num_inference_steps": 3}}).preset.num_inference_steps == 3


def test_auto_is_a_device_that_is_here() -> None:
    device = choose_device("auto")
    torch.zeros(1, device=device)
    assert choose_dtype("auto", torch.device("cpu")) == torch.float32


@pytest.mark.parametrize(("native", "name"), [(True, "bfloat16"), (False, "float16")])
def test_a_gpu_without_bfloat16_computes_in_float16(native: bool, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or native)
    monkeypatch.setattr(loading, "choose_device", lambda _: torch.device("cuda"))
    assert choose_dtype("auto", torch.device("cuda")) == getattr(torch, name)
    assert choose_dtype("bfloat16", torch.device("cuda")) == torch.bfloat16  # as asked for
    assert next(doctor._devices()) == ("ok", f"device auto is cuda, dtype auto is {name}")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", torch.bfloat16])
def test_every_dtype_runs_with_float32_latents(tiny: Pipeline, tiny_folder: Path, dtype) -> None:
    pipe = ds.load(tiny_folder, device="cpu", dtype=dtype)
    assert pipe.dtype == (dtype if isinstance(dtype, torch.dtype) else getattr(torch, dtype))
    run = pipe.steps("a red fox", seed=1, guidance_scale=2.0)
    assert next(run).x.dtype == torch.float32
    same = tiny("a red fox", seed=1, guidance_scale=2.0).latents
    loss = (run.result().latents - same).norm() / same.norm()
    assert loss < {torch.float32: 1e-6, torch.bfloat16: 0.1, torch.float16: 0.02}[pipe.dtype]


@pytest.mark.parametrize("native", [True, False])
def test_a_processor_without_bfloat16_is_named(
    tiny_folder: Path, native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the processor says of itself is replaced: one machine cannot be both."""
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: native)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)

    def said(dtype: str) -> list[str]:
        notes = ds.load(tiny_folder, device="cpu", dtype=dtype)("a red fox", num_inference_steps=1).receipt["notes"]
        return [note for note in notes if "has no bfloat16" in note]

    assert len(said("bfloat16")) == (0 if native else 1)
    assert said("float32") == []


def test_networks_are_ready_to_run(tiny_folder: Path) -> None:
    pipe = ds.load(tiny_folder, device="cpu")
    for part in parts(TINY):
        network = getattr(pipe, part)
        assert not network.training
        assert not any(parameter.requires_grad for parameter in network.parameters())


def test_weights_are_mapped_not_copied(tiny_folder: Path, tmp_path: Path) -> None:
    """Writing to a loaded network leaves the file as it is."""
    folder = tmp_path / "model"
    shutil.copytree(tiny_folder, folder)
    before = (folder / "unet.safetensors").read_bytes()
    ds.load(folder, device="cpu").unet.conv_in.weight.zero_()
    assert (folder / "unet.safetensors").read_bytes() == before


@pytest.fixture(scope="module")
def sdxl() -> Pipeline:
    return made("sdxl")


@pytest.fixture(scope="module", params=["own", "diffusers", "single"])
def written(request: pytest.FixtureRequest, sdxl: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of two text encoders, in each layout. Not to be written to."""
    name = "model.safetensors" if request.param == "single" else "model"
    return sdxl.save(tmp_path_factory.mktemp("sdxl") / name, layout=request.param)


def test_every_tensor_is_a_view_of_the_file(written: Path) -> None:
    """SDXL's second text encoder too, whose fused matrices are split in a single file, where one lies transposed."""
    for part, network in ds.load(written, device="cpu").components.networks.items():
        tensors = network.state_dict()
        if written.is_file() and part == "text_encoder_2":
            del tensors["text_projection.weight"]
        assert len({tensor.untyped_storage().data_ptr() for tensor in tensors.values()}) == 1, part


def test_a_conversion_holds_no_second_copy(sdxl: Pipeline, written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One buffer as large as the largest tensor; and what is kept is as large as the network."""
    largest = max(tensor.nbytes for network in sdxl.components.networks.values() for tensor in network.parameters())
    buffers, empty = [], torch.empty
    with monkeypatch.context() as patch:
        patch.setattr(torch, "empty", lambda *size, **how: buffers.append(empty(*size, **how)) or buffers[-1])
        half = ds.load(written, device="cpu", dtype="bfloat16")
    real = [buffer.nbytes for buffer in buffers if buffer.device.type == "cpu"]
    assert 0 < max(real) <= largest
    for network in half.components.networks.values():
        tensors = network.state_dict().values()
        storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
        assert sum(storages.values()) == sum(tensor.nbytes for tensor in tensors)


def test_a_packed_folder(tiny: Pipeline, tiny_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "packed"
    shutil.copytree(tiny_folder, folder)
    for part in parts(TINY):
        path = folder / f"{part}.safetensors"
        packing.write(path, files.read(path))
    packed = ds.load(folder, device="cpu")
    same = tiny("a red fox", seed=1, guidance_scale=2.0).latents
    found = packed("a red fox", seed=1, guidance_scale=2.0).latents
    assert (found - same).norm() / same.norm() < 0.1
    assert packed.weights != tiny.weights
    vae = load_network(folder / "vae.safetensors", TINY.vae, "cpu")
    assert all(torch.equal(value, packed.vae.state_dict()[name]) for name, value in vae.state_dict().items())


def test_a_diffusers_folder_in_half_precision_alone(tiny: Pipeline, tmp_path: Path) -> None:
    folder = tiny.save(tmp_path / "half")
    for path in folder.rglob("*.safetensors"):
        files.write(path.with_suffix(".fp16.safetensors"), {k: v.half() for k, v in files.read(path).items()})
        path.unlink()
    assert (ds.load(folder, device="cpu").unet.conv_in.weight - tiny.unet.conv_in.weight).abs().max() < 1e-3
    (folder / "vae" / "diffusion_pytorch_model.fp16.safetensors").rename(folder / "vae" / "weights.bin")
    with pytest.raises(ds.errors.WeightsError, match="pickle"):
        ds.load(folder)


def test_a_preset_that_is_not_possible(tiny_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_folder, folder)
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(text.replace('"upscale": 1', '"upscale": 3'))
    with pytest.raises(ds.errors.WeightsError, match="upscale is 3; it must be 1 or 4"):
        ds.load(folder)


def test_nothing_asks_the_network(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise AssertionError(f"a connection was tried: {arguments}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    ds.load(tiny_folder)("a", seed=1, upscale=4)
    with pytest.raises(ds.errors.ModelNotFoundError):
        ds.load("someone/some-model")


def test_the_upscaler_is_ready() -> None:
    upscaler = load_upscaler(torch.device("cpu"))
    assert upscaler(torch.rand(1, 3, 4, 6)).shape == (1, 3, 16, 24)
    assert {parameter.dtype for parameter in upscaler.parameters()} == {torch.float32}


def test_where_packed_tensors_become_floats(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CUDA device, unless the floats may not fit there; elsewhere on the CPU. They are the same to the bit."""
    packing.write(tmp_path / "unet.safetensors", files.read(tiny_folder / "unet.safetensors"))
    store = open_store(tmp_path / "unet.safetensors")
    cuda, cpu = torch.device("cuda"), torch.device("cpu")
    assert loading._unpacks_on(cuda, store) == cuda
    assert {loading._unpacks_on(torch.device(name), store) for name in ("cpu", "mps", "xpu")} == {cpu}
    monkeypatch.setattr(loading, "UNPACKED_THERE", (tmp_path / "unet.safetensors").stat().st_size - 1)
    assert loading._unpacks_on(cuda, store) == cpu
    if torch.cuda.is_available():
        there = packing.unpack(store.read(device=cuda), store.header.metadata)
        here = packing.unpack(store.read(), store.header.metadata)
        assert all(torch.equal(value, there[name].cpu()) for name, value in here.items())
