"""Which twin of a network runs: the fast one where there is a GPU, or where it was asked for, and no tap."""

import copy
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from diffuscope.models.text_encoder import TextEncoder
from diffuscope.models.unet import UNet
from diffuscope.models.vae import VAE, LatentDistribution
from diffuscope.perf import openvino, ops
from diffuscope.perf.graphs import Graphs, proven
from diffuscope.perf.laid import Laid
from diffuscope.perf.offload import Offload
from diffuscope.perf.openvino import Converted, Twin
from diffuscope.perf.second import Second, halved
from diffuscope.perf.unet import FastUNet, Prompt
from diffuscope.perf.vae import FastVAE
from diffuscope.prompt.encoding import plain
from diffuscope.types import Tap, sent

Backend = Literal["torch", "openvino"]
"""What runs the twins on a CPU."""

TIMES = 128
"""Timesteps, times rows, that are embedded in one product."""

JOINED = (2, 4, 6, 8, 10, 12, 16, 20, 24, 28, 32, 40, 48, 64)
"""Numbers of rows to which the rows of several runs are filled up."""

GRAPH_PIXELS = 1 << 18
"""Output pixels up to which decoding is recorded as a graph: beyond, launches cost little and a graph much memory."""


@dataclass(frozen=True)
class Approximation:
    """What a U-Net's twin leaves out."""

    caching: int = 1
    """The deep features are computed in every so-manyth call only."""
    merging: float = 0.0
    """Share of the tokens that the finest self-attention merges."""


EXACT = Approximation()


