"""``diffuscope generate``: pictures from a prompt."""

import contextlib
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import OmitArgPrefixes, Positional, arg

if TYPE_CHECKING:
    from diffuscope.pipeline import Pipeline, Run


@dataclass(frozen=True)
class Wish:
    """What is asked for; what is None is the model's own preset."""

    prompt: Positional[str]
    """what to show"""
    model: str = "emoji"
    """a shipped model's name, a model's folder, or a .safetensors file with a whole model in it"""
    negative_prompt: str = ""
    """what to lead away from"""
    steps: int | None = None
    """solver steps; more are slower and finer"""
    guidance_scale: float | None = None
    """weight of the prompt; 1 is no guidance and twice as fast"""
    guidance_rescale: float | None = None
    """keep the prediction's deviation: 0 is not at all, 1 wholly, 0.7 usual"""
    guidance_norm: Literal["whole", "update", "both"] | None = None
    """keep the prediction's length: of all of it, or of the update, whose scale is then about 0.2"""
    guidance_end: float | None = None
    """let the weight fall to this in the last step"""
    guidance_shape: Literal["linear", "cosine"] | None = None
    """how it falls"""
    guidance_interval: tuple[float, float] | None = None
    """guide between these two noise levels alone, such as 0.5 10"""
    guidance_colour: tuple[float, float, float] | None = None
    """lead to a colour: red, green and blue from 0 to 1"""
    guidance_colour_scale: float | None = None
    """how strongly; 10 if left out, and 30 if exact"""
    guidance_colour_low: float | None = None
    """leave the colour alone at and below this noise level"""
    guidance_similarity: str | None = None
    """lead to a text beside the prompt, as the shipped text and image towers see it"""
    guidance_similarity_scale: float | None = None
    """how strongly; 1 if left out, and 3 if exact"""
    guidance_similarity_low: float | None = None
    """leave the similarity alone at and below this noise level"""
    guidance_exact: bool = False
    """lead to both by gradients through the U-Net: truer and slower; says first what memory it takes"""
    seed: int | None = None
    """of the first picture, the next has one more; without it one is drawn and told"""
    sampler: str | None = None
    """its name in any spelling, such as euler or "DPM++ 2M Karras\""""
    sampler_options: tuple[str, ...] = ()
    """the sampler's own, such as eta=0.5 or s_churn=10"""
    sigmas: str | None = None
    """spacing of the noise levels: model, linspace, leading, trailing, karras, exponential, beta or sgm_uniform"""
    final_sigma: Literal["zero", "sigma_min"] | None = None
    """where the noise levels end; without it as the sampler's reference has it"""
    thresholding: tuple[str, ...] = ()
    """keeps clean estimates in a range: limit=1, or a quantile of each picture's, ratio=0.995 most=1.5"""
    height: int | None = None
    """in pixels, before upscaling"""
    width: int | None = None
    """in pixels, before upscaling"""
    count: int = 1
    """how many pictures; several are written as out-0.png, out-1.png and so on"""
    image: Path | None = None
    """a picture to start from"""
    strength: float = 0.8
    """how much of the start picture is made anew, above 0 up to 1"""
    mask: Path | None = None
    """a picture as large as the start picture, white where that is made anew and black where it stays"""
    clip_skip: int = 0
    """how many layers earlier to read the text encoder; other programs add 1 to this number"""
    upscale: int | None = None
    """how many times larger pictures come out, 1 or 4"""
    out: Annotated[Path, arg(aliases=("-o",))] = Path("out.png")
    """where to write"""
    no_metadata: bool = False
    """leave prompt, settings and receipt out of the file"""
    preview: Path | None = None
    """write the picture as it stands after each step here; slower"""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps or xpu"""
    dtype: str = "auto"
    """auto, float32, bfloat16 or float16"""
    family: str | None = None
    """for a single file that cannot tell what it is, such as sd21 or sd21-v"""
    allow_pickle: bool = False
    """also read a model that torch pickled (.ckpt, .pt, .bin); its tensors are read, and nothing of it is run"""
    prediction: Literal["epsilon", "v", "x0"] | None = None
    """what the network was trained to predict, where the model does not say so itself"""
    zero_snr: bool | None = None
    """whether it was trained with a last noise level of pure noise, likewise"""
    vae: str | None = None
    """a file or folder with the VAE that takes the place of the model's own, or its name in the models' folder"""
    lora_dir: Path | None = None
    """the folder of the LoRAs that the prompt names as <lora:name:0.8>"""
    embedding: tuple[Path, ...] = ()
    """textual-inversion files; each one's word may stand in the prompts"""
    models_dir: Path | None = None
    """the folder of another program's models, used in place: models, LoRAs and embeddings by name"""
    quiet: bool = False
    """no progress bar, and no word but warnings and errors"""


