"""Textual inversion (Gal et al. 2022): the token embeddings of a new word, learned from pictures of one thing.

The vectors are parameters of their own, so nothing else can change: every text without the word keeps its states, bit
for bit. ``pipe.load_embedding`` opens the file, and so do diffusers and AUTOMATIC1111's web UI.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import torch
from torch import Tensor, nn

from diffuscope.errors import InputError, Unquoted, nearest
from diffuscope.finetune import session
from diffuscope.finetune.memory import activations, trained
from diffuscope.finetune.networks import updated
from diffuscope.finetune.options import WordTraining
from diffuscope.finetune.subject import (
    Denoising,
    check_trainable,
    copied_towers,
    encode,
    in_parts,
    latents_of,
    named,
    rows_of,
    size_of,
    tell_truncated,
)
from diffuscope.keywords import takes_after
from diffuscope.pipeline import Pipeline
from diffuscope.prompt.positions import untrained_words
from diffuscope.training.denoising import DenoisingLoss
from diffuscope.training.loop import StepContext
from diffuscope.training.pictures import Pictures, read_pictures
from diffuscope.types import Conditioning
from diffuscope.weights.adapter import textual_inversion

THING = ("a {}", "a picture of a {}", "an icon of a {}", "an image of a {}", "one {}")
STYLE = ("a picture, {} style", "an icon, {} style", "an image in the style of {}", "{} style")
"""Captions of pictures that have none, as in the paper's section 4.1, but without words for photographs."""


@dataclass(frozen=True, kw_only=True)
class WordReport:
    """A learned word; ``str()`` is some lines for a person."""

    path: Path
    word: str
    vectors: int
    error_before: float
    """Weighted error of the U-Net on the pictures with the word that it started from, at fixed noise."""
    error_after: float
    pictures: Pictures

    def __str__(self) -> str:
        change = f"error {self.error_before:.4g} -> {self.error_after:.4g}"
        return f"{self.path}: {self.word!r}, {self.vectors} vector{'s' * (self.vectors > 1)}, {change}"


@takes_after(WordTraining)
def train_word(
    pipe: Pipeline, pictures: str | PathLike[str], out: str | PathLike[str], training: WordTraining
) -> WordReport:
    """Learn a new word from ``pictures``, a folder or one file, and write it to ``out``, a .safetensors file.

    ``pipe.load_embedding(out)`` then makes the word one of its prompts; the Pipeline itself is not changed. Captions
    are optional; those that there are have the word in them. A training that was interrupted resumes if it is called
    again with the same arguments.

    Raises:
        InputError: an option is not possible, the word is one already, the model cannot be trained, or no picture can
            be used.
        OutputError: the file, or the folder of another training, is there.
        OutOfMemoryError: memory does not suffice.
        TrainingError: nothing was learned.
    """
    check_trainable(pipe)
    path = session.check_file(out, overwrite=training.overwrite)
    check_new(training.word, pipe)
    check_known(training.like, pipe)
    count = len(pipe.tokenizer.tokenize(training.like))
    if count > training.vectors:
        training.tell(
            f"{training.like!r} is {count} tokens, so {training.word!r} starts from their mean; one token, or as many "
            "vectors, is a better start"
        )
    size = size_of(pipe.config, training)
    found = read_pictures(pictures, size, caption=training.word)
    without = [name for name, text in zip(found.names, found.captions, strict=True) if training.word not in text]
    if without:
        got = Unquoted(f"captions without {training.word!r}: {', '.join(without[:3])}")
        raise InputError("word", got, "it in every caption", "Or remove the captions")
    training.tell(str(found))
    tell_truncated(pipe, named(found), training.tell)
    with pipe.adapters.using():
        task = WordTask(pipe, latents_of(pipe, found), found.captions, size, training)
        needs = trained(task.network) | {"of activations": activations(pipe, size, training)}
        session.check_memory(needs, pipe.device, training.tell)
        asked = session.identity(pipe, training, found.images, *found.captions)
        folder = path.with_suffix(".run")
        rows, before, after = session.fit(task, training.steps, training.lr, folder, training, training, asked)
    assert isinstance(rows, Rows)
    textual_inversion.write(path, training.word, {part: value.detach() for part, value in rows.vectors.items()})
    session.finish(folder)
    return WordReport(
        path=path,
        word=training.word,
        vectors=training.vectors,
        error_before=before,
        error_after=after,
        pictures=found,
    )


