"""Giving tensors to a network: all of them, each once, each of the right shape."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from diffuscope.errors import WeightMismatchError


class _Unfilled(TorchFunctionMode):
    """Within it, ``torch.nn.init`` leaves tensors as they are."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = {} if kwargs is None else kwargs
        if getattr(func, "__module__", None) == nn.init.__name__:
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)


@contextlib.contextmanager
def blank() -> Iterator[None]:
    """Networks that are made in this block hold no memory and no numbers: ``load_into`` gives them theirs.

    Random numbers for tensors that have no memory would make torch load its compiler, which takes a second or two.
    """
    with torch.device("meta"), _Unfilled():
        yield


def load_into(module: nn.Module, tensors: Mapping[str, Tensor], *, source: str = "the file") -> None:
    """Put ``tensors`` in the place of the parameters of ``module``, without a copy; their dtype becomes the module's.

    The module may have been made on the meta device, so that nothing is allocated twice. On an error it is unchanged.

    Args:
        module: the network, changed in place.
        tensors: by the module's own names; every one is used, and none may be missing.
        source: what the tensors came from, for the error.

    Raises:
        WeightMismatchError: a tensor is missing, or too many, or of another shape.
    """
    wanted = module.state_dict()
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
                f"tensor {name!r} of {source} has shape {list(tensor.shape)}, wanted {list(wanted[name].shape)}; "
                "give the file and the configuration of the same network"
            )
        if not tensor.is_floating_point():
            raise WeightMismatchError(
                f"tensor {name!r} of {source} has dtype {tensor.dtype}, wanted numbers with a fraction; save it again"
            )
    module.load_state_dict(tensors, strict=True, assign=True)


def _some(names: Iterable[str]) -> str:
    return ", ".join(islice(sorted(names), 3)) + ", ..." * (len(list(names)) > 3)
