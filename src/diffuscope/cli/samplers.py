"""``diffuscope samplers``: what can follow ``--sampler``."""

from diffuscope.cli.terminal import say


def samplers() -> None:
    """List the samplers: name, label, order of convergence, network calls per step, noise."""
    from diffuscope.diffusion.samplers import TABLE

    rows = [("name", "label", "order", "calls", "noise")]
    rows += [(name, info.label, str(info.order), str(info.calls), info.noise) for name, info in TABLE.items()]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    say("\n".join(lines))
    say(
        "\norder: of convergence. calls: network calls per step, which are the cost. noise: drawn in each step.\n"
        'Names of other programs work too, also with a spacing: --sampler "DPM++ 2M Karras".'
    )
