"""Putting tensors into a network: all of them, each once, each of the right shape."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from diffuscope.errors import WeightMismatchError, shown
from diffuscope.weights.store.old_names import current_names


class _Unfilled(TorchFunctionMode):
    """``torch.nn.init`` does nothing in this context."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = {} if kwargs is None else kwargs
        if getattr(func, "__module__", None) == nn.init.__name__:
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)


@contextlib.contextmanager
def blank() -> Iterator[None]:
    """Networks built in this block are on the meta device; ``load_into`` puts the tensors in.

    They are not initialised: random numbers on the meta device make torch load its compiler, which takes seconds.
    """
    with torch.device("meta"), _Unfilled():
        yield


def load_into(module: nn.Module, tensors: Mapping[str, Tensor], *, source: str = "the file") -> None:
    """Replace all parameters of ``module``, without a copy; errors name ``source``, and leave it unchanged."""
    wanted, tensors = module.state_dict(), current_names(tensors)
    missing, extra = wanted.keys() - tensors.keys(), tensors.keys() - wanted.keys()
    if missing or extra:
        parts = [f"{len(missing)} missing ({_some(missing)})"] if missing else []
        parts += [f"{len(extra)} too many ({_some(extra)})"] if extra else []
        raise WeightMismatchError(
            f"{source} has {len(tensors)} tensors, the network {len(wanted)}: {'; '.join(parts)}; "
            "give the file and the configuration of the same network"
        )
    for name, tensor in tensors.items():
        if tensor.shape != wanted[name].shape:
            raise WeightMismatchError(
                f"tensor {shown(name)} of {source} has shape {list(tensor.shape)}, expected "
                f"{list(wanted[name].shape)}; give the file and the configuration of the same network"
            )
        if not tensor.is_floating_point():
            raise WeightMismatchError(
                f"tensor {shown(name)} of {source} has dtype {tensor.dtype}, expected floats; save it again"
            )
    module.load_state_dict(tensors, strict=True, assign=True)


def _some(names: Iterable[str]) -> str:
    return ", ".join(name[:100] for name in islice(sorted(names), 3)) + ", ..." * (len(list(names)) > 3)
