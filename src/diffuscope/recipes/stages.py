"""The stages of a recipe, from data to trained networks. A run has a folder, with a folder for each stage."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from diffuscope.data.colours import RECOLOUR_VERSION, dominant_tones
from diffuscope.data.compose import Canvas, compose
from diffuscope.data.corpus import Corpus
from diffuscope.data.foreground import recolourable
from diffuscope.data.processes import parallel_map
from diffuscope.data.render import render_all
from diffuscope.data.scenes import Scenes, blank_scenes, sample_scenes
from diffuscope.data.split import Split, split
from diffuscope.data.sprites import sprite_sampler
from diffuscope.diffusion.schedules import Schedule
from diffuscope.models.text_encoder import TextEncoder
from diffuscope.models.tokenizer import Tokenizer
from diffuscope.models.unet import UNet
from diffuscope.models.vae import VAE
from diffuscope.recipes.emoji import ExamplesRecipe, TextRecipe, UNetRecipe, VAERecipe
from diffuscope.training import distributed
from diffuscope.training.examples import Examples, encode_examples, latent_moments
from diffuscope.training.initialisation import zero_init
from diffuscope.training.loop import StepContext, train
from diffuscope.training.text import Clip, TextTask
from diffuscope.training.unet import DiffusionModel, UNetTask
from diffuscope.training.vae import VAETask, normalise_latents
from diffuscope.vision.clip_score import PROJECTION
from diffuscope.vision.feature_net import load_efficientnet
from diffuscope.weights.store import files, headers, packing
from diffuscope.weights.store.assign import load_into

Network = TypeVar("Network", bound=nn.Module)

_RANK_SEEDS = 1000  # distance of the seeds of two processes, larger than between the seeds of a recipe


@dataclass(frozen=True)
class Dataset:
    """The rendered corpus on a device."""

    corpus: Corpus
    split: Split
    canvas: Canvas
    recolourable: Tensor
    """[N,12] of ``foreground.recolourable``."""

    @classmethod
    def load(cls, path: Path, device: torch.device, size: int = 128) -> "Dataset":
        """Render every picture of a corpus file."""
        corpus = Corpus.load(path)
        sprites = torch.from_numpy(render_all(corpus, size)).permute(0, 3, 1, 2).contiguous().to(device)
        tones = dominant_tones(sprites)
        return cls(corpus, split(corpus), Canvas.on(device, sprites, tones), recolourable(sprites, tones))

    def scenes(self, count: int, seed: int, kind: Literal["text", "vae"], *, train: bool = True) -> Scenes:
        """``count`` random scenes of this corpus."""
        tones = self.canvas.tones.cpu().numpy()
        return sample_scenes(
            sprite_sampler(self.corpus, self.split, tones, self.recolourable.numpy(), train=train),
            count,
            seed,
            kind=kind,
        )

    def held_out(self, count: int) -> Tensor:
        """[count,3,size,size] in [-1,1]: held-out sprites, every other one on a coloured background."""
        rows = [i for i, p in enumerate(self.corpus.pictures) if (p.concept, p.style) in self.split.styles][:count]
        scenes = blank_scenes(len(rows))
        scenes.sprite[:, 0] = rows
        scenes.background[1::2] = np.random.default_rng(0).integers(0, 256, (len(rows) // 2, 3))
        return compose(self.canvas, scenes)


def train_vae(recipe: VAERecipe, dataset: Dataset, feature_net: Path, folder: Path, start: Path | None = None) -> VAE:
    """The autoencoder, trained from scratch or from the file ``start``; also in ``folder/vae.safetensors``.

    Its latents are normalised to zero mean and unit variance.
    """
    device = dataset.canvas.sprites.device
    torch.manual_seed(recipe.loop.seed)
    vae = VAE(recipe.model.vae)
    if start is None:
        zero_init(vae)
    else:
        vae = load_vae(recipe, start).requires_grad_(True)
    vae = to_device(vae.float(), device)
    scenes = dataset.scenes(recipe.scenes, recipe.loop.seed, "vae")

    def batch(context: StepContext) -> Tensor:
        rows = context.rows(recipe.batch_size, recipe.scenes)
        return compose(dataset.canvas, scenes.take(rows.numpy())).contiguous(memory_format=torch.channels_last)

    task = VAETask(
        vae,
        batch,
        dataset.held_out(512),
        recipe.loss,
        to_device(load_efficientnet(feature_net), device),
        compiled=device.type == "cuda",
    )
    trained = train(task, recipe.loop, folder, asked=recipe)
    assert isinstance(trained, VAE)
    mean, std = latent_moments(
        [trained.encode(compose(dataset.canvas, scenes.take(slice(i, i + 128)))).mean for i in range(0, 8192, 128)]
    )
    normalise_latents(trained, mean, std)
    save(trained, folder / "vae.safetensors")
    return trained


def provenance(recipe: ExamplesRecipe, corpus: Path, autoencoder: Path) -> str:
    """Everything that examples depend on, as one line."""
    digests = [hashlib.sha256(path.read_bytes()).hexdigest()[:16] for path in (corpus, autoencoder)]
    return f"{recipe} corpus {digests[0]} autoencoder {digests[1]} recolouring {RECOLOUR_VERSION}"


def example_paths(folder: Path) -> tuple[Path, Path]:
    """Files of the training examples of this process, and of the held-out ones."""
    return folder / f"examples-{distributed.rank()}.safetensors", folder / f"held_out-{distributed.rank()}.safetensors"


def cached_examples(folder: Path, device: torch.device, source: str) -> tuple[Examples, Examples] | None:
    """The examples that ``make_examples`` wrote into ``folder``; None if there are none of this ``source``."""
    paths = example_paths(folder)
    if not all(path.exists() and headers.read_header(path).metadata.get("source") == source for path in paths):
        return None
    train_part, held_out = (Examples(**files.read(path)).to(device) for path in paths)
    return train_part, held_out


def make_examples(
    recipe: ExamplesRecipe, dataset: Dataset, vae: VAE, feature_net: Path, folder: Path, source: str
) -> tuple[Examples, Examples]:
    """Training examples and held-out ones (with held-out pairs), written into ``folder``.

    Every process encodes other training examples.
    """
    device = dataset.canvas.sprites.device
    network = to_device(load_efficientnet(feature_net), device)
    vae = to_device(vae, device)

    def encoded(count: int, seed: int, *, train: bool) -> Examples:
        scenes = dataset.scenes(count, seed, "text", train=train)
        return encode_examples(vae, network, lambda rows: compose(dataset.canvas, scenes.take(rows)), token_ids(scenes))

    seed = recipe.seed + _RANK_SEEDS * distributed.rank()
    examples = encoded(recipe.scenes, seed, train=True), encoded(recipe.held_out, recipe.seed + 1, train=False)
    folder.mkdir(parents=True, exist_ok=True)
    for path, part in zip(example_paths(folder), examples, strict=True):
        files.write(path, {field.name: getattr(part, field.name) for field in fields(part)}, {"source": source})
    return examples


def token_ids(scenes: Scenes) -> Tensor:
    """[N,2,77] int32 token ids of the captions of every scene."""
    chunks = [scenes.captions[i : i + 16384] for i in range(0, len(scenes), 16384)]
    return torch.from_numpy(np.concatenate(list(parallel_map(_tokenise, chunks, None))))


def _tokenise(captions: list[tuple[str, str]]) -> NDArray[np.int32]:
    tokenizer = Tokenizer()
    ids = tokenizer.encode([text for pair in captions for text in pair])
    return ids.view(len(captions), 2, -1).to(torch.int32).numpy()


def train_text(recipe: TextRecipe, examples: tuple[Examples, Examples], folder: Path) -> Clip:
    """The trained CLIP; also in ``folder/towers.safetensors``."""
    device = examples[0].latents.device
    torch.manual_seed(recipe.loop.seed)
    clip = Clip(TextEncoder(recipe.model.text_encoder), examples[0].features.shape[1]).to(device)
    task = TextTask(clip, *examples, recipe.training, compiled=device.type == "cuda")
    trained = train(task, recipe.loop, folder, asked=recipe)
    assert isinstance(trained, Clip)
    save(trained, folder / "towers.safetensors")
    return trained


def load_clip(recipe: UNetRecipe, path: Path) -> Clip:
    """The CLIP of ``train_text``."""
    tensors = files.read(path)
    clip = Clip(TextEncoder(recipe.model.text_encoder), tensors[PROJECTION].shape[1])
    load_into(clip, tensors, source=str(path))
    return clip


def new_model(recipe: UNetRecipe, clip: Clip) -> DiffusionModel:
    """A new U-Net with a trained CLIP."""
    torch.manual_seed(recipe.loop.seed)
    unet = UNet(recipe.model.unet)
    zero_init(unet)
    return DiffusionModel(clip, unet)


def train_unet(
    recipe: UNetRecipe,
    examples: tuple[Examples, Examples],
    model: DiffusionModel,
    folder: Path,
    stop_after: float | None = None,
    on_save: Callable[[nn.Module], None] = lambda _: None,
) -> DiffusionModel:
    """U-Net and text encoder, trained from ``model``; with ``rounded_from`` only what ``trained_part`` has."""
    device = examples[0].latents.device
    model = to_device(model.requires_grad_(True), device)
    rounded = None
    if recipe.rounded_from is not None:
        part = trained_part(model)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in part)
        towers = ("clip.image_projection.weight", "clip.log_scale")  # stored whole
        base = {name: value.detach().clone() for name, value in part.items() if name not in towers}
        rounded = base, recipe.rounded_from
    task = UNetTask(
        model,
        *examples,
        Schedule(recipe.model.schedule),
        Tokenizer().encode("")[0],
        recipe.training,
        compiled=device.type == "cuda",
        rounded=rounded,
    )
    trained = train(task, recipe.loop, folder, asked=recipe, stop_after=stop_after, on_save=on_save)
    assert isinstance(trained, DiffusionModel)
    return trained


def trained_part(model: DiffusionModel) -> dict[str, Tensor]:
    """What a difference trains: all but the 3x3 convolutions, more than half of the U-Net, and the table of tokens."""
    return {
        name: value
        for name, value in model.named_parameters()
        if value.shape[2:] != (3, 3) and not name.endswith("token_embedding.weight")
    }


def prefer_speed() -> None:
    """On a CUDA device: products in TF32, and convolutions by whichever kernel is fastest when it is first tried."""
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True


def to_device(network: Network, device: torch.device) -> Network:
    """``network`` on the device, in the memory format with the fastest convolutions."""
    return network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def save(network: nn.Module, path: Path) -> None:
    """Write a network's weights on rank 0; the other processes wait."""
    if distributed.rank() == 0:
        files.write(path, {name: value.contiguous() for name, value in network.state_dict().items()})
    distributed.barrier()


def load_vae(recipe: VAERecipe, path: Path) -> VAE:
    """A trained autoencoder, from a plain or a packed file."""
    vae = VAE(recipe.model.vae)
    load_into(vae, packing.read_any(path), source=str(path))
    return vae.requires_grad_(False).eval()
