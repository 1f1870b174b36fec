"""A run as a film: noisy latents and the clean estimate side by side, step by step, and what the network said."""

import base64
import importlib
import os
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from diffuscope.errors import InputError, OutputError
from diffuscope.pipeline import Pipeline
from diffuscope.types import Denoiser, Step
from diffuscope.weights.store.files import replacing


@dataclass
class Record:
    """Remembers every estimate of a run: ``pipe(..., guidance=record)``. Values are copies, float32 on the CPU.

    ``guidance=(record, change)`` records what the guided network says; ``(change, record)`` what ``change`` makes.
    """

    sigmas: list[float] = field(default_factory=list)
    x: list[Tensor] = field(default_factory=list)
    """[B,C,H,W] noisy latents of each call."""
    x0: list[Tensor] = field(default_factory=list)
    """[B,C,H,W] the clean estimate of each."""

    @property
    def noise(self) -> list[Tensor]:
        """[B,C,H,W] the noise prediction of each call, (x - x0) / sigma."""
        return [(x - x0) / sigma for x, x0, sigma in zip(self.x, self.x0, self.sigmas, strict=True)]

    def __call__(self, denoise: Denoiser) -> Denoiser:
        """The same Denoiser, listened to; what an earlier run left is forgotten."""
        self.sigmas, self.x, self.x0 = [], [], []

        def heard(x: Tensor, sigma: float) -> Tensor:
            x0 = denoise(x, sigma)
            self.sigmas.append(sigma)
            self.x.append(x.detach().float().cpu().clone())
            self.x0.append(x0.detach().float().cpu().clone())
            return x0

        return heard


def snapshots(steps: Iterator[Step]) -> list[Step]:
    """The steps of a run, each with tensors of its own: a sampler may go on with those that it yields."""
    return [Step(step.index, step.sigma, step.x.detach().clone(), step.x0.detach().clone()) for step in steps]


@torch.no_grad()
def frames(pipe: Pipeline, steps: Sequence[Step], *, image: int = 0) -> list[Image.Image]:
    """One picture a step: the noisy latents decoded on the left, the clean estimate on the right.

    Args:
        pipe: decodes.
        steps: as ``snapshots`` makes them.
        image: which row.

    Raises:
        InputError: no steps.
    """
    if not steps:
        raise InputError("no steps to show: give snapshots(pipe.steps(...))")
    pairs = [pipe.decode(torch.stack([step.x[image], step.x0[image]])) for step in steps]
    width, height = pairs[0][0].size
    film = []
    for left, right in pairs:
        frame = Image.new("RGB", (2 * width, height))
        frame.paste(left, (0, 0))
        frame.paste(right, (width, 0))
        film.append(frame)
    return film


def save_gif(film: Sequence[Image.Image], path: str | os.PathLike[str], *, rate: float = 12.0) -> Path:
    """Write pictures of one size as a GIF that repeats, and return its path; it appears whole or not at all.

    Args:
        film: the frames.
        path: ends in .gif.
        rate: frames a second, at most 50; the lesson's is 12. The last stays for two seconds.

    Raises:
        InputError: no frames, another ending, or an impossible rate.
        OutputError: it cannot be written.
    """
    path = Path(path)
    if not film or path.suffix.lower() != ".gif" or not 0 < rate <= 50:
        raise InputError(f"{len(film)} frames to {path.name} at {rate} a second; give frames, a name.gif, and 0 to 50")
    durations = [round(1000 / rate)] * (len(film) - 1) + [2000]
    with replacing(path) as part:
        film[0].save(part, format="GIF", save_all=True, append_images=film[1:], duration=durations, loop=0)
    return path


def save_mp4(film: Sequence[Image.Image], path: str | os.PathLike[str], *, rate: float = 12.0) -> Path:
    """Write pictures of one size as an MP4 (H.264) and return its path; it appears whole or not at all.

    Needs the extra ``video``, which brings its own ffmpeg. The settings are the lesson's: slow preset, quantiser 18,
    4:2:0 colours, which every player and browser reads.

    Args:
        film: the frames.
        path: ends in .mp4.
        rate: frames a second; the lesson's is 12.

    Raises:
        InputError: no frames, frames of several or of odd sizes, another ending, an impossible rate, or no ffmpeg.
        OutputError: it cannot be written.
    """
    path = Path(path)
    if not film or path.suffix.lower() != ".mp4" or not 0 < rate <= 240:
        raise InputError(f"{len(film)} frames to {path.name} at {rate} a second; give frames, a name.mp4, and 0 to 240")
    sizes = {frame.size for frame in film}
    width, height = film[0].size
    if len(sizes) > 1 or width % 2 or height % 2:
        raise InputError(
            f"frames of sizes {sorted(sizes)}; give one size, with even width and height, as 4:2:0 halves it"
        )
    try:
        ffmpeg = importlib.import_module("imageio_ffmpeg").get_ffmpeg_exe()
    except (ImportError, RuntimeError) as error:
        raise InputError("an MP4 needs ffmpeg, which is not there; install diffuscope[video], or save a GIF") from error
    source = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", str(rate), "-i", "-"]
    codec = ["-c:v", "libx264", "-preset", "slow", "-qp", "18", "-pix_fmt", "yuv420p", "-movflags", "+faststart"]
    with replacing(path) as part:
        told = subprocess.run(
            [ffmpeg, "-v", "error", "-y", *source, *codec, "-fflags", "+bitexact", "-f", "mp4", str(part)],
            input=b"".join(frame.convert("RGB").tobytes() for frame in film),
            capture_output=True,
            check=False,
        )
        if told.returncode:
            reason = told.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["no reason given"]
            raise OutputError(f"ffmpeg could not write {path}: {reason[0]}; save a GIF instead")
    return path


@dataclass(frozen=True)
class Clip:
    """A film as notebooks show it, repeating: the last expression of a cell. The file is embedded into the page."""

    path: str | os.PathLike[str]
    """A .gif or .mp4."""
    width: int = 600
    """On the page, in its pixels; the lesson's is 600."""

    def __post_init__(self) -> None:
        if Path(self.path).suffix.lower() not in (".gif", ".mp4") or not Path(self.path).is_file():
            raise InputError(f"no film at {self.path}; give the .gif or .mp4 that save_gif or save_mp4 returned")

    def _repr_html_(self) -> str:
        path = Path(self.path)
        data = base64.b64encode(path.read_bytes()).decode()
        if path.suffix.lower() == ".gif":
            return f'<img width="{self.width}" alt="{path.stem}" src="data:image/gif;base64,{data}">'
        source = f'<source type="video/mp4" src="data:video/mp4;base64,{data}">'
        return f'<video width="{self.width}" controls autoplay loop muted playsinline>{source}</video>'
