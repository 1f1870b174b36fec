"""A LoRA (Hu et al. 2021) of one's own pictures, with prior preservation (DreamBooth: Ruiz et al. 2023, equation 2)."""

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import torch
from torch import Tensor, nn

from diffuscope.errors import InputError
from diffuscope.finetune import session
from diffuscope.finetune.memory import activations, trained
from diffuscope.finetune.networks import Factors, updated
from diffuscope.finetune.options import LoraTraining, Targets
from diffuscope.finetune.prior import prior_latents
from diffuscope.finetune.subject import (
    Denoising,
    check_trainable,
    encode,
    in_parts,
    latents_of,
    named,
    rows_of,
    size_of,
    tell_truncated,
)
from diffuscope.keywords import takes_after
from diffuscope.models.text_encoder import TextEncoder
from diffuscope.models.unet import UNet
from diffuscope.pipeline import Pipeline
from diffuscope.training.denoising import DenoisingLoss
from diffuscope.training.loop import StepContext
from diffuscope.training.pictures import Pictures, read_pictures
from diffuscope.types import Conditioning
from diffuscope.weights.adapter import lora_files
from diffuscope.weights.adapter.lora_files import Configs


@dataclass(frozen=True, kw_only=True)
class LoraTrainingReport:
    """A trained LoRA; ``str()`` is one line."""

    path: Path
    layers: int
    error_before: float
    """Weighted error of the U-Net on the pictures, at fixed noise."""
    error_after: float
    pictures: Pictures

    def __str__(self) -> str:
        return f"{self.path}: {self.layers} layers, error {self.error_before:.4g} -> {self.error_after:.4g}"


@takes_after(LoraTraining)
def train_lora(
    pipe: Pipeline, pictures: str | PathLike[str], out: str | PathLike[str], training: LoraTraining
) -> LoraTrainingReport:
    """Learn a LoRA from ``pictures``, a folder or one file with captions, and write it to ``out``, a .safetensors file.

    ``pipe.load_lora(out)`` and other programs open it; the Pipeline itself is not changed. A training that was
    interrupted resumes if it is called again with the same arguments.

    Raises:
        InputError: an option is not possible, the model cannot be trained, or no picture can be used.
        OutputError: the file, or the folder of another training, is there.
        OutOfMemoryError: memory does not suffice.
        TrainingError: nothing was learned.
    """
    check_trainable(pipe)
    path = session.check_lora_file(out, overwrite=training.overwrite)
    if training.prior and training.batch_size < 2:
        raise InputError("batch_size", training.batch_size, "at least 2 with a prior: half of them are of the class")
    size = size_of(pipe.config, training)
    found = read_pictures(pictures, size, caption=training.caption)
    training.tell(str(found))
    tell_truncated(pipe, named(found) | dict.fromkeys(training.prior, "the prior"), training.tell)
    with pipe.adapters.using():
        task = LoraTask(pipe, latents_of(pipe, found), found.captions, size, training)
        needs = trained(task.network)
        needs["of activations"] = activations(pipe, size, training, training.rank, training.targets)
        session.check_memory(needs, pipe.device, training.tell)
        texts = [training.prior[i % len(training.prior)] for i in range(training.prior_count * bool(training.prior))]
        task.set_prior(prior_latents(pipe, texts, training.seed, size, path.parent, training.tell), texts)
        asked = session.identity(pipe, training, found.images, *found.captions)
        folder = path.with_suffix(".run")
        network, before, after = session.fit(task, training.steps, training.lr, folder, training, training, asked)
    assert isinstance(network, Updates)
    about = {"captions": "; ".join(dict.fromkeys(found.captions)), "model": pipe.config.name}
    lora_files.write(path, pairs_of(network), task.scale, configs_of(pipe, network), training.dialect, about)
    session.finish(folder)
    layers = sum(len(factors.layers) for factors in network.factors())
    return LoraTrainingReport(path=path, layers=layers, error_before=before, error_after=after, pictures=found)


class Updates(nn.Module):
    """The low-rank updates of some networks, by part."""

    def __init__(self, pipe: Pipeline, rank: int, targets: Targets, seed: int, *, text_encoder: bool = False) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        chosen = {
            part: network
            for part, network in pipe.components.networks.items()
            if part == "unet" or (text_encoder and isinstance(network, TextEncoder))
        }
        self.parts = nn.ModuleDict(
            {part: Factors(network, rank, targets, generator) for part, network in chosen.items()}
        )

    def of(self, part: str) -> Factors | None:
        """Those of a network, if it has any."""
        factors = dict(self.parts.items()).get(part)
        assert factors is None or isinstance(factors, Factors)
        return factors

    def factors(self) -> list[Factors]:
        """Of each network."""
        return [factors for factors in self.parts.values() if isinstance(factors, Factors)]


