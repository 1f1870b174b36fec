"""Flags and checks that several commands share."""

import os
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Annotated

from tyro.conf import arg

from diffuscope.errors import DiffuscopeError, InputError, Unquoted
from diffuscope.model_source import ModelSource
from diffuscope.request import Branch, Request
from diffuscope.schema import Group

if TYPE_CHECKING:
    from diffuscope.config import ModelConfig

OptionalPath = Annotated[Path | None, arg(metavar="PATH", help_behavior_hint="")]
OptionalFloat = Annotated[float | None, arg(metavar="FLOAT", help_behavior_hint="")]
OptionalInt = Annotated[int | None, arg(metavar="INT", help_behavior_hint="")]
"""Of flags that may be left out: help shows neither the None nor the union with it."""


@dataclass(frozen=True)
class Device:
    """Device and number format of the networks."""

    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps or xpu"""
    dtype: str = "auto"
    """auto, float32, bfloat16 or float16"""


AUTO = Device()


@dataclass(frozen=True)
class ImageFlags:
    """Image inputs as files."""

    image: Annotated[Path | None, Group("image input")] = None
    """img2img and inpainting: the image to start from"""
    mask_image: Path | None = None
    """inpainting: a mask of the image's aspect ratio; the masked area is white"""

    def __post_init__(self) -> None:
        if self.mask_image is not None and self.image is None:
            raise InputError("image", None, "an image file with mask_image")


@dataclass(frozen=True)
class BranchFile:
    """A branch in a file: what no flag can hold."""

    branch_file: Annotated[Path | None, Group("branch")] = None
    """go on from a step of another request: a JSON file with its `request`, `step` and `x`, as the lab copies it"""

    def added_to(self, request: Request) -> Request:
        """The request, as it goes on from there.

        Raises:
            InputError: the file does not hold a branch.
        """
        if self.branch_file is None:
            return request
        require_files(branch_file=self.branch_file)
        try:
            branch = Branch.from_json(self.branch_file.read_text(encoding="utf-8"))
        except (InputError, UnicodeDecodeError) as error:
            raise InputError("branch_file", Unquoted(f"{self.branch_file}: {error}"), "JSON of a branch") from error
        return replace(request, branch=branch)


def require_files(**files: Path | None) -> None:
    """InputError if one of the files, each under its argument's name, does not exist; None is no file."""
    for argument, path in files.items():
        if path is not None and not os.path.isfile(path):  # noqa: PTH113 (False for impossible names)
            is_folder = os.path.isdir(path)  # noqa: PTH112
            raise InputError(argument, str(path), "a file, not a folder" if is_folder else "a file that exists")


def check_call(source: ModelSource, request: Request, **files: Path | None) -> None:
    """Refuse what cannot be before torch is imported, which takes seconds: sampler, files, model, sizes.

    The sizes of a hub id, or of a file whose family its tensors tell, are left for later; so are options of samplers.

    Raises:
        InputError: an option or a file is not possible, with this model or with any.
        ModelNotFoundError: no such model.
        WeightsError: its configuration is damaged.
    """
    from diffuscope import fitting, hub, library, model_files
    from diffuscope.config import PRESETS
    from diffuscope.sampler_table import match

    sampler, spacing = (None, None) if request.sampler is None else match(request.sampler)
    fitting.seeds_of(request.seed, request.num_images_per_prompt)
    require_files(**files)
    if source.models_dir is not None:
        library.folders(source.models_dir, "model")
    model = model_files.DEFAULT if source.model is None else source.model
    if source.models_dir is None and hub.is_id(str(model)):
        return
    path = model_files.find(model, source.models_dir)
    if path.is_dir():
        config = model_files.describe_folder(path).config
    elif source.family is not None:
        config = PRESETS[source.family]
    else:
        return
    if source.vae is None:  # another may have another size of pixels per latent
        fitting.check(config, request)
        fitting.filled(config, request, sampler or config.preset.sampler, spacing)
    Thread(target=_hash_base, args=(config,), daemon=True).start()


def _hash_base(config: "ModelConfig") -> None:
    """Hash the files of a model's base beside the import of torch; what is wrong is told where they are read."""
    from diffuscope.model_files import base_folder

    if config.base is not None:
        with suppress(DiffuscopeError, OSError):
            base_folder(config)
