"""Where the things of a count stand: in rows, so that they can be counted."""

LAYOUTS: dict[int, tuple[tuple[int, ...], ...]] = {
    1: ((1,),),
    2: ((2,), (1, 1)),
    3: ((1, 2), (2, 1), (3,)),
    4: ((2, 2),),
    5: ((2, 1, 2), (3, 2), (2, 3)),
    6: ((3, 3), (2, 2, 2)),
    7: ((2, 3, 2), (3, 1, 3)),
    8: ((3, 2, 3), (2, 3, 3), (3, 3, 2)),
    9: ((3, 3, 3),),
}
"""Number of things -> the layouts that it may have, each with the number in every row."""

_MARGIN = 0.02  # of the canvas, on every side


def grid(rows: tuple[int, ...]) -> tuple[float, list[tuple[float, float]]]:
    """The distance between two neighbours, and the centre (x, y) of each thing, in widths of the canvas."""
    gap = (1 - 2 * _MARGIN) / max(len(rows), *rows)
    return gap, [
        (0.5 + gap * (place - (length - 1) / 2), 0.5 + gap * (row - (len(rows) - 1) / 2))
        for row, length in enumerate(rows)
        for place in range(length)
    ]