class Engine:
    """The fast twins of a model's networks.

    Attributes:
        wanted: whether they run; None is on a CUDA device.
        graphs, text_graphs: what is recorded, of the U-Net and the VAE, and of the text encoders.
        converted: runs them by OpenVINO on a CPU, or None.
        second: device that computes half of the rows of guidance, or None.
        offload: the networks that wait in the host's memory.
    """

    def __init__(
        self, wanted: bool | None = None, backend: Backend = "torch", second: torch.device | None = None
    ) -> None:
        """Nothing is laid out yet: that is done by the first call, and again after each change of the weights.

        Raises:
            InputError: the backend is not installed.
        """
        if backend == "openvino":
            openvino.check()
        self.wanted = wanted
        self.graphs, self.text_graphs = Graphs(), Graphs()
        self.offload = Offload()
        self.second = None if second is None else Second(second)
        self._there = None if second is None else Engine(wanted)
        self.converted = openvino.Converted() if backend == "openvino" else None
        forget = partial(_forget, self.graphs, self.converted)  # without this engine: no circle holds its memory
        self._unet = Laid(FastUNet, "U-Net", forget)
        self._vae = Laid(FastVAE, "VAE", forget)
        self._apart = Laid(_apart, "U-Net", forget)
        names = ("text_encoder", "text_encoder_2")
        self._texts = {name: Laid(_itself, name, self.text_graphs.forget) for name in names}
        self._drops = [self._unet.drop, self._vae.drop, self._apart.drop, *(each.drop for each in self._texts.values())]

    def runs(self, network: nn.Module, tap: Tap | None) -> bool:
        """Whether the fast twin of a network runs in a call with this tap."""
        if tap is not None:
            return False
        device = self.device(network).type
        if self.converted is not None and device == "cpu":
            return True
        return device == "cuda" if self.wanted is None else self.wanted

    def twin(self, network: nn.Module) -> str:
        """What runs a network where there is no tap: "plain", itself, or the backend of its fast twin."""
        if not self.runs(network, None):
            return "plain"
        return "openvino" if self.converted is not None and self.device(network).type == "cpu" else "torch"

    def _converts(self, x: Tensor) -> Converted | None:
        """What runs a twin for ``x`` in place of torch."""
        return self.converted if x.device.type == "cpu" and x.dtype in (torch.float32, torch.bfloat16) else None

    def device(self, network: nn.Module) -> torch.device:
        """Where a network runs."""
        return self.offload.device or next(network.parameters()).device

    @contextmanager
    def using(self, network: nn.Module) -> Iterator[None]:
        """Within, a network is on its device, and stays there."""
        with self.offload.lock, torch.inference_mode(False), torch.no_grad():
            for other in self.offload.idle(network):
                self.offload.leave(other)
                for drop in self._drops:
                    drop(other)
                self.release()
            if self.offload.bring(network):
                self.lay(network)
                self.offload.settle(network)
            self.offload.count(network, 1)
        try:
            yield
        finally:
            with self.offload.lock:
                self.offload.count(network, -1)

    def lay(self, network: nn.Module) -> None:
        """Lay out the twin of a network, if it has one that runs, ahead of its first call."""
        if self.runs(network, None):
            if isinstance(network, UNet):
                self._unet.get(network, first=True)
            elif isinstance(network, VAE):
                self._vae.get(network, first=True)

    def release(self) -> None:
        """Give back the memory that speed costs, the graphs; they are recorded again."""
        for each in (self, self._there):
            if each is not None:
                each.graphs.forget()
                each.text_graphs.forget()

    @property
    def notes(self) -> list[str]:
        """What runs slower than it could, and why; a sentence each."""
        found: list[str] = []
        if torch.cuda.is_available() and self.wanted is not False and ops.broken is not None:
            found.append(f"Triton kernels do not run here ({ops.broken}); plain ones do")
        if self.converted is not None and self.converted.note is not None:
            found.append(self.converted.note)
        each = [self.graphs, self.text_graphs, *([] if self._there is None else [self._there.graphs])]
        failure = next((graphs.failure for graphs in each if graphs.failure is not None), None)
        if failure is not None:
            found.append(f"no CUDA graph could be recorded ({failure}); the networks run without")
        return found

    def predictor(
        self,
        unet: UNet,
        context: Tensor,
        extra: Mapping[str, Tensor] | None,
        *,
        pairs: bool,
        times: Sequence[float] = (),
        approximation: Approximation = EXACT,
    ) -> Callable[[Tensor, Tensor], Tensor]:
        """``unet`` for a text, as a function of latents [N,C,H,W] and timestep. With ``pairs`` each row comes twice.

        ``context`` and ``extra`` as in ``UNet``; ``times`` are the timesteps that will be asked for.
        """
        if approximation != EXACT:  # plain networks keep their weights as they lie, and so the bits of other calls
            laid = self._unet if self.runs(unet, None) else self._apart
            reading = Reading(lambda first: laid.get(unet, first=first), context, extra, times, approximation.merging)
            if approximation.caching > 1:
                return self._cached(reading, approximation.caching, pairs=pairs)
            return self.predictions(reading, pairs=pairs)
        if pairs and self.second is not None and self._there is not None:
            return self._halved(self.second, self._there, unet, context, extra, times)
        return self.predictions(self.reading(unet, context, extra, times), pairs=pairs)

    def _cached(self, reading: "Reading", every: int, *, pairs: bool) -> Callable[[Tensor, Tensor], Tensor]:
        count, deep = 0, torch.empty(0)

        def predict(x: Tensor, time: Tensor) -> Tensor:
            nonlocal count, deep
            twin, prompt = now = reading.now()
            timed, shared = reading.timed(now, time), x[: len(x) // 2] if pairs and twin.shares else x
            if count % every == 0:
                deep = self.graphs(
                    f"U-Net, deep{reading.suffix}",
                    lambda new, kept: twin.deep(new[0], new[1], prompt.of(kept)),
                    [shared, timed],
                    reading.tensors,
                )
            count += 1
            return self.graphs(
                f"U-Net, shallow{reading.suffix}",
                lambda new, kept: twin.shallow(new[0], new[1], new[2], prompt.of(kept)),
                [shared, deep, timed],
                reading.tensors,
            )

        return predict

    def _halved(
        self,
        second: Second,
        there: "Engine",
        unet: UNet,
        context: Tensor,
        extra: Mapping[str, Tensor] | None,
        times: Sequence[float],
    ) -> Callable[[Tensor, Tensor], Tensor]:
        def here(context: Tensor, extra: Mapping[str, Tensor] | None) -> Callable[[Tensor, Tensor], Tensor]:
            reading = Reading(lambda _: self._unet.known(unet), context, extra, times)  # ``away`` has looked
            return self.predictions(reading, pairs=False)

        def away(context: Tensor, extra: Mapping[str, Tensor] | None) -> Callable[[Tensor, Tensor], Tensor]:
            def on(first: bool) -> FastUNet:
                return there._unet.known(second.copy(self._unet.get(unet, first=first)))

            predict = there.predictions(Reading(on, context, extra, times), pairs=False)

            def call(x: Tensor, time: Tensor) -> Tensor:
                with torch.cuda.device(second.device if second.device.type == "cuda" else -1):
                    return predict(x, time)

            return call

        return halved(here, away, second, context, extra)

    def predictions(self, reading: "Reading", *, pairs: bool) -> Callable[[Tensor, Tensor], Tensor]:
        """``predictor`` of what is read."""

        def predict(x: Tensor, time: Tensor) -> Tensor:
            twin, prompt = now = reading.now()
            timed, shared = reading.timed(now, time), x[: len(x) // 2] if pairs and twin.shares else x
            if (converted := self._converts(x)) is not None and not prompt.merging:
                return converted("U-Net", twin.unet, partial(_run, prompt), [shared, timed, *reading.tensors])
            return self.graphs(
                f"U-Net{reading.suffix}",
                lambda new, kept: twin(new[0], new[1], prompt.of(kept)),
                [shared, timed],
                reading.tensors,
            )

        return predict

    def reading(
        self, unet: UNet, context: Tensor, extra: Mapping[str, Tensor] | None, times: Sequence[float]
    ) -> "Reading":
        """What the twin reads in a run; arguments as of ``predictor``."""
        return Reading(lambda first: self._unet.get(unet, first=first), context, extra, times)

    def joined(self, twin: FastUNet, prompt: Prompt, rows: Sequence[Tensor]) -> Tensor:
        """[N,...] the twin's predictions for the rows of several runs: latents, ``timed``, and their prompts' tensors.

        There is a graph for each N, so that there should be few; see ``JOINED``.

        Args:
            twin: that of the network, as it is now.
            prompt: of one of the runs; the others' have the same tensors.
            rows: [N,...] each.
        """
        if (converted := self._converts(rows[0])) is not None:
            return converted("U-Net", twin.unet, partial(_run, prompt), rows)
        return self.graphs("U-Net", lambda new, _: twin(new[0], new[1], prompt.of(new[2:], len(new[0]))), rows, [])

    def read_text(self, encoder: TextEncoder, ids: Tensor, tap: Tap | None, skip: int) -> tuple[Tensor, Tensor | None]:
        """``prompt.encoding.plain``; as a graph where twins run, from the embeddings on."""
        if not self.runs(encoder, tap) or torch.is_grad_enabled():
            return plain(encoder, ids, tap, skip)
        self._texts[encoder.component].get(encoder, first=True)

        def run(new: Sequence[Tensor], _: Sequence[Tensor]) -> Tensor:
            found = encoder.encode(new[0], new[1])
            assert found.pooled is not None
            return torch.cat([encoder.read(found, skip).flatten(), found.pooled.flatten()])

        embeddings = encoder.embed(ids)
        found = self.text_graphs(f"{encoder.component}, {skip} skipped", run, [embeddings, ids], [])
        states, pooled = found.split([embeddings.numel(), found.numel() - embeddings.numel()])
        return states.view_as(embeddings), pooled.view(len(ids), -1)

    def decode(self, vae: VAE, latents: Tensor) -> Tensor:
        """``vae.decode``."""
        twin = self._vae.get(vae, first=True)
        if (converted := self._converts(latents)) is not None:
            return converted("VAE", vae, _decode, [latents])
        if len(latents) > most_decoded(vae, latents):
            return proven(twin.decode, latents)
        return self.graphs("VAE", lambda new, _: twin.decode(new[0]), [latents], [])

    def encode(self, vae: VAE, pixels: Tensor) -> LatentDistribution:
        """``vae.encode``; never as a graph, since an image is encoded once."""
        mean, logvar = proven(self._vae.get(vae, first=True).encode, pixels).chunk(2, dim=1)
        return LatentDistribution(mean, logvar.clamp(-30, 20))


def most_decoded(vae: VAE, latents: Tensor) -> int:
    """Images of this size up to which decoding is recorded as a graph."""
    return GRAPH_PIXELS // (latents.shape[2] * latents.shape[3] * vae.config.factor**2)


def _forget(graphs: Graphs, converted: Converted | None, name: str) -> None:
    """Drop what was recorded or converted of a network."""
    graphs.forget(name)
    if converted is not None:
        converted.forget(name)


def _itself(encoder: TextEncoder) -> TextEncoder:
    """The twin of a text encoder, which is only recorded."""
    return encoder


def _apart(unet: UNet) -> FastUNet:
    """The twin of a copy, which leaves the weights of the U-Net as they lie."""
    return FastUNet(copy.deepcopy(unet))


def _run(prompt: Prompt, unet: nn.Module) -> Twin:
    """The twin of a U-Net, for latents, ``timed`` and the tensors of such a prompt."""
    assert isinstance(unet, UNet)
    twin = FastUNet(unet)
    return lambda new: twin(new[0], new[1], prompt.of(new[2:], len(new[2])))


def _decode(vae: nn.Module) -> Twin:
    assert isinstance(vae, VAE)
    twin = FastVAE(vae)
    return lambda new: twin.decode(new[0])


class Reading:
    """What a U-Net's twin reads in a run: the prompt once, the timesteps of many steps in one product.

    Attributes:
        tensors: the prompt's; other ones after a change of the weights.
        suffix: of the names of graphs, where the twin approximates.
    """

    def __init__(
        self,
        twin: Callable[[bool], FastUNet],
        context: Tensor,
        extra: Mapping[str, Tensor] | None,
        times: Sequence[float],
        merging: float = 0.0,
    ) -> None:
        """``twin`` returns the twin as it is now, and is told whether it is asked for the first time in the run."""
        self._twin, self._inputs, self._times = twin, (context, extra), tuple(times)
        self._merging, self.suffix = merging, f", {merging:g} merged" if merging else ""
        self._known: tuple[weakref.ref[FastUNet], Prompt] | None = None  # who waits in the host's memory is not held
        self._rows: dict[float, Tensor] = {}
        self.tensors: list[Tensor] = []

    def now(self, twin: FastUNet | None = None) -> tuple[FastUNet, Prompt]:
        """The twin, if it is not known from another reading of the same call, and the prompt as it reads it."""
        twin = self._twin(self._known is None) if twin is None or self._known is None else twin
        if self._known is None or self._known[0]() is not twin:
            self._known = weakref.ref(twin), replace(twin.read(*self._inputs), merging=self._merging)
            self._rows, self.tensors = {}, self._known[1].tensors
        return twin, self._known[1]

    def timed(self, now: tuple[FastUNet, Prompt], time: Tensor) -> Tensor:
        """[R,W] what the twin reads of a timestep; the tensor should be on the host, where its value is known.

        ``now`` is what ``now()`` has just returned: the host's time counts where two devices wait for it.
        """
        (twin, prompt), value = now, float(time)
        if value not in self._rows:
            rows = prompt.rows if prompt.features or prompt.added is not None else 1
            size = max(1, TIMES // rows)
            # Blocks begin at fixed places: a product's bits may depend on its rows, and a branch begins at any step.
            first = self._times.index(value) // size * size if value in self._times else len(self._times)
            block = self._times[first : first + size] or (value,)
            device = self._inputs[0].device
            kept = twin.timed(prompt, sent(torch.tensor(block, dtype=torch.float32), device))
            self._rows = dict(zip(block, kept.unbind(), strict=True))
        return self._rows[value]
