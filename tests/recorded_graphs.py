"""CUDA graphs where there is no GPU."""

from collections.abc import Sequence

from torch import Tensor

from diffuscope.perf import graphs


class Recorded(graphs.Graphs):
    """Graphs without a GPU: a replay runs the function on the fixed inputs again, as the recorded kernels do."""

    recorded = 0

    def records(self, x: Tensor) -> bool:  # noqa: ARG002
        return True

    def record(
        self, function: graphs.Function, changing: Sequence[Tensor], shared: Sequence[Tensor]
    ) -> graphs.Recording:
        self.recorded += 1
        fixed = [each.clone() for each in changing], [each.clone() for each in shared]
        output = function(*fixed)
        return graphs.Recording(lambda: output.copy_(function(*fixed)), *fixed, output)