def generate(wish: OmitArgPrefixes[Wish]) -> None:
    """Make pictures from a prompt and write them as PNG.

    What is not given is the model's own preset. Each file holds the receipt from which `diffuscope replay` makes it
    again.
    """
    from diffuscope.images import check_output, write_png

    check_output(wish.out)
    if wish.preview is not None:
        check_output(wish.preview)

    from tqdm import tqdm

    from diffuscope.pipeline import load

    pipe = load(
        wish.model,
        wish.device,
        wish.dtype,
        wish.family,
        allow_pickle=wish.allow_pickle,
        models_dir=wish.models_dir,
        vae=wish.vae,
        schedule={name: value for name in ("prediction", "zero_snr") if (value := getattr(wish, name)) is not None},
    )
    _adapt(pipe, wish)
    run = _begin(pipe, wish)
    if wish.guidance_exact and not wish.quiet:
        sys.stderr.write(_memory(pipe, wish))
    for step in tqdm(run, unit="step", file=sys.stderr, disable=wish.quiet, leave=False):
        if wish.preview is not None:
            write_png(wish.preview, pipe.decode(step.x0[:1])[0])
    result = run.result()
    paths = result.save(wish.out, metadata=not wish.no_metadata)
    for note in result.receipt["notes"]:
        sys.stderr.write(f"warning: {note}\n")
    if not wish.quiet:
        for path, picture, seed in zip(paths, result.images, result.seeds, strict=True):
            sys.stdout.write(f"{path}  {picture.width}x{picture.height}  seed {seed}\n")


def _adapt(pipe: "Pipeline", wish: Wish) -> None:
    """Give the pipeline the LoRAs' folder and the embeddings."""
    from diffuscope.library import named_embeddings

    if wish.lora_dir is not None:
        pipe.lora_dir = wish.lora_dir
    texts = (wish.prompt, wish.negative_prompt)
    named = [] if wish.models_dir is None else named_embeddings(wish.models_dir, texts)
    for path in (*wish.embedding, *named):
        report = pipe.load_embedding(path, allow_pickle=wish.allow_pickle)
        if not wish.quiet:
            sys.stdout.write(f"{report}\n")


def _guidance(wish: Wish) -> dict[str, Any]:
    """The options of guidance that are given, under their own names."""
    prefix = "guidance_"
    names = [each.name for each in fields(wish) if each.name.startswith(prefix) and each.name != "guidance_scale"]
    given = {name.removeprefix(prefix): getattr(wish, name) for name in names}
    return {name: value for name, value in given.items() if value is not None and value is not False}


def _memory(pipe: "Pipeline", wish: Wish) -> str:
    """One line on what gradients through the U-Net will keep, beside the weights."""
    from diffuscope.lens.gradient_memory import gradient_memory

    preset, text = pipe.config.preset, wish.guidance_similarity
    height, width = wish.height or preset.height, wish.width or preset.width
    loss = None if text is None else pipe.similarity.loss(text)
    needed = gradient_memory(pipe, height, width, images=wish.count, guided=False, loss=loss)
    return f"exact guidance keeps about {needed.exact / 2**20:,.0f} MiB of activations, beside the weights\n"


def _options(flag: str, given: tuple[str, ...]) -> dict[str, Any]:
    """NAME=VALUE, each value a whole number, else a number, else a word."""
    from diffuscope.errors import InputError

    found: dict[str, float | str] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals:
            raise InputError(f"{flag} has {text!r}; give NAME=VALUE, such as eta=0.5")
        found[name] = value
        for kind in (float, int):
            with contextlib.suppress(ValueError):
                found[name] = kind(value)
    return found


def _begin(pipe: "Pipeline", wish: Wish) -> "Run":
    return pipe.steps(
        wish.prompt,
        negative_prompt=wish.negative_prompt,
        num_inference_steps=wish.steps,
        guidance_scale=wish.guidance_scale,
        guidance_options=_guidance(wish),
        seed=wish.seed,
        sampler=wish.sampler,
        sampler_options=_options("--sampler-options", wish.sampler_options),
        sigmas=wish.sigmas,
        final_sigma=wish.final_sigma,
        thresholding=_options("--thresholding", wish.thresholding),
        height=wish.height,
        width=wish.width,
        num_images_per_prompt=wish.count,
        image=wish.image,
        strength=wish.strength,
        mask_image=wish.mask,
        clip_skip=wish.clip_skip,
        upscale=wish.upscale,
    )
