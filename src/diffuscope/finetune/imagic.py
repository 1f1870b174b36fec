"""Imagic (Kawar et al. 2023): one picture, and a text of what it should become.

First the text's states learn the picture, a little (section 3.2, A), then a LoRA of the network learns it from these
states (B). States between the learned ones and those of the text are pictures between the two (C, equation 3). With
``prior_count``, which the paper does not have, the LoRA also learns pictures that the model made of the text.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from diffuscope.errors import InputError
from diffuscope.evaluate.contact_sheet import contact_sheet
from diffuscope.finetune import imagic_file, session
from diffuscope.finetune.imagic_file import States
from diffuscope.finetune.lora import Updates, configs_of, pairs_of
from diffuscope.finetune.memory import activations, trained
from diffuscope.finetune.networks import updated
from diffuscope.finetune.options import ImagicTraining
from diffuscope.finetune.prior import prior_latents
from diffuscope.finetune.subject import (
    Denoising,
    check_trainable,
    in_parts,
    latents_of,
    rows_of,
    size_of,
    tell_truncated,
)
from diffuscope.keywords import takes_after
from diffuscope.pipeline import Pipeline
from diffuscope.training.denoising import DenoisingLoss
from diffuscope.training.loop import StepContext
from diffuscope.training.pictures import read_pictures
from diffuscope.types import Conditioning
from diffuscope.weights.adapter import lora_files

ETAS = tuple(i / 10 for i in range(11))


@dataclass(frozen=True, kw_only=True)
class ImagicReport:
    """A trained edit; ``str()`` is one line."""

    path: Path
    error_before: float
    """Weighted error of the U-Net on the picture with the text as it is, at fixed noise."""
    error_embedded: float
    """With the learned states."""
    error_after: float
    """With the LoRA too."""

    def __str__(self) -> str:
        errors = f"{self.error_before:.4g} -> {self.error_embedded:.4g} -> {self.error_after:.4g}"
        return f"{self.path}: error {errors} (text, learned states, and LoRA)"


@takes_after(ImagicTraining)
def train_imagic(
    pipe: Pipeline, picture: str | PathLike[str], out: str | PathLike[str], training: ImagicTraining
) -> ImagicReport:
    """Learn one picture, a file, from the text of what it should become; write it to ``out``, a .safetensors file.

    ``load_imagic(pipe, out)`` opens it; the Pipeline itself is not changed. A training that was interrupted resumes if
    it is called again with the same arguments.

    Raises:
        InputError: an option is not possible, the model cannot be trained, or there is no picture.
        OutputError: the file, or the folder of another training, is there.
        OutOfMemoryError: memory does not suffice.
        TrainingError: nothing was learned.
    """
    check_trainable(pipe)
    path = session.check_lora_file(out, overwrite=training.overwrite)
    if training.prior_count and training.batch_size < 2:
        raise InputError("batch_size", training.batch_size, "at least 2 with prior_count: half of them are of the text")
    size = size_of(pipe.config, training)
    tell_truncated(pipe, {training.prompt: "the prompt"}, training.tell)
    found = read_pictures(picture, size, caption=training.prompt)
    if len(found.names) != 1:
        raise InputError("picture", str(picture), "one picture")
    with pipe.adapters.using():
        latents, target = latents_of(pipe, found), pipe.encode_prompt(training.prompt)
        updates = Updates(pipe, training.rank, training.targets, training.seed)
        kept = activations(pipe, size, training, training.rank, training.targets)
        session.check_memory(trained(updates) | {"of activations": kept}, pipe.device, training.tell)
        asked = session.identity(pipe, training, found.images)
        folder = path.with_suffix(".run")
        task = ImagicTask(pipe, latents, target, LearnedStates(target.embeddings), size, training)
        training.tell("first stage: the states of the text learn the picture")
        first = session.fit(
            task, training.embedding_steps, training.embedding_lr, folder / "text", training, training, asked
        )
        assert isinstance(first[0], LearnedStates)
        learned = Conditioning(first[0].states.detach(), pooled=target.pooled)
        training.tell("second stage: the network learns it from these states")
        task = ImagicTask(pipe, latents, learned, updates, size, training)
        texts = [training.prompt] * training.prior_count
        task.keep(prior_latents(pipe, texts, training.seed, size, path.parent, training.tell), target)
        asked["data"] += session.digest(learned.embeddings)
        second = session.fit(task, training.steps, training.lr, folder / "network", training, training, asked)
    assert isinstance(second[0], Updates)
    pooled = None if target.pooled is None else target.pooled[0]
    states = States(prompt=training.prompt, target=target.embeddings[0], learned=learned.embeddings[0], pooled=pooled)
    lora = lora_files.named(pairs_of(second[0]), 1.0, configs_of(pipe, second[0]), "kohya")
    imagic_file.write(path, states, lora, {"size": str(size), "model": pipe.config.name, "captions": training.prompt})
    session.finish(folder)
    return ImagicReport(path=path, error_before=first[1], error_embedded=first[2], error_after=second[2])


class LearnedStates(nn.Module):
    """The states of one text, [1,T,D] float32."""

    def __init__(self, states: Tensor) -> None:
        super().__init__()
        self.states = nn.Parameter(states.detach().float().clone())


class ImagicTask:
    """The task of ``loop.train`` for either stage: ``network`` is the states, or the updates of the U-Net."""

    adamw_prefixes: tuple[str, ...] = ("",)

    def __init__(
        self,
        pipe: Pipeline,
        latents: Tensor,
        texts: Conditioning,
        network: nn.Module,
        size: int,
        training: ImagicTraining,
    ) -> None:
        self.pipe, self.latents, self.texts, self.network, self.training = pipe, latents, texts, network, training
        self.denoising = Denoising(pipe, DenoisingLoss(pipe.schedule, pipe.device, training.min_snr_gamma), size)
        self.prior, self.target = latents[:0], texts

    def keep(self, prior: Tensor, target: Conditioning) -> None:
        """Pictures of the text [M,C,h,w] that must not change: a long training makes the given one of any."""
        self.prior, self.target = prior, target

    def loss(self, context: StepContext) -> tuple[Tensor, dict[str, Tensor]]:
        """The mean error at some noise levels, one in each part of the schedule, and that of pictures of the text."""
        count = self.training.batch_size
        kept = count // 2 if len(self.prior) else 0
        x0 = self.latents.expand(count - kept, -1, -1, -1)
        places, noise = self.denoising.draws(context, count, x0.shape[1:])
        own = slice(0, count - kept)
        error = self._errors(self.network, x0, places[own], noise[own], self.texts).mean()
        numbers = {"error": error.detach()}
        if not kept:
            return error, numbers
        others, rest = self.prior[context.rows(kept, len(self.prior))], slice(count - kept, None)
        prior = self._errors(self.network, others, places[rest], noise[rest], self.target).mean()
        return error + prior, numbers | {"prior": prior.detach()}

    @torch.no_grad()
    def validate(self, network: nn.Module) -> dict[str, float]:
        """The error at fixed noise."""
        x0, places, noise = self.denoising.fixed(self.latents)
        parts = in_parts(self.training)
        errors = [self._errors(network, x0[p], places[p], noise[p], self.texts) for p in parts]
        return {"error": torch.cat(errors).mean().item()}

    def _errors(self, network: nn.Module, x0: Tensor, places: Tensor, noise: Tensor, known: Conditioning) -> Tensor:
        factors = network.of("unet") if isinstance(network, Updates) else None
        unet = updated(self.pipe.unet, factors, checkpointed=self.training.gradient_checkpointing)
        states = network.states if isinstance(network, LearnedStates) else known.embeddings
        texts = rows_of(Conditioning(states, pooled=known.pooled), [0] * len(x0))
        return self.denoising.errors(unet, x0, texts, places, noise)


class Imagic:
    """An edit in a Pipeline, whose LoRA is loaded: what ``load_imagic`` returns.

    Attributes:
        pipe: the model.
        name: of the LoRA there.
        states: of the text, and those that know the picture.
    """

    def __init__(self, pipe: Pipeline, name: str, states: States) -> None:
        self.pipe, self.name, self.states = pipe, name, states

    def at(self, eta: float) -> Conditioning:
        """Text states for ``pipe(conditioning=...)``: 0 is the picture, 1 the text; beyond 1 exaggerates.

        ``eta * target + (1 - eta) * learned`` (equation 3 of the paper, where 0.6 to 0.8 is best).
        """
        states = eta * self.states.target + (1 - eta) * self.states.learned
        pooled = None if self.states.pooled is None else self.states.pooled[None].to(self.pipe.device)
        return Conditioning(states[None].to(self.pipe.device, self.pipe.dtype), pooled=pooled)

    def sweep(self, etas: Sequence[float] = ETAS, **call: Any) -> list[Image.Image]:
        """One picture for each eta, all with the same noise; further keywords are those of a call."""
        call = {"seed": 0} | call
        return [image for eta in etas for image in self.pipe(conditioning=self.at(eta), **call).images]

    def sheet(self, etas: Sequence[float] = ETAS, **call: Any) -> Image.Image:
        """``sweep`` on one picture, each above its eta."""
        return contact_sheet(self.sweep(etas, **call), [f"{eta:g}" for eta in etas], len(etas))

    def unload(self) -> None:
        """Take the LoRA out of the Pipeline."""
        self.pipe.unload_lora(self.name)


def load_imagic(pipe: Pipeline, path: str | PathLike[str]) -> Imagic:
    """Open the file of ``train_imagic``: its LoRA is loaded at weight 1, until ``unload``.

    Raises:
        ModelNotFoundError: there is no such file.
        WeightsError: it is damaged, no Imagic, or made for another model.
    """
    path = Path(path)
    pipe.load_lora(path)
    try:
        return Imagic(pipe, path.stem, imagic_file.read(path, pipe.config.unet.context_dim))
    except Exception:
        pipe.unload_lora(path.stem)
        raise
