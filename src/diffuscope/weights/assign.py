"""Giving tensors to a network: all of them, each once, each of the right shape."""

from collections.abc import Iterable, Mapping
from itertools import islice

from torch import Tensor, nn

from diffuscope.errors import WeightMismatchError


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
