"""Tap names: how a tap travels down the modules, and which names there are.

An activation's name is the path of the module that computes it; one inside a module has one more part. A module
declares these parts as ``taps``, where the empty one is its own output, so listing all names needs no run.
"""

from dataclasses import dataclass

from torch import Tensor, nn

from diffuscope.errors import InputError, Unquoted
from diffuscope.types import Tap


@dataclass(frozen=True, slots=True, eq=False)  # equal only to itself: torch.compile hashes it half made
class Scope:
    """A tap as one module sees it: that module's path goes before each name, and replacements are checked."""

    tap: Tap
    path: str

    def wants(self, name: str) -> bool:
        """Whether the tap wants ``name`` of this module; the empty name is the module's output."""
        return self.tap.wants(_join(self.path, name))

    def __call__(self, name: str, value: Tensor) -> Tensor:
        """The tap's replacement for the value; an InputError unless it is a tensor of the same shape."""
        full_name = _join(self.path, name)
        replacement = self.tap(full_name, value)
        if not isinstance(replacement, Tensor):
            got = f"{type(replacement).__name__} for {full_name!r}"
        elif replacement.shape != value.shape:
            got = f"a tensor of shape {list(replacement.shape)} for {full_name!r}"
        elif (replacement.dtype, replacement.device) != (value.dtype, value.device):
            got = f"a tensor of {_kind(replacement)} for {full_name!r}"
        else:
            return replacement
        wanted = f"the value itself or a tensor of shape {list(value.shape)} and {_kind(value)}"
        raise InputError("tap", Unquoted(got), wanted, "replacement.to(value) has its dtype and device")


def _kind(value: Tensor) -> str:
    return f"{str(value.dtype).removeprefix('torch.')} on {value.device}"


def within(tap: Tap | None, *path: str | int) -> Scope | None:
    """``tap`` for the module at ``path``, seen from the module that holds it. None stays None."""
    if tap is None:
        return None
    name = ".".join(str(part) for part in path)
    if isinstance(tap, Scope):
        return Scope(tap.tap, _join(tap.path, name))
    return Scope(tap, name)


def tap_points(model: nn.Module) -> list[str]:
    """Every name that one forward of ``model`` offers to a tap, from the outer modules to the inner ones.

    Names are module paths below the network's own name, nested as in diffusers. In the U-Net a stage is
    ``unet.down.i``, ``unet.mid`` or ``unet.up.i`` (``up.0`` is the coarsest), with resnet blocks ``resnet.j``,
    transformers ``attn.j.block.k`` (of ``self_attn``, ``cross_attn`` and ``ff``) and ``downsample`` or ``upsample``.
    An attention offers ``query``, ``key``, ``value``, ``weights`` and ``head_out`` (each head's result before the
    output projection) beside its own output: ``unet.up.1.attn.0.block.0.cross_attn.weights``.
    """
    return [
        _join(_join(str(model.component), path), point)
        for path, module in model.named_modules()
        for point in getattr(module, "taps", ())
    ]


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path and name else path or name
