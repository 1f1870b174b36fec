"""CUDA graphs of a function, one for each shape of its arguments, in bounded memory."""

import os
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import RLock, get_ident
from typing import Any, ParamSpec

import torch
from torch import Tensor

from diffuscope.errors import DiffuscopeError
from diffuscope.perf import ops

P = ParamSpec("P")

GRAPHS = 32
"""Graphs that are kept; the one that was not used for longest goes first."""


WORKSPACE = "CUBLAS_WORKSPACE_CONFIG", ":4096:2:16:8"
"""What cuBLAS keeps for each thread and stream: 8 MiB, as torch has it before Hopper, where it takes 32. As fast."""

Function = Callable[[Sequence[Tensor], Sequence[Tensor]], Tensor]
"""(inputs that are new in each call, inputs that many calls share) -> result."""


@dataclass
class Recording:
    """A recorded function with the memory that it reads and writes."""

    replay: Callable[[], object]
    changing: list[Tensor]
    shared: list[Tensor]
    output: Tensor
    holds: Sequence[Tensor] | None = None
    """The caller's shared inputs whose values are in ``shared``."""


class Graphs:
    """Runs functions of tensors as CUDA graphs, which share one pool of memory.

    The first call of a function with some shapes runs the function itself, which also loads and compiles its kernels;
    the second of the same thread records a graph, since libraries prepare each thread by itself, and what they compute
    for that must not become part of a recording. If that fails, all calls run the function.

    Attributes:
        failure: why nothing is recorded any more, or None.
    """

    def __init__(self) -> None:
        if torch.cuda.is_available():
            os.environ.setdefault(*WORKSPACE)
        self._seen: OrderedDict[tuple[object, ...], Recording | frozenset[int]] = OrderedDict()
        """A graph, or the threads that ran the function."""
        self._pool: Any = None  # torch's own type of it is private
        self._stream: torch.cuda.Stream | None = None
        self._lock = RLock()
        self.failure: str | None = None

    def forget(self, name: str | None = None) -> None:
        """Drop the graphs whose names begin so, since they read other memory from now on; or all, with their memory."""
        with self._lock:
            for key in [key for key in self._seen if name is None or str(key[0]).startswith(name)]:
                del self._seen[key]
            if name is None and self._pool is not None:
                self._pool = None
                torch.cuda.empty_cache()

    def __call__(self, name: str, function: Function, changing: Sequence[Tensor], shared: Sequence[Tensor]) -> Tensor:
        """The function's result, in memory of its own.

        Args:
            name: what tells the function from others with such shapes.
            function: its result depends on the values and shapes of its inputs alone.
            changing: inputs that are copied in each call.
            shared: inputs that are copied only if this is another object than before.
        """
        if self.failure is not None or not self.records(changing[0]):
            return proven(function, changing, shared)
        key = (name, *((tuple(each.shape), each.dtype) for each in (*changing, *shared)))
        with self._lock:
            graph = self._seen.get(key)
            if not isinstance(graph, Recording):
                threads = frozenset() if graph is None else graph
                if get_ident() not in threads:
                    result = proven(function, changing, shared)
                    self._remember(key, threads | {get_ident()})
                    return result
                try:
                    graph = self.record(function, changing, shared)
                except RuntimeError as error:  # also out of memory
                    self.failure = str(error).splitlines()[0]
                    self._seen.clear()
                    torch.cuda.empty_cache()
                    return function(changing, shared)
            self._remember(key, graph)
            torch._foreach_copy_(graph.changing, list(changing))
            if graph.holds is not shared and shared:
                torch._foreach_copy_(graph.shared, list(shared))
                graph.holds = shared
            graph.replay()
            return graph.output.clone()

    def _remember(self, key: tuple[object, ...], graph: Recording | frozenset[int]) -> None:
        self._seen[key] = graph
        self._seen.move_to_end(key)
        while len(self._seen) > GRAPHS:
            self._seen.popitem(last=False)

    def records(self, x: Tensor) -> bool:
        """Whether functions of ``x`` can be recorded."""
        return x.is_cuda

    def record(self, function: Function, changing: Sequence[Tensor], shared: Sequence[Tensor]) -> Recording:
        """The function for inputs of these shapes, not yet run."""
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        device = changing[0].device
        if self._stream is None or self._stream.device != device:  # torch's own is of the first device that recorded
            self._stream = torch.cuda.Stream(device)
        inputs = [each.clone() for each in changing], [each.clone() for each in shared]
        graph = torch.cuda.CUDAGraph()
        with (
            torch.cuda.device(device),
            torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"),
        ):
            output = function(*inputs)
        return Recording(graph.replay, *inputs, output)


def proven(function: Callable[P, Tensor], *args: P.args, **kwargs: P.kwargs) -> Tensor:
    """The function's result; without Triton if that fails, which needs a compiler and a cache folder of its own."""
    try:
        return function(*args, **kwargs)
    except (DiffuscopeError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        if not ops.disable(error):
            raise
        return function(*args, **kwargs)
