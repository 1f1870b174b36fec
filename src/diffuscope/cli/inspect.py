"""``diffuscope inspect``: the tensors of an experiment on one call."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from diffuscope.cli.common import BranchFile, ImageFlags, require_files
from diffuscope.cli.flags import Flag, command, value_of
from diffuscope.cli.generate import AdapterFlags, load_adapters
from diffuscope.cli.terminal import say
from diffuscope.errors import InputError, nearest
from diffuscope.model_source import ModelSource
from diffuscope.output import check_output
from diffuscope.request import Request
from diffuscope.schema import Group, options

IMAGE_OPTIONS = {"denoising_start", "denoising_end", "original_size", "crops_coords_top_left", "target_size"}


@dataclass(frozen=True)
class InspectFlags:
    """What is inspected, and where the tensors go."""

    kind: Annotated[str, Group("inspection")] = "attention"
    """steps, guidance, attention, self-attention, layers, blend, ablation, ablation-map, prompt-to-prompt or colour"""
    options: Mapping[str, str] = field(default_factory=dict)
    """options of the kind, such as names=unet.mid.* strength=0, or edit="a blue fox" """
    out: Path = Path("inspection.safetensors")
    """file to write; its folder must exist"""


@command(positional="prompt", omit={"num_images_per_prompt", "batch_size", "upscale", *IMAGE_OPTIONS})
def inspect(
    request: Request,
    images: ImageFlags,
    branch: BranchFile,
    source: ModelSource,
    adapters: AdapterFlags,
    inspection: InspectFlags,
) -> None:
    """Make an experiment with one call and write its tensors as safetensors, labels in the metadata.

    attention has the share of each place's attention that goes to each word, by network call, layer and head;
    ablation-map the effect of each block in each band of steps. The same files come from /api/v1/inspections.
    """
    check_output(inspection.out, "out", suffix=".safetensors")
    request = branch.added_to(request)
    require_files(image=images.image, mask_image=images.mask_image)

    from diffuscope.lens.inspect import KINDS
    from diffuscope.lens.inspect import inspect as run
    from diffuscope.pipeline import open_model

    if inspection.kind not in KINDS:
        raise InputError("kind", inspection.kind, f"one of {', '.join(KINDS)}", nearest(inspection.kind, KINDS))
    given = _typed(KINDS[inspection.kind].options, inspection.options)
    pipe = open_model(source)
    load_adapters(pipe, [request], source, adapters)
    found = run(
        pipe,
        inspection.kind,
        request,
        options=given,
        image=images.image,
        mask_image=images.mask_image,
    )
    found.save(inspection.out)
    say(f"{inspection.out}  {', '.join(f'{name} {list(value.shape)}' for name, value in found.tensors.items())}")


def _typed(kind: type[Any], texts: Mapping[str, str]) -> dict[str, Any]:
    """The options of a kind from their texts; what it does not have is left for it to refuse."""
    known = {option.name: option for option in options(kind)}
    return {
        name: value_of(text, Flag(f"options.{name}", known[name], "")) if name in known else text
        for name, text in texts.items()
    }