def configs_of(pipe: Pipeline, network: Updates) -> Configs:
    """Part -> config of each network that has updates, and of a second text encoder."""
    return {
        part: each.config
        for part, each in pipe.components.networks.items()
        if isinstance(each, TextEncoder | UNet) and (part in network.parts or part == "text_encoder_2")
    }


def pairs_of(network: Updates) -> dict[tuple[str, str], tuple[Tensor, Tensor]]:
    """(part, layer) -> up and down."""
    return {
        (part, layer): factors.pair(layer)
        for part, factors in network.parts.items()
        if isinstance(factors, Factors)
        for layer in factors.layers
    }


class LoraTask:
    """The task of ``loop.train`` for low-rank updates."""

    adamw_prefixes: tuple[str, ...] = ("",)

    def __init__(
        self, pipe: Pipeline, latents: Tensor, captions: Sequence[str], size: int, training: LoraTraining
    ) -> None:
        self.pipe, self.training, self.latents, self.captions = pipe, training, latents, list(captions)
        rank, targets = training.rank, training.targets
        self.scale = 1.0 if training.alpha is None else training.alpha / rank
        loss = DenoisingLoss(pipe.schedule, pipe.device, training.min_snr_gamma)
        self.denoising = Denoising(pipe, loss, size)
        self.network: nn.Module = Updates(pipe, rank, targets, training.seed, text_encoder=training.text_encoder)
        self.unet = self._unet(self.network)
        self.set_prior(latents[:0], [])

    def set_prior(self, latents: Tensor, texts: Sequence[str]) -> None:
        """Latents [M,C,h,w] of pictures that must not change, and the text of each."""
        self.prior, self.texts = latents, [*self.captions, *texts]
        self.states = None if self.training.text_encoder else self._encode(self.network, self.texts)

    def loss(self, context: StepContext) -> tuple[Tensor, dict[str, Tensor]]:
        """The mean error of pictures, plus that of pictures of the class."""
        count = self.training.batch_size
        of_class = count // 2 if len(self.prior) else 0
        rows = context.rows(count - of_class, len(self.latents)).tolist()
        others = context.rows(of_class, len(self.prior)).tolist() if of_class else []
        x0 = torch.cat([self.latents[rows], self.prior[others]]) if others else self.latents[rows]
        index = rows + [len(self.captions) + row for row in others]
        places, noise = self.denoising.draws(context, count, x0.shape[1:])
        errors = self.denoising.errors(self.unet, x0, self._states(self.network, index), places, noise)
        error = errors[: len(rows)].mean()
        numbers = {"error": error.detach()}
        if not others:
            return error, numbers
        prior = errors[len(rows) :].mean()
        return error + self.training.prior_weight * prior, numbers | {"prior": prior.detach()}

    @torch.no_grad()
    def validate(self, network: nn.Module) -> dict[str, float]:
        """The error on the pictures at fixed noise."""
        x0, places, noise = self.denoising.fixed(self.latents)
        unet = self._unet(network)
        index = [i % len(self.captions) for i in range(len(x0))]
        errors = [
            self.denoising.errors(unet, x0[p], self._states(network, index[p]), places[p], noise[p])
            for p in in_parts(self.training)
        ]
        return {"error": torch.cat(errors).mean().item()}

    def _unet(self, network: nn.Module) -> UNet:
        assert isinstance(network, Updates)
        checkpointed = self.training.gradient_checkpointing
        return updated(self.pipe.unet, network.of("unet"), self.scale, checkpointed=checkpointed)

    def _states(self, network: nn.Module, index: Sequence[int]) -> Conditioning:
        if self.states is not None:
            return rows_of(self.states, index)
        return self._encode(network, [self.texts[i] for i in index])

    def _encode(self, network: nn.Module, texts: Sequence[str]) -> Conditioning:
        assert isinstance(network, Updates)
        towers = [
            (tokenizer, updated(encoder, network.of(str(encoder.component)), self.scale))
            for tokenizer, encoder in self.pipe.components.towers
        ]
        return encode(texts, towers, self.pipe.device)
