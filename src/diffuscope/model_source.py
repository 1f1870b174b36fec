"""The options of opening a model, each stated once. Imports no torch."""

import re
from dataclasses import KW_ONLY, dataclass
from os import PathLike
from typing import TYPE_CHECKING, Annotated, Literal

from diffuscope.config import FAMILIES, PRESETS, Prediction
from diffuscope.errors import InputError, nearest
from diffuscope.schema import Group

if TYPE_CHECKING:
    from torch import device as torch_device
    from torch import dtype as torch_dtype

    Source = str | PathLike[str]
    Device = str | torch_device
    DType = str | torch_dtype
else:
    Source = Device = DType = str

DTYPES = ("float32", "bfloat16", "float16")
DEVICES = ("cuda", "mps", "xpu", "cpu")
"""In the order of preference of "auto"."""

DTYPE_ALIASES = {
    "autocast": "float16",
    "bf16": "bfloat16",
    "f16": "float16",
    "f32": "float32",
    "fp16": "float16",
    "fp32": "float32",
    "full": "float32",
    "half": "float16",
}
"""Name of a dtype in other programs -> the one to write here."""

PLACES = {
    "model": "a shipped model such as 'emoji', the path of a folder or file, or a hub id such as 'owner/name'",
    "vae": "the path of a file or folder",
    "models_dir": "the path of a folder",
}
"""Option that names files -> what it may be."""


@dataclass(frozen=True)
class ModelSource:
    """Which model, on which device, and what its files do not say themselves."""

    model: Annotated[Source | None, Group("model")] = None
    """shipped model, folder, file with a complete model, name in models_dir, or hub id"""
    device: Device = "auto"
    """auto, cpu, cuda, cuda:1, mps or xpu; auto is the first available of cuda, mps, xpu and cpu"""
    dtype: DType = "auto"
    """auto, float32, bfloat16 or float16; auto is float32 on a CPU, bfloat16 where it is native, else float16"""
    family: str | None = None
    """family of a single file that fits several, such as sd21 or sd21-v"""
    _: KW_ONLY
    vae: Source | None = None
    """file or folder with another VAE, or its name in models_dir"""
    prediction: Prediction | None = None
    """prediction type, if the model's files do not state it"""
    zero_snr: bool | None = None
    """whether it was trained with zero terminal SNR (Lin et al. 2024), if the model's files do not state it"""
    fast: bool | None = None
    """run the networks' fast twins, whose numbers differ by rounding; by default on CUDA, in the server and the lab"""
    backend: Literal["torch", "openvino"] = "torch"
    """what runs the networks on a CPU; openvino is faster, needs the extra of that name, and converts them once"""
    second_device: Device | None = None
    """device, such as cuda:1, whose copy of the U-Net computes half of the rows of guidance at the same time"""
    offload: bool | None = None
    """keep networks that do not run in the host's memory, off the GPU; by default only where its memory is short"""
    models_dir: Source | None = None
    """folder of AUTOMATIC1111's web UI or ComfyUI, used in place: models, VAEs, LoRAs and embeddings by name"""
    allow_pickle: bool = False
    """also read pickled files (.ckpt, .pt, .bin), with a reader that builds tensors and runs no code"""

    def __post_init__(self) -> None:
        for name, want in PLACES.items():
            given = getattr(self, name)
            if given is not None and (not isinstance(given, str | PathLike) or not str(given)):
                raise InputError(name, given, want)
        if isinstance(self.device, str):
            check_device(self.device)
        if isinstance(self.dtype, str):
            check_dtype(self.dtype)
        if self.family is not None:
            check_family(self.family)


def check_device(device: str, argument: str = "device") -> None:
    """InputError for a device that no machine has."""
    if device != "auto" and not re.fullmatch(rf"({'|'.join(DEVICES)})(:(0|[1-9]\d?))?", device):
        raise InputError(argument, device, f"auto, {', '.join(DEVICES)}, or one such as cuda:1")


def check_dtype(dtype: str) -> None:
    """InputError for a dtype that no network runs in."""
    if dtype not in ("auto", *DTYPES):
        hint = f"Write {DTYPE_ALIASES[dtype]!r}" if dtype in DTYPE_ALIASES else ""
        raise InputError("dtype", dtype, f"one of auto, {', '.join(DTYPES)}", hint)


def check_family(family: str) -> None:
    """InputError for an unknown family."""
    if family not in PRESETS:
        raise InputError("family", family, f"one of {', '.join(FAMILIES)}", nearest(family, FAMILIES))
