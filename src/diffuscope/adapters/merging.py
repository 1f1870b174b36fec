"""What is merged into a network's parameters now, and who may use them: one truth for each network.

A network may be shared by several threads, and by several Pipelines. So this belongs to the network and not to a
Pipeline: calls with the same LoRAs use it at the same time, a call with others waits until they have left.
"""

import threading
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from diffuscope.errors import InputError, NonFiniteError, Unquoted
from diffuscope.perf import memory
from diffuscope.weights.adapter import lora
from diffuscope.weights.adapter.deltas import Adapter
from diffuscope.weights.adapter.lora import Lora

OVERTAKING = 16
"""How many uses with the LoRAs that are merged may go before one that waits for others: a merge costs as much as a
step, so turns are long; and they end, so nobody waits for ever."""


class Weighted(NamedTuple):
    """A LoRA at a weight."""

    name: str
    weight: float
    lora: Lora


Loras = tuple[Weighted, ...]
"""In the order of their names, none of weight 0; equal only where they are the same objects."""


class Merged:
    """The LoRAs in one network. Every merge is computed from its original tensors, which are kept meanwhile."""

    def __init__(self) -> None:
        self._originals: dict[str, Tensor] = {}  # of every parameter that may differ from the loaded one
        self._now: Loras | None = ()  # None: a merge is under way, or was broken off
        self._turn = threading.Condition()
        self._users: dict[object, tuple[object, int]] = {}  # use -> its run and its thread
        self._queue: list[object] = []
        self._overtaken = 0

    @contextmanager
    def using(self, network: nn.Module, part: str, loras: Loras, run: object = None) -> Iterator[None]:
        """Within, the network has of these LoRAs those for its part, and keeps them, whatever other threads do.

        A use within one of the same run, or of the same thread, does not wait for it; with other LoRAs it is refused.
        """
        loras = tuple(each for each in loras if part in each.lora.parts)
        use, me = object(), (run, threading.get_ident())
        try:
            with self._turn:
                if any(own in user for user in self._users.values() for own in me if own is not None):
                    if loras != self._now:
                        got = Unquoted("a call within a step of another one that has other LoRAs")
                        raise InputError("prompt", got, "the same LoRAs", "Make it before or after the other call")
                else:
                    self._wait(use, loras)
                self._users[use] = me  # before the merge: nobody else may begin one from here on
                self._merge(network, part, loras)
            yield
        finally:
            with self._turn:
                self._users.pop(use, None)
                self._turn.notify_all()

    def rest(self, network: nn.Module, part: str, loras: Loras) -> None:
        """Merge these LoRAs, unless the network is used or waited for: its last user does so.

        This never waits: a run that nobody holds ends whenever Python collects it, in any thread, amid any other work.
        """
        if not self._turn.acquire(blocking=False):
            return
        try:
            if not self._users and not self._queue and self._now is not None:
                self._merge(network, part, tuple(each for each in loras if part in each.lora.parts))
        finally:
            self._turn.release()

    def unchanged(self, network: nn.Module) -> dict[str, Tensor]:
        """The network's tensors without any LoRA."""
        with self._turn:
            return {**network.state_dict(), **self._originals}

    def _wait(self, use: object, loras: Loras) -> None:
        """Until nobody uses the network, or all who do have the same LoRAs; in the order of arrival, see above."""

        def may_begin() -> bool:
            fits = loras == self._now
            first = self._queue[0] is use
            return (fits or not self._users) and (first or (fits and self._overtaken < OVERTAKING))

        self._queue.append(use)
        try:
            self._turn.wait_for(may_begin)
            self._overtaken = 0 if self._queue[0] is use else self._overtaken + 1
        finally:
            self._queue.remove(use)

    @torch.inference_mode(False)
    @torch.no_grad()
    def _merge(self, network: nn.Module, part: str, loras: Loras) -> None:
        """Merge these LoRAs; on any exception, an interrupt too, the network has its original tensors again."""
        if loras == self._now:
            return
        with memory.phase("merging LoRAs", next(network.parameters()).device.type):
            self._replace(network, part, loras)

    def _replace(self, network: nn.Module, part: str, loras: Loras) -> None:
        self._now = None
        try:
            changes = _changes(part, loras)
            finite = []
            for name in sorted({*changes, *self._originals}):
                parameter = network.get_parameter(name)
                original = self._originals.get(name, parameter.data).to(parameter)
                if name in changes:
                    self._originals[name] = original
                    parameter.data = lora.merged(original, changes[name])
                    finite.append(torch.stack(parameter.data.aminmax()).isfinite().all())
                else:
                    parameter.data = original
                    del self._originals[name]
            if finite and not torch.stack(finite).all():
                named = ", ".join(f"{each.name!r} at {each.weight:g}" for each in loras)
                raise NonFiniteError(
                    f"merged into the {part} in {network.get_parameter(name).dtype}, the LoRAs ({named}) make weights "
                    'that are not finite; lower their weights, or load the model with dtype="float32"'
                )
        except BaseException:
            self._restore(network)
            raise
        self._now = loras

    def _restore(self, network: nn.Module) -> None:
        """Put the original tensors back. If this is interrupted, ``_now`` stays None and the next merge does it."""
        for name in [*self._originals]:
            parameter = network.get_parameter(name)
            parameter.data = self._originals[name].to(parameter)
            del self._originals[name]
        self._now = ()


def merged(network: nn.Module) -> Merged:
    """What is merged into this network; the same object for all who ask."""
    with _LOCK:
        return _OF.setdefault(network, Merged())


_LOCK = threading.RLock()  # what is collected meanwhile may ask too
_OF: weakref.WeakKeyDictionary[nn.Module, Merged] = weakref.WeakKeyDictionary()


def _changes(part: str, loras: Loras) -> Mapping[str, list[tuple[Adapter, float]]]:
    """Parameter -> its adapters with their weights, in the order of the LoRAs' names."""
    changes: dict[str, list[tuple[Adapter, float]]] = {}
    for each in loras:
        for (owner, name), adapter in each.lora.adapters.items():
            if owner == part:
                changes.setdefault(name, []).append((adapter, each.weight))
    return changes
