"""A model's networks as the runs of an Engine call them: by their twins, and through a Batcher."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from diffuscope.models.unet import UNet
from diffuscope.models.vae import VAE, LatentDistribution
from diffuscope.perf.engine import EXACT, JOINED, Approximation, most_decoded
from diffuscope.perf.engine import Engine as Twins
from diffuscope.perf.unet import FastUNet, Prompt
from diffuscope.serve.batcher import Batcher
from diffuscope.types import Tap


class SharedTwins(Twins):
    """The networks of a Pipeline as runs of an Engine call them: through the batcher. Takes the place of its twins."""

    def __init__(self, twins: Twins, batcher: Batcher) -> None:
        super().__init__(twins.wanted)
        self.twins, self.batcher, self.offload = twins, batcher, twins.offload
        self._now: tuple[int, FastUNet | None] = 0, None
        """A call's number and, while it is made, the U-Net's twin: one look at the weights serves all its runs."""

    @property
    def notes(self) -> list[str]:
        """Those of the twins."""
        return self.twins.notes

    def runs(self, network: nn.Module, tap: Tap | None) -> bool:  # noqa: ARG002 (whatever the network is)
        """Whether the batcher calls the network; with a tap the run does so itself."""
        return tap is None

    def twin(self, network: nn.Module) -> str:
        """As of the twins."""
        return self.twins.twin(network)

    def release(self) -> None:
        """Give back the memory of graphs, those of text encoders here too, between two calls."""
        self.batcher.task(self.twins.release)
        self.batcher.task(self.text_graphs.forget)

    @contextmanager
    def using(self, network: nn.Module) -> Iterator[None]:
        """Within, a network is on its device, and stays there."""
        with self.twins.using(network):
            yield

    def lay(self, network: nn.Module) -> None:
        """Lay out the twin."""
        self.twins.lay(network)

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
        """``unet`` for a text, as a function of latents [N,C,H,W] and timestep."""
        if approximation != EXACT:  # a call of its own, since others would have to approximate in the same calls
            own = self.twins.predictor(unet, context, extra, pairs=pairs, times=times, approximation=approximation)
            return lambda x, time: self.batcher.task(lambda: own(x, time))
        if self.twins.runs(unet, None):
            return self._fast(unet, context, extra, pairs=pairs, times=times)
        names = () if extra is None else tuple(sorted(extra))
        others = [] if extra is None else [extra[name] for name in names]

        def run(rows: Sequence[Tensor]) -> Tensor:
            x, time, context, *rest = rows
            return unet(x, time, context, extra=dict(zip(names, rest, strict=True)) or None)

        def predict(x: Tensor, time: Tensor) -> Tensor:
            rows = [x, torch.as_tensor(time, device=x.device).expand(len(x)), context, *others]
            key = ("unet", id(unet), x.dtype, *(tuple(row.shape[1:]) for row in rows), names)
            return self.batcher.call(key, rows, run)

        return predict

    def _fast(
        self, unet: UNet, context: Tensor, extra: Mapping[str, Tensor] | None, *, pairs: bool, times: Sequence[float]
    ) -> Callable[[Tensor, Tensor], Tensor]:
        """The same by the fast twin: alone as without a batcher, and with others in one call of the twin."""
        reading = self.twins.reading(unet, context, extra, times)
        alone = self.twins.predictions(reading, pairs=pairs)

        prompt: list[Prompt] = []
        shapes = [tuple(each.shape[1:]) for each in (context, *({} if extra is None else extra).values())]

        def predict(x: Tensor, time: Tensor) -> Tensor:
            def read() -> Sequence[Tensor]:
                number, twin = self._now
                now = reading.now(twin if number == self.batcher.calls else None)
                self._now, prompt[:] = (self.batcher.calls, now[0]), [now[1]]
                return [reading.timed(now, time).expand(len(x), -1), *reading.tensors]

            def run(given: Sequence[Tensor]) -> Tensor:
                twin, self._now = self._now[1], (0, None)
                assert twin is not None
                return alone(x, time) if given[0] is x else self.twins.joined(twin, prompt[0], given)

            return self.batcher.call(("unet", id(unet), x.dtype, x.shape[1:], *shapes), [x], run, read, JOINED)

        return predict

    def decode(self, vae: VAE, latents: Tensor) -> Tensor:
        """``vae.decode``."""
        fast, most = self.twins.runs(vae, None), most_decoded(vae, latents)
        decode, sizes = (self.twins.decode, [size for size in JOINED if size <= most]) if fast else (VAE.decode, ())
        key = ("vae", id(vae), latents.dtype, tuple(latents.shape[1:]))
        return self.batcher.call(key, [latents], lambda rows: decode(vae, rows[0]), sizes=sizes)

    def encode(self, vae: VAE, pixels: Tensor) -> LatentDistribution:
        """``vae.encode``; a run begins with it, in the thread that makes the calls."""
        return self.twins.encode(vae, pixels) if self.twins.runs(vae, None) else vae.encode(pixels)
