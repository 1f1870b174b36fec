"""A class-conditional model of small pictures: a U-Net on pixels, its folder, and its calls.

It has no autoencoder and no text encoder, so it is no ``Pipeline``; the Denoiser is the same, and with it all samplers
and all guidance (``docs/adr/0025``).
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files as resources
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from diffuscope.config import Preset, ScheduleConfig, UNetConfig
from diffuscope.config.checks import typed
from diffuscope.diffusion.guidance import guided
from diffuscope.diffusion.noise import BrownianNoise, PerImageNoise
from diffuscope.diffusion.prediction import denoiser
from diffuscope.diffusion.samplers import find
from diffuscope.diffusion.schedules import Schedule
from diffuscope.errors import InputError, ModelNotFoundError, WeightsError
from diffuscope.images import to_images
from diffuscope.model_files import PIXEL_MODEL
from diffuscope.models.class_unet import ClassUNet
from diffuscope.training.pixels import PixelLatents, one_hot
from diffuscope.types import Denoiser, Levels, Noise, Step
from diffuscope.weights.store import documents, files, packing
from diffuscope.weights.store.assign import load_into

CONFIG, WEIGHTS = PIXEL_MODEL, "unet.safetensors"
SHIPPED = Path(str(resources("diffuscope"))) / "assets" / "digits"


@dataclass(frozen=True, kw_only=True)
class PixelModelConfig:
    """Everything that tells one model from another."""

    name: str
    classes: tuple[str, ...]
    unet: UNetConfig
    schedule: ScheduleConfig
    latents: PixelLatents
    preset: Preset

    def __post_init__(self) -> None:
        typed(self)
        if (len(self.classes), self.latents.patch**2) != (self.unet.context_dim, self.unet.in_channels):
            names, pixels = f"{len(self.classes)} classes", f"squares of {self.latents.patch} pixels"
            raise ValueError(f"{names} and {pixels} are not what its U-Net reads")


class PixelModel:
    """A model, ready to draw.

    Attributes:
        config: with names of the classes and defaults of a call.
        unet: noisy latents, timestep and one-hot class to a v-prediction.
        schedule: the noise levels that it was trained on.
    """

    def __init__(self, config: PixelModelConfig, unet: ClassUNet) -> None:
        self.config = config
        self.unet = unet.requires_grad_(False).eval()
        self.schedule = Schedule(config.schedule)

    def __repr__(self) -> str:
        preset = self.config.preset
        steps = f"{preset.num_inference_steps} steps of {preset.sampler}, guidance {preset.guidance_scale:g}"
        return f"PixelModel({self.config.name!r}: {preset.width}x{preset.height}, {steps})"

    def __call__(self, label: int, *, seed: int = 0, **options: Any) -> Image.Image:
        """One picture of a class; ``options`` are those of ``sample``."""
        return to_images(self.sample([label], seed=seed, **options).expand(-1, 3, -1, -1) * 2 - 1)[0]

    def sample(self, labels: Sequence[int], **options: Any) -> Tensor:
        """[B,1,H,W] pixels in [0,1], one picture for each label; ``options`` are those of ``steps``."""
        *_, last = self.steps(labels, **options)
        return self.config.latents.decode(last.x)

    def steps(
        self,
        labels: Sequence[int],
        *,
        seed: int = 0,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        sampler: str | None = None,
        sigmas: str | Sequence[float] | None = None,
    ) -> Iterator[Step]:
        """The steps of one run, whose loop is the caller's; what is None is the preset's.

        Args:
            labels: the class of each picture, -1 for any.
            seed: of the first picture; the next ones have the next seeds.
            num_inference_steps: of the sampler.
            guidance_scale: 1 asks the network once a step, others twice.
            sampler: any of the table.
            sigmas: a spacing, or the levels themselves.

        Raises:
            InputError: an argument has no possible value.
        """
        preset = self.config.preset
        info = find(sampler or preset.sampler).info
        spacing = preset.sigmas if sigmas is None else sigmas
        count = num_inference_steps or (preset.num_inference_steps if isinstance(spacing, str) else None)
        levels = self.schedule.levels(count, sampler=sampler or preset.sampler, sigmas=spacing)
        scale = preset.guidance_scale if guidance_scale is None else guidance_scale
        denoise = self.denoiser(labels, levels, scale)
        seeds = range(seed, seed + len(labels))
        noise: Noise = (start := PerImageNoise(seeds))
        side = preset.height // self.config.latents.patch
        x = start.draw((self.config.unet.in_channels, side, side)).to(self.unet.conv_in.weight)
        if info.noise == "brownian":
            noise = BrownianNoise(seeds, max(levels.sigmas[0], math.exp(levels.log_sigmas[-1])))
        extra = {"log_sigmas": levels.log_sigmas} if info.takes_log_sigmas else {}
        with torch.no_grad():
            steps = info.function(denoise, x * levels.start_scale, levels.sigmas, noise=noise, **extra)
            yield from islice(steps, len(levels.sigmas) - 1)

    def denoiser(self, labels: Sequence[int], levels: Levels, guidance_scale: float = 1.0) -> Denoiser:
        """The network as a Denoiser of these classes.

        Raises:
            InputError: a label is no class.
        """
        classes = len(self.config.classes)
        if not labels or not all(-1 <= label < classes for label in labels):
            raise InputError("labels", list(labels), f"at least one, each from 0 to {classes - 1}, or -1 for any")
        device = self.unet.conv_in.weight.device

        def asked(numbers: Sequence[int]) -> Denoiser:
            text = one_hot(torch.tensor(numbers, device=device), classes)
            return denoiser(lambda x, time: self.unet(x, time, text), levels, self.config.schedule.prediction)

        return guided(asked(labels), asked([-1] * len(labels)), guidance_scale)

    def save(self, folder: str | Path, *, packed: bool = False) -> Path:
        """Write the model's two files into a folder, which is made; ``packed`` in a quarter of the space."""
        folder = Path(folder)
        documents.make_folder(folder)
        tensors = {name: value.contiguous() for name, value in self.unet.state_dict().items()}
        (packing.write if packed else files.write)(folder / WEIGHTS, tensors)
        documents.write_text(folder / CONFIG, json.dumps(asdict(self.config), indent=2) + "\n")
        return folder


