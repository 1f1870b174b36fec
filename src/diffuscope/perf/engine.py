"""Which twin of a network runs: the fast one where there is a GPU, or where it was asked for, and no tap."""

from collections.abc import Callable, Mapping
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from diffuscope.models.unet import UNet
from diffuscope.models.vae import VAE
from diffuscope.perf import ops
from diffuscope.perf.graphs import Graphs, proven
from diffuscope.perf.unet import FastUNet, Prompt
from diffuscope.perf.vae import FastDecoder
from diffuscope.perf.weights import Watch
from diffuscope.types import Tap

N = TypeVar("N", bound=nn.Module)
T = TypeVar("T")

GRAPH_PIXELS = 1 << 18
"""Output pixels up to which decoding is recorded as a graph: beyond, launches cost little and a graph much memory."""


class Engine:
    """The fast twins of a model's networks.

    Attributes:
        wanted: whether they run; None is on a CUDA device.
    """

    def __init__(self, wanted: bool | None = None) -> None:
        """Nothing is laid out yet: that is done by the first call, and again after each change of the weights."""
        self.wanted = wanted
        self.graphs = Graphs()
        self._unet = _Laid(FastUNet, "U-Net", self.graphs)
        self._vae = _Laid(FastDecoder, "VAE", self.graphs)

    def runs(self, network: nn.Module, tap: Tap | None) -> bool:
        """Whether the fast twin of a network runs in a call with this tap."""
        if tap is not None:
            return False
        return next(network.parameters()).is_cuda if self.wanted is None else self.wanted

    def lay(self, unet: UNet, vae: VAE) -> None:
        """Lay out the twins that run, ahead of their first call."""
        if self.runs(unet, None):
            self._unet.get(unet, first=True)
        if self.runs(vae, None):
            self._vae.get(vae, first=True)

    @property
    def notes(self) -> list[str]:
        """What runs slower than it could, and why; a sentence each."""
        found: list[str] = []
        if torch.cuda.is_available() and self.wanted is not False and ops.broken is not None:
            found.append(f"Triton kernels do not run here ({ops.broken}); plain ones do")
        if self.graphs.failure is not None:
            found.append(f"no CUDA graph could be recorded ({self.graphs.failure}); the networks run without")
        return found

    def predictor(
        self, unet: UNet, context: Tensor, extra: Mapping[str, Tensor] | None, *, pairs: bool
    ) -> Callable[[Tensor, Tensor], Tensor]:
        """``unet`` for a text, as a function of latents [N,C,H,W] and timestep. With ``pairs`` each row comes twice.

        ``context`` and ``extra`` as in ``UNet``.
        """
        read: _Read | None = None

        def predict(x: Tensor, time: Tensor) -> Tensor:
            nonlocal read
            twin = self._unet.get(unet, first=read is None)
            if read is None or read.twin is not twin:
                read = _Read(twin, twin.read(context, extra))
            prompt = read.prompt
            shared = x[: len(x) // 2] if pairs and twin.shares else x
            return self.graphs(
                "U-Net", lambda new, kept: twin(new[0], new[1], prompt.of(kept)), [shared, time], read.tensors
            )

        return predict

    def decode(self, vae: VAE, latents: Tensor) -> Tensor:
        """``vae.decode``."""
        twin = self._vae.get(vae, first=True)
        if len(latents) * latents.shape[2] * latents.shape[3] * vae.config.factor**2 > GRAPH_PIXELS:
            return proven(twin, latents)
        return self.graphs("VAE", lambda new, _: twin(*new), [latents], [])


class _Read:
    """A prompt as a twin read it."""

    def __init__(self, twin: FastUNet, prompt: Prompt) -> None:
        self.twin, self.prompt, self.tensors = twin, prompt, prompt.tensors


class _Laid(Generic[N, T]):
    """A network's twin, laid out again after each change of the weights."""

    def __init__(self, lay: Callable[[N], T], name: str, graphs: Graphs) -> None:
        self.lay, self.name, self.graphs = lay, name, graphs
        self._laid: tuple[N, T, Watch] | None = None

    def get(self, network: N, *, first: bool) -> T:
        """The twin of the network as it is now; only the ``first`` call of a run notices parts that were replaced."""
        if self._laid is not None:
            known, twin, watch = self._laid
            if known is network and watch.is_unchanged() and (watch.is_same() or not first):
                return twin
        self.graphs.forget(self.name)
        ops.wait()
        twin = self.lay(network)
        self._laid = network, twin, Watch(network)
        return twin
