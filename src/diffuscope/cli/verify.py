"""``diffuscope verify``: whether released weights do here what they did where they were published."""

import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from diffuscope.cli.flags import command
from diffuscope.cli.terminal import say
from diffuscope.errors import NonFiniteError
from diffuscope.model_source import ModelSource
from diffuscope.schema import Group

if TYPE_CHECKING:
    from torch import Tensor

    from diffuscope.pipeline import Pipeline

TEXT = "A picture of a puppy"
IDS = (49406, 320, 1674, 539, 320, 6829, 49407)
ROWS = (
    ((-0.3884, 0.0229, -0.0522), (-0.4899, -0.3066, 0.0675)),
    ((0.0290, -1.3258, 0.3085), (-0.5257, 0.9768, 0.6652)),
    ((0.6942, 0.3538, 1.0991), (-1.5716, -1.2643, -0.0121)),
)
"""The first three and the last three numbers of CLIP-L's states of that text, as the fast.ai lesson prints them."""

TOLERANCE = 5e-4
"""Between float32 states here and four printed digits there."""

PICTURES = {"otter": "A watercolor painting of an otter", "puppy": TEXT}
"""The lesson's prompts: 30 steps of LMS over evenly spaced times, guidance 7.5, seed 32."""

SEED, GUIDANCE = 32, 7.5


class Finite:
    """A tap that counts, by name, the numbers that are not finite; attention weights are left unmade."""

    def __init__(self) -> None:
        self.values = 0
        self.broken = Counter[str]()

    def wants(self, name: str) -> bool:
        """All but the weights of attention, which are large and finite where their result is."""
        return not name.endswith(".weights")

    def __call__(self, name: str, value: "Tensor") -> "Tensor":
        """The value, unchanged."""
        self.values += value.numel()
        bad = int(value.numel() - value.isfinite().sum())
        if bad:
            self.broken[name] += bad
        return value


@dataclass(frozen=True)
class VerifyFlags:
    """How much is compared."""

    out: Annotated[Path, Group("output")] = Path("verify")
    """folder for the images; created if it does not exist"""
    steps: int = 30
    """denoising steps of the images; 30 in the lesson"""


@command(positional="model", omit={"dtype"})
def verify(source: ModelSource, flags: VerifyFlags) -> int:
    """Check released weights: compare text states with published numbers, generate two published images, find overflow.

    Numbers and images are those of SD 1 in the fast.ai lesson "Stable Diffusion Deep Dive". Include the output in a
    report about a model. The exit code is 1 if something is wrong.
    """
    from diffuscope.pipeline import open_model
    from diffuscope.weights.store.documents import make_folder

    make_folder(flags.out)
    wrong = 0
    pipe = open_model(replace(source, dtype="float32"))
    for mark, text in chain(_about(str(source.model), pipe), _text(pipe), _pictures(pipe, flags.out, flags.steps)):
        wrong += _say(mark, text)
    del pipe  # before the same weights come once more
    half = open_model(replace(source, dtype="float16"))
    for mark, text in _finite(half):
        wrong += _say(mark, text)
    return 1 if wrong else 0


def _say(mark: str, text: str) -> bool:
    """Print one finding at once; whether it is that something is wrong."""
    say(f"{mark:>7}  {text}")
    return mark == "wrong"


def _about(path: str, pipe: "Pipeline") -> Iterator[tuple[str, str]]:
    from diffuscope import __version__

    yield (
        "ok",
        f"diffuscope {__version__} opens {path} as {pipe.config.name}, {pipe.config.schedule.prediction} prediction",
    )
    for part, network in pipe.components.networks.items():
        numbers = sum(parameter.numel() for parameter in network.parameters())
        yield "ok", f"{part}: {numbers:,} numbers, SHA-256 {pipe.weights[part][:16]}"


def _text(pipe: "Pipeline") -> Iterator[tuple[str, str]]:
    """The text encoder against the published rows."""
    import torch

    ids = pipe.tokenizer.encode(TEXT)
    same = tuple(ids[0, : len(IDS)].tolist()) == IDS
    yield "ok" if same else "wrong", f"the tokens of {TEXT!r} are {'' if same else 'not '}the published ones"
    config = pipe.config.text_encoder
    if (config.width, config.layers, config.states) != (768, 12, "last"):
        yield "note", "the text encoder is not that of SD 1, so there are no published numbers to compare it with"
        return
    with torch.no_grad(), pipe.engine.using(pipe.text_encoder):
        states = pipe.text_encoder(ids.to(pipe.device)).last_hidden_state[0].cpu()
    difference = distance(states)
    if difference < TOLERANCE:
        yield "ok", f"the text encoder's states are the published ones, within {difference:.1e}"
    else:
        yield "note", f"the text encoder's states differ from the published ones by {difference:.3g}: it was trained on"


def distance(states: "Tensor") -> float:
    """The largest difference of CLIP-L's ``states`` [T,D] of the text from the published numbers."""
    wanted = states.new_tensor([first + last for first, last in ROWS])
    found = states[: len(ROWS), [0, 1, 2, -3, -2, -1]]
    return float((found - wanted).abs().max())


def _pictures(pipe: "Pipeline", out: Path, steps: int) -> Iterator[tuple[str, str]]:
    from tqdm import tqdm

    from diffuscope.diffusion.schedules import Schedule

    sigmas = Schedule(replace(pipe.config.schedule, spacing="linspace")).levels(steps, sampler="lms").sigmas
    for name, prompt in PICTURES.items():
        run = pipe.steps(prompt, sampler="lms", sigmas=sigmas, guidance_scale=GUIDANCE, seed=SEED)
        try:
            for _ in tqdm(run, desc=name, unit="step", file=sys.stderr, leave=False):
                pass
            saved = run.result().save(out / f"{name}.png")
        except NonFiniteError as error:
            yield "wrong", f"{prompt!r}: {error}"
        else:
            yield "ok", f"{prompt!r}: {', '.join(map(str, saved))}; look at it"


def _finite(pipe: "Pipeline") -> Iterator[tuple[str, str]]:
    """One guided step and its picture in float16: where numbers overflow."""
    tap = Finite()
    try:
        pipe(PICTURES["otter"], num_inference_steps=1, guidance_scale=GUIDANCE, seed=SEED, tap=tap)
    except NonFiniteError as error:
        yield "note", f"in float16: {error}"
    if not tap.broken:
        yield "ok", f"all of {tap.values:,} numbers are finite in float16"
    for name, count in tap.broken.most_common(3):
        yield (
            "note",
            f"in float16, {name} has {count:,} numbers that are not finite; float32 and bfloat16 do not overflow",
        )
