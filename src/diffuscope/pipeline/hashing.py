"""The hashes of a model's weights, computed once, beside the first run, and the networks' beside each other."""

from collections.abc import Mapping

from diffuscope.adapters.loras import Adapters
from diffuscope.file_hash import FileHash
from diffuscope.weights.store.hashing import Hash


class Hashing:
    """The hashes of the networks' tensors without any LoRA; ``result`` waits for them.

    Attributes:
        known: begun when the model was loaded, and still of its tensors.
    """

    def __init__(self, adapters: Adapters, files: Mapping[str, FileHash]) -> None:
        self.known = {name: each for name, each in files.items() if each.holds(adapters.unchanged(name))}
        self._adapters = adapters
        self._threads: dict[str, Hash] = {}

    def begin(self) -> "Hashing":
        """Begin with the others as they are now."""
        names = self._adapters.networks
        self._threads = {name: self.known.get(name) or Hash(self._adapters.unchanged(name)) for name in names}
        return self

    def leave(self) -> None:
        """Wait for it, if it holds memory of a device."""
        for each in self._threads.values():
            if each.stream is not None:
                each.join()

    def result(self) -> dict[str, str]:
        """SHA-256 of each network, in hex."""
        return {name: each.result() for name, each in self._threads.items()}
