"""The twins by OpenVINO on a CPU: converted once for some shapes, kept on disk, compiled when they are first called."""

import copy
import hashlib
import os
import warnings
from collections.abc import Callable, Sequence
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diffuscope.errors import InputError

Twin = Callable[[Sequence[Tensor]], Tensor]
"""Inputs -> result."""


def check() -> None:
    """Refuse to go on where OpenVINO is not installed."""
    if find_spec("openvino") is None:
        raise InputError("backend", "openvino", "torch", "Or install the extra `openvino`: pip install openvino")


def cache_folder() -> Path:
    """Where converted networks are kept: below ``DIFFUSCOPE_CACHE``, or the user's folder for caches."""
    own = os.environ.get("DIFFUSCOPE_CACHE")
    shared = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "diffuscope"
    return (Path(own) if own else shared) / "openvino"


class Converted:
    """Networks as OpenVINO runs them.

    Attributes:
        note: why the last conversion is not kept, or None.
    """

    def __init__(self, folder: Path | None = None) -> None:
        """``folder`` is that of ``cache_folder`` by default."""
        self.folder = cache_folder() if folder is None else folder
        self.note: str | None = None
        self._compiled: dict[tuple[object, ...], Any] = {}

    def forget(self, name: str) -> None:
        """Drop what was compiled under a name: the weights are others now."""
        for key in [key for key in self._compiled if key[0] == name]:
            del self._compiled[key]

    def __call__(
        self, name: str, network: nn.Module, lay: Callable[[nn.Module], Twin], inputs: Sequence[Tensor]
    ) -> Tensor:
        """The twin's result for ``inputs``.

        Args:
            name: of the network.
            network: whose weights the twin uses.
            lay: the twin of a network like it, in float32.
            inputs: [N,...] each. In bfloat16 the processor's bfloat16 is used.
        """
        dtype = inputs[0].dtype
        key = (name, dtype, torch.get_num_threads(), *(tuple(each.shape) for each in inputs))
        if key not in self._compiled:
            self._compiled[key] = self._compile(name, network, lay, inputs)
        request = self._compiled[key]
        request.infer([each.float().contiguous().numpy() for each in inputs], share_inputs=True)
        return torch.from_numpy(request.get_output_tensor(0).data.copy()).to(dtype)

    def _compile(
        self, name: str, network: nn.Module, lay: Callable[[nn.Module], Twin], inputs: Sequence[Tensor]
    ) -> Any:
        import openvino

        core, path = _core(), self.folder / f"{_digest(name, network, inputs)}.xml"
        model = None
        if path.is_file():
            try:
                model = core.read_model(path)
            except RuntimeError:  # broken, or of another program: it is made again
                model = None
        if model is None:
            model = _convert(network, lay, inputs)
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                part = path.with_name(f"{path.stem}-{os.getpid()}.xml")
                openvino.save_model(model, part, compress_to_fp16=False)
                part.with_suffix(".bin").replace(path.with_suffix(".bin"))
                part.replace(path)
            except (OSError, RuntimeError) as error:
                self.note = f"the network that was converted for OpenVINO is not kept ({error})".splitlines()[0][:200]
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "bf16" if inputs[0].dtype == torch.bfloat16 else "f32",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        }
        return core.compile_model(model, "CPU", settings).create_infer_request()


@cache
def _core() -> Any:
    """One for the process: the end of two leaves a thread's stack for signals freed, and the next one is a crash."""
    import openvino

    return openvino.Core()


def _convert(network: nn.Module, lay: Callable[[nn.Module], Twin], inputs: Sequence[Tensor]) -> Any:
    import openvino

    whole = network if next(network.parameters()).dtype == torch.float32 else copy.deepcopy(network).float()
    arguments = tuple(each.float().contiguous() for each in inputs)
    shapes = [(list(each.shape), openvino.Type.f32) for each in arguments]
    with warnings.catch_warnings(action="ignore"):  # of tracing: shapes are meant to be fixed
        return openvino.convert_model(_Module(whole, lay(whole)), example_input=arguments, input=shapes)


class _Module(nn.Module):
    """A twin as a module, for the converter."""

    def __init__(self, network: nn.Module, twin: Twin) -> None:
        super().__init__()
        self.network, self.twin = network, twin

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.twin(inputs)


def _digest(name: str, network: nn.Module, inputs: Sequence[Tensor]) -> str:
    """Of all that a converted network depends on."""
    shapes = [tuple(each.shape) for each in inputs]
    made = hashlib.sha256(repr((name, shapes, version("openvino"), torch.__version__)).encode())
    for code in sorted(Path(__file__).parent.glob("*.py")):  # the twins
        made.update(code.read_bytes())
    for tensor in network.parameters():
        made.update(repr((tuple(tensor.shape), tensor.dtype)).encode())
        made.update(tensor.detach().contiguous().flatten().view(torch.uint8).numpy().data)
    return made.hexdigest()[:32]
