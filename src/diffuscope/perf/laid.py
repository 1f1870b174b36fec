"""The twin of a network, which follows the changes of its weights."""

from collections.abc import Callable
from typing import Generic, TypeVar

from torch import nn

from diffuscope.perf import warming
from diffuscope.perf.weights import Watch

N = TypeVar("N", bound=nn.Module)
T = TypeVar("T")


class Laid(Generic[N, T]):
    """A network's twin, laid out again after each change of the weights."""

    def __init__(self, lay: Callable[[N], T], name: str, forget: Callable[[str], None]) -> None:
        """``forget`` is called with the ``name`` when the weights have changed."""
        self.lay, self.name, self.forget = lay, name, forget
        self._laid: tuple[N, T, Watch] | None = None

    def get(self, network: N, *, first: bool) -> T:
        """The twin of the network as it is now; only the ``first`` call of a run notices parts that were replaced."""
        if self._laid is not None:
            known, twin, watch = self._laid
            if known is network and watch.is_unchanged() and (not first or watch.is_same()):
                return twin
        self.forget(self.name)
        warming.wait()
        self._laid = network, self.lay(network), Watch(network)
        return self._laid[1]

    def known(self, network: N) -> T:
        """The twin as ``get`` made it, without a look at the weights, which nobody has changed since."""
        if self._laid is not None and self._laid[0] is network:
            return self._laid[1]
        return self.get(network, first=True)

    def drop(self, network: nn.Module) -> None:
        """Forget the twin of a network that leaves the device."""
        if self._laid is not None and self._laid[0] is network:
            self.forget(self.name)
            self._laid = None
