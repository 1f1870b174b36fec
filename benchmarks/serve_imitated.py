"""How an Engine fills an asynchronous device, without one: graphs whose replay only moves a clock forward.

    python benchmarks/serve_imitated.py --call 3 --row 1.6 --image 6
    python benchmarks/serve_imitated.py --call 1 --row .1 --image .5 --requests 48 --rows 64

Pipeline, engine and threads are the real ones; what the networks return is that of their first call.
Requests as in serve.py.
"""

import statistics
import time
from collections.abc import Callable, Sequence

import torch
import tyro
from torch import Tensor

from diffuscope.bench import measure
from diffuscope.config import PRESETS
from diffuscope.perf import graphs
from diffuscope.pipeline import codec
from diffuscope.serve import Engine, batcher
from serve import costs, mixed, offline, together


class Device(graphs.Graphs):
    """Graphs of a device that is busy for so many seconds a call, a row, and a decoded image."""

    def __init__(self, call: float, row: float, image: float) -> None:
        super().__init__()
        self.call, self.row, self.image = call, row, image
        self.recorded, self.free = 0, 0.0

    def records(self, x: Tensor) -> bool:  # noqa: ARG002
        """All."""
        return True

    def record(
        self, function: graphs.Function, changing: Sequence[Tensor], shared: Sequence[Tensor]
    ) -> graphs.Recording:
        """The function's result, which the clock alone changes no more."""
        self.recorded += 1
        inputs = [each.clone() for each in changing], [each.clone() for each in shared]
        return graphs.Recording(lambda: None, *inputs, function(*inputs))

    def __call__(
        self, name: str, function: graphs.Function, changing: Sequence[Tensor], shared: Sequence[Tensor]
    ) -> Tensor:
        """The result; the device is busy with it from now, or from when it is free."""
        found = super().__call__(name, function, changing, shared)
        rows = max(len(each) for each in (changing[0], *shared))
        work = self.image * rows if name == "VAE" else self.call + self.row * rows
        self.free = max(self.free, time.perf_counter()) + work
        return found

    def done(self, _: object) -> Callable[[], bool]:
        """Whether the device has computed what was asked for so far."""
        end = self.free
        return lambda: time.perf_counter() >= end

    def wait(self) -> None:
        """Until it has."""
        time.sleep(max(0.0, self.free - time.perf_counter()))


def main(
    *, call: float, row: float, image: float, requests: int = 32, running: int = 16, rows: int = 32, rounds: int = 3
) -> None:
    """Print ratios.

    Args:
        call: milliseconds of the device for a call of the U-Net.
        row: for each of its rows, beside.
        image: for each decoded image.
        requests: in the mix.
        running: images that run at the same time.
        rows: most rows of a call.
        rounds: of each measurement.
    """
    pipe = measure.random_model(PRESETS["tiny"], torch.device("cpu"), torch.float32, fast=True)
    pipe.engine.graphs = device = Device(call / 1e3, row / 1e3, image / 1e3)
    mix = mixed(requests)
    to_images, batcher._done = codec.to_images, device.done

    def images(pixels: Tensor) -> list[codec.Image.Image]:
        device.wait()
        return to_images(pixels)

    codec.to_images = images
    engine = Engine(pipe, running=running, rows=rows)

    ways: dict[str, Callable[[], object]] = {
        "one after another": lambda: [pipe(request) for request in mix],
        "offline": lambda: offline(pipe, mix, rows),
        "together": lambda: together(engine, mix),
        "lone, library": lambda: pipe(mix[0]),
        "lone, engine": lambda: engine.submit(mix[0]).result(),
    }
    for way in (*ways.values(), ways["together"]):
        way()
    found = {}
    for name, way in ways.items():
        before = device.recorded, engine.batcher.calls, engine.batcher.joined
        wall, used = (statistics.median(each) for each in zip(*[costs(way) for _ in range(rounds)], strict=True))
        print(f"{name}: {wall:.3f} s, {used:.3f} of the processor; recorded {device.recorded - before[0]}")
        if (calls := engine.batcher.calls - before[1]) > 0:
            print(f"    runs in a call: {(engine.batcher.joined - before[2]) / calls:.2f}")
        found[name] = wall
    served = found["together"]
    print(
        f"of offline {found['offline'] / served:.2f}, over one after another {found['one after another'] / served:.2f}"
    )
    engine.stop()


if __name__ == "__main__":
    tyro.cli(main)
