"""Of ``/api/v1``: where two jobs part."""

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter
from torch import Tensor

from diffuscope.lens.comparison import compare
from diffuscope.serve.engine import Engine
from diffuscope.serve.http.errors import NotFoundError
from diffuscope.serve.http.native import find
from diffuscope.serve.record import Kept


def add_comparison(routes: APIRouter, engine: Engine) -> None:
    """Add the route."""

    @routes.get("/jobs/{job}/compare/{other}")
    def compared(job: str, other: str, image: int = 0, other_image: int = 0, kind: Kept = "x0") -> dict[str, Any]:
        """The first step at which two images part in any bit, and how far they are apart at each step."""
        return asdict(compare(_steps(engine, job, image, kind), _steps(engine, other, other_image, kind)))


def _steps(engine: Engine, name: str, image: int, kind: Kept) -> list[Tensor]:
    """An array of each step that an image has made.

    Raises:
        NotFoundError: no such job or image, or the arrays are not kept.
    """
    job = find(engine, name)
    if not 0 <= image < len(job.steps):
        raise NotFoundError(f"no image {image}; job {name} has {len(job.steps)}")
    found = [engine.array(name, image, step, kind) for step in range(job.steps[image])]
    kept = [each for each in found if each is not None]
    if len(kept) < len(found) or not kept:
        raise NotFoundError(f"not every {kind} of image {image} of job {name} is kept: not recorded, or forgotten")
    return kept
