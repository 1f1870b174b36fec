"""Runs the stages of a recipe: data in, trained networks out. One folder a run, one folder a stage in it."""

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
from diffuscope.feature_net import load_efficientnet
from diffuscope.models.text_encoder import TextEncoder
from diffuscope.models.tokenizer import Tokenizer
from diffuscope.models.unet import UNet
from diffuscope.models.vae import VAE
from diffuscope.recipes.emoji import ExamplesRecipe, TextRecipe, UNetRecipe, VAERecipe
from diffuscope.training import ranks
from diffuscope.training.examples import Examples, encode, latent_moments
from diffuscope.training.loop import Draw, train
from diffuscope.training.start import quiet
from diffuscope.training.text import TextTask, Towers
from diffuscope.training.unet import Painter, UNetTask
from diffuscope.training.vae import VAETask, standardise
from diffuscope.weights.store import files, packing
from diffuscope.weights.store.assign import load_into

Network = TypeVar("Network", bound=nn.Module)

_RANK_SEEDS = 1000  # between the seeds of two processes; the seeds of a recipe lie closer together


@dataclass(frozen=True)
class Dataset:
    """The corpus, rendered, on a device."""

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
        """[count,3,size,size] in [-1,1]: held-out sprites by themselves, every other one on a coloured background."""
        rows = [i for i, p in enumerate(self.corpus.pictures) if (p.concept, p.style) in self.split.styles][:count]
        scenes = blank_scenes(len(rows))
        scenes.sprite[:, 0] = rows
        scenes.background[1::2] = np.random.default_rng(0).integers(0, 256, (len(rows) // 2, 3))
        return compose(self.canvas, scenes)


def train_vae(recipe: VAERecipe, dataset: Dataset, feature_net: Path, folder: Path, start: Path | None = None) -> VAE:
    """The trained autoencoder, latents centred and of unit variance; also in ``folder/vae.safetensors``.

    Training begins with the weights in the file ``start``, where one is given.
    """
    device = dataset.canvas.sprites.device
    torch.manual_seed(recipe.loop.seed)
    vae = VAE(recipe.model.vae)
    if start is None:
        quiet(vae)
    else:
        vae = load_vae(recipe, start).requires_grad_(True)
    vae = placed(vae.float(), device)
    scenes = dataset.scenes(recipe.scenes, recipe.loop.seed, "vae")

    def batch(draw: Draw) -> Tensor:
        rows = np.random.default_rng(draw.seed).integers(recipe.scenes, size=recipe.batch)
        return compose(dataset.canvas, scenes.take(rows)).contiguous(memory_format=torch.channels_last)

    task = VAETask(
        vae,
        batch,
        dataset.held_out(512),
        recipe.loss,
        placed(load_efficientnet(feature_net), device),
        compiled=device.type == "cuda",
    )
    trained = train(task, recipe.loop, folder)
    assert isinstance(trained, VAE)
    mean, std = latent_moments(
        [trained.encode(compose(dataset.canvas, scenes.take(slice(i, i + 128)))).mean for i in range(0, 8192, 128)]
    )
    standardise(trained, mean, std)
    save(trained, folder / "vae.safetensors")
    return trained


def made_from(recipe: ExamplesRecipe, corpus: Path, autoencoder: Path) -> str:
    """What examples depend on, as one line."""
    digests = [hashlib.sha256(path.read_bytes()).hexdigest()[:16] for path in (corpus, autoencoder)]
    return f"{recipe} corpus {digests[0]} autoencoder {digests[1]} recolouring {RECOLOUR_VERSION}"


def example_files(folder: Path) -> tuple[Path, Path]:
    """Where this process keeps its training examples, and the held-out ones."""
    return folder / f"examples-{ranks.rank()}.safetensors", folder / f"held_out-{ranks.rank()}.safetensors"


def kept_examples(folder: Path, device: torch.device, source: str) -> tuple[Examples, Examples] | None:
    """What ``make_examples`` left in ``folder``; None where it did not, or made them from something else."""
    paths = example_files(folder)
    if not all(path.exists() and files.read_header(path).metadata.get("source") == source for path in paths):
        return None
    train_part, held_out = (Examples(**files.read(path)).to(device) for path in paths)
    return train_part, held_out


def make_examples(
    recipe: ExamplesRecipe, dataset: Dataset, vae: VAE, feature_net: Path, folder: Path, source: str
) -> tuple[Examples, Examples]:
    """Training and held-out examples (the latter show held-out pairs too), kept in ``folder`` for the next call.

    Every process makes other training examples, so that several processes learn from more of them.
    """
    device = dataset.canvas.sprites.device
    network = placed(load_efficientnet(feature_net), device)
    vae = placed(vae, device)

    def made(count: int, seed: int, *, train: bool) -> Examples:
        scenes = dataset.scenes(count, seed, "text", train=train)
        return encode(vae, network, lambda rows: compose(dataset.canvas, scenes.take(rows)), token_ids(scenes))

    seed = recipe.seed + _RANK_SEEDS * ranks.rank()
    found = made(recipe.scenes, seed, train=True), made(recipe.held_out, recipe.seed + 1, train=False)
    folder.mkdir(parents=True, exist_ok=True)
    for path, part in zip(example_files(folder), found, strict=True):
        files.write(path, {field.name: getattr(part, field.name) for field in fields(part)}, {"source": source})
    return found


def token_ids(scenes: Scenes) -> Tensor:
    """[N,2,77] int32 ids of every scene's captions."""
    chunks = [scenes.captions[i : i + 16384] for i in range(0, len(scenes), 16384)]
    return torch.from_numpy(np.concatenate(list(parallel_map(_tokenise, chunks, None))))


def _tokenise(captions: list[tuple[str, str]]) -> NDArray[np.int32]:
    tokenizer = Tokenizer()
    ids = tokenizer.encode([text for pair in captions for text in pair])
    return ids.view(len(captions), 2, -1).to(torch.int32).numpy()


def train_text(recipe: TextRecipe, examples: tuple[Examples, Examples], folder: Path) -> Towers:
    """The two towers; also in ``folder/towers.safetensors``."""
    device = examples[0].latents.device
    torch.manual_seed(recipe.loop.seed)
    towers = Towers(TextEncoder(recipe.model.text_encoder), examples[0].features.shape[1]).to(device)
    task = TextTask(towers, *examples, recipe.training, compiled=device.type == "cuda")
    trained = train(task, recipe.loop, folder)
    assert isinstance(trained, Towers)
    save(trained, folder / "towers.safetensors")
    return trained


def load_towers(recipe: UNetRecipe, path: Path) -> Towers:
    """The towers that ``train_text`` wrote."""
    tensors = files.read(path)
    towers = Towers(TextEncoder(recipe.model.text_encoder), tensors["picture.weight"].shape[1])
    load_into(towers, tensors, source=str(path))
    return towers


def new_painter(recipe: UNetRecipe, towers: Towers) -> Painter:
    """A U-Net that knows nothing beside the trained towers."""
    torch.manual_seed(recipe.loop.seed)
    unet = UNet(recipe.model.unet)
    quiet(unet)
    return Painter(towers, unet)


def train_unet(
    recipe: UNetRecipe,
    examples: tuple[Examples, Examples],
    painter: Painter,
    folder: Path,
    stop_after: float | None = None,
    saved: Callable[[nn.Module], None] = lambda _: None,
) -> Painter:
    """U-Net and text encoder, trained on from ``painter``."""
    device = examples[0].latents.device
    task = UNetTask(
        placed(painter.requires_grad_(True), device),
        *examples,
        Schedule(recipe.model.schedule),
        Tokenizer().encode("")[0],
        recipe.training,
        compiled=device.type == "cuda",
    )
    trained = train(task, recipe.loop, folder, stop_after=stop_after, saved=saved)
    assert isinstance(trained, Painter)
    return trained


def placed(network: Network, device: torch.device) -> Network:
    """``network`` on the device, its convolutions in the memory order that GPUs and CPUs are fastest in."""
    return network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def save(network: nn.Module, path: Path) -> None:
    """Write a network's weights in the first process; the others wait for it."""
    if ranks.rank() == 0:
        files.write(path, {name: value.contiguous() for name, value in network.state_dict().items()})
    ranks.wait()


def load_vae(recipe: VAERecipe, path: Path) -> VAE:
    """A trained autoencoder, from a plain or a packed file."""
    vae = VAE(recipe.model.vae)
    packed = packing.is_packed(files.read_header(path))
    load_into(vae, packing.read(path) if packed else files.read(path), source=str(path))
    return vae.requires_grad_(False).eval()