def check_new(word: str, pipe: Pipeline) -> None:
    """Refuse a word that a prompt could mean already.

    Raises:
        InputError: it is one token of the model, a word of its training, or an embedding that is loaded.
    """
    tokenizer = pipe.tokenizer
    tokenizer.with_added_tokens({word: 1})  # refuses white space
    known = len(tokenizer.tokenize(word)) == 1 or word.lower() in pipe.components.words
    if known or word in pipe.embeddings.lengths:
        raise InputError("word", word, "a word that the model does not know yet", f"For example <{word.strip('<>')}-1>")


def check_known(like: str, pipe: Pipeline) -> None:
    """Refuse to start from what the model never learned.

    Raises:
        InputError: a word has a token that was never trained, or was in no caption of the training.
    """
    table, words = pipe.text_encoder.token_embedding.weight, pipe.components.words
    unknown = untrained_words(like, pipe.tokenizer, table, learned=words)
    if unknown:
        raise InputError("like", unknown[0], "a word that the model was trained on", nearest(unknown[0], words))


class Rows(nn.Module):
    """The vectors of one word, [K,D] for each text encoder."""

    def __init__(self, vectors: dict[str, Tensor]) -> None:
        super().__init__()
        self.vectors = nn.ParameterDict({part: nn.Parameter(value) for part, value in vectors.items()})


class WordTask:
    """The task of ``loop.train`` for the vectors of a word."""

    adamw_prefixes: tuple[str, ...] = ("",)

    def __init__(
        self, pipe: Pipeline, latents: Tensor, captions: Sequence[str], size: int, training: WordTraining
    ) -> None:
        self.pipe, self.latents, self.training = pipe, latents, training
        self.texts = [_texts(caption, training) for caption in captions]
        loss = DenoisingLoss(pipe.schedule, pipe.device, training.min_snr_gamma)
        self.denoising = Denoising(pipe, loss, size)
        self.unet = updated(pipe.unet, None, checkpointed=training.gradient_checkpointing)
        self.before = {encoder.component: encoder.added_embeddings for _, encoder in pipe.components.towers}
        self.towers = copied_towers(pipe, {**pipe.embeddings.lengths, training.word: training.vectors})
        self.network: nn.Module = Rows(_starts(pipe, training))

    def loss(self, context: StepContext) -> tuple[Tensor, dict[str, Tensor]]:
        """The mean error of a batch, each picture with one of its texts."""
        count = self.training.batch_size
        rows = context.rows(count, len(self.latents))
        generator = torch.Generator().manual_seed(context.seed)
        texts = [self._some_text(row, generator) for row in rows.tolist()]
        x0 = self.latents[rows]
        places, noise = self.denoising.draws(context, count, x0.shape[1:])
        states = self._encode(self.network, texts)
        error = self.denoising.errors(self.unet, x0, states, places, noise).mean()
        return error, {"error": error.detach()}

    @torch.no_grad()
    def validate(self, network: nn.Module) -> dict[str, float]:
        """The error at fixed noise, with each picture's first text."""
        x0, places, noise = self.denoising.fixed(self.latents)
        texts = [self.texts[i % len(self.texts)][0] for i in range(len(x0))]
        states = self._encode(network, texts)
        errors = [
            self.denoising.errors(self.unet, x0[p], rows_of(states, range(len(x0))[p]), places[p], noise[p])
            for p in in_parts(self.training)
        ]
        return {"error": torch.cat(errors).mean().item()}

    def _some_text(self, row: int, generator: torch.Generator) -> str:
        texts = self.texts[row]
        return texts[int(torch.randint(len(texts), (), generator=generator))]

    def _encode(self, network: nn.Module, texts: Sequence[str]) -> Conditioning:
        assert isinstance(network, Rows)
        for _, encoder in self.towers:
            own = network.vectors[encoder.component].to(encoder.token_embedding.weight)
            before = self.before[encoder.component]
            encoder.added_embeddings = torch.cat([own] if before is None else [before, own])  # a buffer, no parameter
        return encode(texts, self.towers, self.pipe.device)


def _texts(caption: str, training: WordTraining) -> tuple[str, ...]:
    if caption != training.word:
        return (caption,)
    return tuple(form.format(training.word) for form in (STYLE if training.style else THING))


def _starts(pipe: Pipeline, training: WordTraining) -> dict[str, Tensor]:
    """For each text encoder the token embeddings of ``like``, repeated to the number of vectors."""
    starts = {}
    for tokenizer, encoder in pipe.components.towers:
        ids = tokenizer.tokenize(training.like)
        known = encoder.vectors(torch.tensor(ids, device=pipe.device)).detach().float()
        if len(ids) > training.vectors:
            known = known.mean(0, keepdim=True)
        starts[str(encoder.component)] = known[torch.arange(training.vectors) % len(known)].clone()
    return starts
