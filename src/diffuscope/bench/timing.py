"""Times with their spread, the first call apart; memory at its peak; what a device does at best."""

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

Report = dict[str, Any]
"""A part of the JSON."""

Call = Callable[[], object]

GROUP = 0.05
"""Seconds of the calls that are timed together on a CUDA device, so that the host may run ahead as it does in a run."""

FEWEST, MOST = 3, 30
"""Groups, or calls, of which the median is taken."""

SIDES = {"cpu": 2048, "cuda": 8192}
"""Of the matrices whose product is taken for the best that a device does."""


@dataclass(frozen=True)
class Timer:
    """Times calls on a device.

    Attributes:
        device: where they run.
        seconds: that the timing of one thing may take, about.
    """

    device: torch.device
    seconds: float = 3.0

    def wait(self) -> None:
        """Until the device has done its work."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def once(self, call: Call) -> float:
        """Seconds of one call, on the host's clock."""
        self.wait()
        start = time.perf_counter()
        call()
        self.wait()
        return time.perf_counter() - start

    def timed(self, call: Call) -> Report:
        """Milliseconds of one call: ``ms`` is the median, ``range`` the lowest and the highest.

        On a CUDA device of groups of calls between two events. On a CPU ``cpu_ms`` is the processor time of all
        threads, which other programs on the machine change less.
        """
        self.once(call)
        estimate = max(self.once(call), 1e-7)
        calls = max(1, min(50, int(GROUP / estimate))) if self.device.type == "cuda" else 1
        groups = max(FEWEST, min(MOST, int(self.seconds / (calls * estimate))))
        if self.device.type == "cuda":
            return _spread([self._between_events(call, calls) for _ in range(groups)])
        found, used = [], []
        for _ in range(groups):
            before = time.process_time()
            found.append(self.once(call) * 1e3)
            used.append((time.process_time() - before) * 1e3)
        return _spread(found) | {"cpu_ms": round(statistics.median(used), 3)}

    def _between_events(self, call: Call, calls: int) -> float:
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        for _ in range(calls):
            call()
        end.record()
        end.synchronize()
        return float(begin.elapsed_time(end)) / calls

    def whole(self, call: Call) -> Report:
        """Seconds of whole calls on the host's clock: the first, and the median of those after it."""
        first = self.once(call)
        found = [self.once(call)]
        while len(found) < FEWEST or (sum(found) < self.seconds and len(found) < MOST):
            found.append(self.once(call))
        times = {"s": round(statistics.median(found), 4), "range": [round(min(found), 4), round(max(found), 4)]}
        return {"first_s": round(first, 3)} | times

    def rates(self, dtype: torch.dtype) -> Report:
        """What the device does at best, measured now: a matrix product, and a copy (bytes read plus written)."""
        side = SIDES.get(self.device.type, 4096)
        a, b = (torch.randn(side, side, device=self.device).to(dtype) for _ in range(2))
        source = torch.zeros(1 << (30 if self.device.type == "cuda" else 28), device=self.device, dtype=torch.uint8)
        target = torch.zeros_like(source)
        product, copied = self.timed(lambda: a @ b)["ms"], self.timed(lambda: target.copy_(source))["ms"]
        tflops, tbs = 2 * side**3 / product / 1e9, 2 * len(source) / copied / 1e9
        return {"product_tflops": float(f"{tflops:.3g}"), "copy_tbs": float(f"{tbs:.3g}"), "side": side}


def _spread(milliseconds: list[float]) -> Report:
    ends = [round(min(milliseconds), 3), round(max(milliseconds), 3)]
    return {"ms": round(statistics.median(milliseconds), 3), "range": ends, "number": len(milliseconds)}


def operations(call: Call) -> float:
    """TFLOP of a call: products, convolutions and attention."""
    with FlopCounterMode(display=False) as counter:
        call()
    return float(f"{counter.get_total_flops() / 1e12:.4g}")


@contextmanager
def peak(device: torch.device, report: Report) -> Iterator[None]:
    """Write the highest memory within the block, over what was in use at its start, as ``peak_mib``.

    Of a CUDA device its tensors, of a CPU the resident memory of the process, where Linux counts it.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        yield
        report["peak_mib"] = (torch.cuda.max_memory_allocated(device) - before) >> 20
        return
    reset = False
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # the highest becomes what is resident now
        reset = True
    resident = _status("VmRSS")
    yield
    if reset and resident is not None and (highest := _status("VmHWM")) is not None:
        report["peak_mib"] = (highest - resident) >> 20


def _status(name: str) -> int | None:
    """Bytes by a name of Linux's status file."""
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) << 10
    return None
