"""Other programs with networks of the same shapes, each with its best settings; only those that are installed.

They get the weights of our network, so that their errors can be compared too.
"""

import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from diffuscope.bench.timing import Call
from diffuscope.config import UNetConfig, VAEConfig
from diffuscope.weights.layout.diffusers import to_diffusers
from diffuscope.weights.layout.network_config import unet_to_json, vae_to_json


class Peer(NamedTuple):
    """A program, and how to make its call; making may compile, which is a part of its first call."""

    name: str
    make: Callable[[], Call]


class Inputs(NamedTuple):
    """Of a U-Net call."""

    x: Tensor
    time: Tensor
    context: Tensor
    added: dict[str, Tensor] | None
    """Pooled text and sizes of SDXL."""


def unet_peers(config: UNetConfig, weights: Mapping[str, Tensor], inputs: Inputs, *, compiled: bool) -> Iterator[Peer]:
    """The peers of a call of a U-Net with these weights."""
    if find_spec("diffusers") is None:
        return
    arguments = (inputs.x, inputs.time, inputs.context)

    def network() -> nn.Module:
        from diffusers import UNet2DConditionModel

        made = UNet2DConditionModel.from_config(_keys(unet_to_json(config)))
        made.load_state_dict(to_diffusers(weights, config))
        return _UNet(_ready(made, inputs.x), inputs.added)

    yield from _peers(network, arguments, compiled=compiled)


def decoder_peers(
    config: VAEConfig, weights: Mapping[str, Tensor], latents: Tensor, *, compiled: bool
) -> Iterator[Peer]:
    """The peers of the decoder of a VAE with these weights."""
    if find_spec("diffusers") is None:
        return

    def network() -> nn.Module:
        from diffusers import AutoencoderKL

        made = AutoencoderKL.from_config(_keys(vae_to_json(config)))
        made.load_state_dict(to_diffusers(weights, config))
        return _Decoder(_ready(made, latents))

    yield from _peers(network, (latents,), compiled=compiled)


def _peers(network: Callable[[], nn.Module], arguments: tuple[Tensor, ...], *, compiled: bool) -> Iterator[Peer]:
    x = arguments[0]
    yield Peer("diffusers", lambda: _eager(network(), arguments))
    if compiled:
        yield Peer("compiled", lambda: _compiled(network(), arguments))
    if x.device.type == "cpu" and find_spec("openvino") is not None:
        yield Peer("openvino", lambda: _openvino(network(), arguments))
    if x.device.type == "cpu" and x.dtype == torch.float32 and find_spec("onnxruntime") and find_spec("onnx"):
        yield Peer("onnxruntime", lambda: _onnxruntime(network(), arguments))


def _keys(document: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in document.items() if not key.startswith("_")}


def _ready(network: nn.Module, like: Tensor) -> nn.Module:
    return nn.Module.to(network, like.device, like.dtype).eval().requires_grad_(False)  # diffusers' own warns


class _UNet(nn.Module):
    """diffusers' U-Net with positional inputs and one output."""

    def __init__(self, unet: nn.Module, added: dict[str, Tensor] | None) -> None:
        super().__init__()
        self.unet, self.added = unet, added

    def forward(self, x: Tensor, time: Tensor, context: Tensor) -> Tensor:
        return self.unet(x, time, context, added_cond_kwargs=self.added, return_dict=False)[0]


class _Decoder(nn.Module):
    """The decoder of diffusers' VAE."""

    def __init__(self, vae: nn.Module) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, latents: Tensor) -> Tensor:
        return cast(Any, self.vae).decode(latents, return_dict=False)[0]


def _eager(network: nn.Module, arguments: tuple[Tensor, ...]) -> Call:
    cast(Any, network).to(memory_format=torch.channels_last)
    arguments = tuple(each.contiguous(memory_format=_format(each)) for each in arguments)
    return lambda: network(*arguments)


def _compiled(network: nn.Module, arguments: tuple[Tensor, ...]) -> Call:
    cast(Any, network).to(memory_format=torch.channels_last)
    for part in network.children():
        cast(Any, part).fuse_qkv_projections()
    arguments = tuple(each.contiguous(memory_format=_format(each)) for each in arguments)
    if arguments[0].device.type == "cpu":
        import torch._inductor.config as inductor

        run = torch.compile(network, fullgraph=True)

        def call() -> object:
            with inductor.patch(freezing=True):  # weights in the order of the kernels, once
                return run(*arguments)

    else:
        run = torch.compile(network, mode="reduce-overhead", fullgraph=True)

        def call() -> object:
            return run(*arguments)

    call()
    return call


def _openvino(network: nn.Module, arguments: tuple[Tensor, ...]) -> Call:
    import openvino

    shapes = [(list(each.shape), openvino.Type.f32) for each in arguments]
    floats = tuple(each.float() for each in arguments)
    with warnings.catch_warnings(action="ignore"):  # of tracing
        model = openvino.convert_model(network.float(), example_input=floats, input=shapes)
    hint = "bf16" if arguments[0].dtype == torch.bfloat16 else "f32"
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": hint,
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
    }
    request = openvino.Core().compile_model(model, "CPU", settings).create_infer_request()
    values = [each.numpy() for each in floats]
    return lambda: request.infer(values)


def _onnxruntime(network: nn.Module, arguments: tuple[Tensor, ...]) -> Call:
    import onnxruntime

    names = [f"input_{k}" for k in range(len(arguments))]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        with warnings.catch_warnings(action="ignore"):  # of tracing
            torch.onnx.export(network, arguments, str(path), input_names=names, dynamo=False)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    values = {name: each.numpy() for name, each in zip(names, arguments, strict=True)}
    return lambda: session.run(None, values)


def _format(x: Tensor) -> torch.memory_format:
    return torch.channels_last if x.ndim == 4 else torch.contiguous_format
