"""Values in memory by name, within a budget of bytes: what was used least recently goes first."""

import threading
from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

V = TypeVar("V")


class Store(Generic[V]):
    """A mapping with a budget. Thread-safe.

    Args:
        budget: bytes of all values; a single one above it is not kept.
    """

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.size = 0
        """Bytes of what is kept."""
        self._values: OrderedDict[Hashable, tuple[V, int]] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._values)

    def put(self, key: Hashable, value: V, size: int) -> None:
        """Keep a value of so many bytes."""
        with self._lock:
            self.size -= self._values.pop(key, (value, 0))[1]
            if size > self.budget:
                return
            self._values[key] = (value, size)
            self.size += size
            while self.size > self.budget:
                _, (_, freed) = self._values.popitem(last=False)
                self.size -= freed

    def get(self, key: Hashable) -> V | None:
        """A value that is still kept, which then counts as used."""
        with self._lock:
            if key not in self._values:
                return None
            self._values.move_to_end(key)
            return self._values[key][0]
