"""Names for a network's inner values: how a tap travels down the modules, and which names there are.

A value's name is the path of the module that makes it, and for a value inside that module one more part. A module
declares these parts as ``taps``, where the empty one is its own output; so the list of names needs no run.
"""

from dataclasses import dataclass

from torch import Tensor, nn

from diffuscope.errors import InputError
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
        """What the tap makes of the value.

        Raises:
            InputError: it is no tensor, or one of another shape.
        """
        full_name = _join(self.path, name)
        replacement = self.tap(full_name, value)
        if not isinstance(replacement, Tensor):
            raise InputError(
                f"the tap answered {type(replacement).__name__} for {full_name!r}; "
                "return the value itself or a tensor of its shape"
            )
        if replacement.shape != value.shape:
            raise InputError(
                f"the tap replaced {full_name!r} of shape {list(value.shape)} by one of shape "
                f"{list(replacement.shape)}; return a tensor of the same shape"
            )
        return replacement


def within(tap: Tap | None, *path: str | int) -> Scope | None:
    """``tap`` for the part of the network at ``path``, seen from the module that holds it. None stays None."""
    if tap is None:
        return None
    name = ".".join(str(part) for part in path)
    if isinstance(tap, Scope):
        return Scope(tap.tap, _join(tap.path, name))
    return Scope(tap, name)


def tap_points(model: nn.Module) -> list[str]:
    """Every name that one forward of ``model`` offers to a tap, outside in; the first part is the component's name."""
    return [
        _join(_join(str(model.component), path), point)
        for path, module in model.named_modules()
        for point in getattr(module, "taps", ())
    ]


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path and name else path or name
