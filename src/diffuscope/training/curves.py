"""Learning curves of a run."""

from collections import defaultdict
from pathlib import Path
from typing import Any

from diffuscope.output import replacing
from diffuscope.training.run_folder import read_log


def plot(log: Path, out: Path) -> None:
    """Write a PNG with a panel for each number of ``log``, JSON lines with ``step``; needs matplotlib."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    series: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for numbers in read_log(log):
        for name, value in numbers.items():
            if name not in {"step", "seconds"} and isinstance(value, float | int):
                series[name].append((numbers["step"], value))
    columns = 3
    rows = -(-len(series) // columns)
    width, height = 4 * columns, 2.6 * rows
    figure, panels = pyplot.subplots(rows, columns, figsize=(width, height), squeeze=False)
    panel: Any
    for panel, name in zip(panels.flat, series, strict=False):
        steps, values = zip(*series[name], strict=True)
        panel.plot(steps, values, marker="o" if name.startswith("validation") else None, linewidth=1)
        panel.set_title(name, fontsize=9)
        panel.set_xlabel("step", fontsize=8)
        panel.grid(alpha=0.3)
        if min(values) > 0 and name in {"loss", "error", "l1", "l2", "grad_norm"}:
            panel.set_yscale("log")
    for panel in panels.flat[len(series) :]:
        panel.remove()
    # Room for the labels, in inches; to measure them would take longer than everything else.
    figure.subplots_adjust(0.6 / width, 0.5 / height, 1 - 0.1 / width, 1 - 0.3 / height, 0.85 / 3, 0.7 / 1.8)
    with replacing(out) as part:
        figure.savefig(part, dpi=110, format="png")
    pyplot.close(figure)
