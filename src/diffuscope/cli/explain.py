"""``diffuscope explain``: how a model generates one prompt, on one page."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from diffuscope.cli.common import ImageFlags, check_call
from diffuscope.cli.flags import command
from diffuscope.cli.generate import AdapterFlags, load_adapters
from diffuscope.cli.terminal import say
from diffuscope.model_source import ModelSource
from diffuscope.output import check_output, replacing
from diffuscope.request import Request
from diffuscope.schema import Group


@dataclass(frozen=True)
class ReportFlags:
    """Where the page goes."""

    out: Annotated[Path, Group("output")] = Path("report.html")
    """HTML file to write; its folder must exist"""


@command(positional="prompt", omit={"num_images_per_prompt", "upscale"})
def explain(
    request: Request, images: ImageFlags, source: ModelSource, adapters: AdapterFlags, report: ReportFlags
) -> None:
    """Write one self-contained page: tokens, schedule, trajectory, attention and guidance of a prompt."""
    check_output(report.out, "out", suffix=(".html", ".htm"))
    check_call(source, request, image=images.image, mask_image=images.mask_image)

    from diffuscope.lens.explain import explain as page
    from diffuscope.pipeline import open_model

    pipe = open_model(source)
    load_adapters(pipe, [request], source, adapters)
    seeded = request if request.seed is not None else replace(request, seed=0)
    text = page(pipe, seeded, image=images.image, mask_image=images.mask_image)
    with replacing(report.out) as part:
        part.write_text(text, encoding="utf-8")
    say(f"{report.out}")