def load(folder: str | Path | None = None, device: torch.device | str = "cpu") -> PixelModel:
    """The model of a folder that ``save`` or ``diffuscope train digits`` wrote; None is the shipped one of digits.

    Raises:
        ModelNotFoundError: there is none.
        WeightsError: a file is damaged, or of another model.
    """
    folder = SHIPPED if folder is None else Path(folder)
    path = folder / CONFIG
    if not path.is_file():
        raise ModelNotFoundError(f"no {path}; `diffuscope train digits --out {folder}` makes it")
    todo = "train or save the model again"
    document = documents.read_json(path, todo)
    try:
        config = _config(document)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise WeightsError(f"{path} describes no model ({str(error)[:300]}); {todo}") from error
    unet, weights = ClassUNet(config.unet), folder / WEIGHTS
    load_into(unet, packing.read_any(weights), source=str(weights))
    return PixelModel(config, unet.to(device))


def _config(document: Mapping[str, Any]) -> PixelModelConfig:
    kinds = {"unet": UNetConfig, "schedule": ScheduleConfig, "latents": PixelLatents, "preset": Preset}
    values: dict[str, Any] = dict(document)
    values |= {
        name: kind(**{key: tuple(value) if isinstance(value, list) else value for key, value in document[name].items()})
        for name, kind in kinds.items()
    }
    if isinstance(document["classes"], list):
        values["classes"] = tuple(document["classes"])
    return PixelModelConfig(**values)
