"""``diffuscope branch``: go on from a step of an image's run with something changed."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from annotated_types import Interval

from diffuscope.cli.common import ImageFlags
from diffuscope.cli.flags import command
from diffuscope.cli.generate import AdapterFlags, OutputFlags, check_output_flags, write
from diffuscope.model_source import ModelSource
from diffuscope.request import WHOLE_RUN, Request
from diffuscope.schema import Group


@dataclass(frozen=True)
class BranchFlags:
    """From where the run goes on."""

    picture: Annotated[Path, Group("branch")]
    """a PNG with a receipt"""
    step: Annotated[int, Interval(ge=0, le=1000)] = 1
    """how many of its steps are kept"""


@command(positional="picture", omit=WHOLE_RUN)
def branch(
    flags: BranchFlags,
    request: Request,
    images: ImageFlags,
    source: ModelSource,
    adapters: AdapterFlags,
    output: OutputFlags,
) -> None:
    """Go on from a step of the run that made an image, with something changed: a prompt, guidance, the sampler.

    For example `diffuscope branch fox.png --step 4 --prompt "a blue fox"`. An option that is left out stays as it was.
    The first steps are computed again, and are the same. Files as for `diffuscope replay`.
    """
    check_output_flags(output, 1)

    from diffuscope.reproduce import Files, branch_of

    files = Files(images.image, images.mask_image, adapters.lora_dir, adapters.embedding)
    pipe, run = branch_of(flags.picture, flags.step, request, source, files)
    write(pipe, run, output)
