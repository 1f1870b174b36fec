"""Networks that wait in the host's memory while others run on a device: where their tensors are, and who uses them."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock

import torch
from torch import Tensor, nn

HOST = torch.device("cpu")


@dataclass
class _Moved:
    """A tensor of a network on the device."""

    tensor: Tensor
    host: Tensor
    """Its values in the host's memory."""
    state: tuple[int, int] | None = None
    """Address and version after it was brought: whoever changes it changes one of them."""


class Offload:
    """The networks of a model and their places. ``Engine.using`` moves them, and nobody else.

    Attributes:
        allowed: whether moving may begin where memory is scarce.
        device: where networks run; None where nothing is moved.
        lock: held while the users are counted and networks are moved.
    """

    def __init__(self) -> None:
        self.allowed = True
        self.device: torch.device | None = None
        self.lock = Lock()
        self._networks: list[nn.Module] = []
        self._users: dict[nn.Module, int] = {}
        self._moved: dict[nn.Module, dict[int, _Moved]] = {}

    def may_begin(self, device: torch.device) -> bool:
        """Whether networks on this device may be moved, and are not yet."""
        return self.allowed and self.device is None and has_own_memory(device)

    def begin(self, device: torch.device, networks: Iterable[nn.Module]) -> None:
        """From now on only networks that are used are kept on the ``device``; the others follow as soon as one is."""
        with self.lock:
            self.device = torch.empty(0, device=device).device  # with its number
            self._networks = list(networks)

    def count(self, network: nn.Module, change: int) -> None:
        """One user more or less; with the lock."""
        self._users[network] = self._users.get(network, 0) + change

    def idle(self, wanted: nn.Module) -> list[nn.Module]:
        """The networks on the device that nobody uses, beside the one that is wanted; with the lock."""
        if self.device is None or wanted not in self._networks:
            return []
        others = [each for each in self._networks if each is not wanted and not self._users.get(each)]
        return [each for each in others if any(self._is_there(each, tensor) for tensor in _tensors(each))]

    def bring(self, network: nn.Module) -> bool:
        """Bring a network to the device; False if it is there, or is none of these. With the lock."""
        if self.device is None or network not in self._networks:
            return False
        missing = [tensor for tensor in _tensors(network) if not self._is_there(network, tensor)]
        moved = self._moved.setdefault(network, {})
        for tensor in missing:
            host = tensor.data
            tensor.data = host.to(self.device, copy=True)
            moved[id(tensor)] = _Moved(tensor, host)
        return bool(missing)

    def settle(self, network: nn.Module) -> None:
        """The tensors that were brought lie where they stay; with the lock."""
        for each in self._moved[network].values():
            each.state = _state(each.tensor)

    def leave(self, network: nn.Module) -> None:
        """Back to the host's memory: what nobody changed need not be copied. With the lock."""
        moved = self._moved.get(network, {})
        for tensor in _tensors(network):
            if self._is_there(network, tensor):
                known = moved.pop(id(tensor), None)
                unchanged = known is not None and known.state == _state(tensor)
                tensor.data = known.host if known is not None and unchanged else tensor.data.to(HOST, copy=True)
        moved.clear()  # parameters that the network has no more

    @contextmanager
    def resting(self, network: nn.Module) -> Iterator[bool]:
        """Whether a network is where it runs, and stays there within; never waits, and is False if it had to."""
        if self.device is None or network not in self._networks:
            yield True
        elif not self.lock.acquire(blocking=False):
            yield False
        else:
            try:
                yield all(self._is_there(network, tensor) for tensor in _tensors(network))
            finally:
                self.lock.release()

    def gain(self, network: nn.Module) -> int:
        """Bytes that the device has more, or less, once this network is there alone."""
        if self.device is None:
            return 0
        there = {
            each: sum(tensor.nbytes for tensor in _tensors(each) if self._is_there(each, tensor))
            for each in self._networks
        }
        return sum(there.values()) - sum(tensor.nbytes for tensor in _tensors(network))

    def _is_there(self, network: nn.Module, tensor: Tensor) -> bool:
        return id(tensor) in self._moved.get(network, {}) or tensor.device == self.device != HOST


def has_own_memory(device: torch.device) -> bool:
    """Whether a device does not share the host's memory."""
    return device.type in ("cuda", "xpu")


def _tensors(network: nn.Module) -> Iterator[Tensor]:
    yield from network.parameters()
    yield from network.buffers()


def _state(tensor: Tensor) -> tuple[int, int]:
    return tensor.data_ptr(), tensor._version
