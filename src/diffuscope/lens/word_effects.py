"""What each word of a prompt does: the word is left out, and the change of the clean estimate is measured."""

import torch
from torch import Tensor

from diffuscope.errors import InputError, Unquoted
from diffuscope.lens.functions import check_text_only, denoiser
from diffuscope.lens.recording import Record
from diffuscope.pipeline import Pipeline
from diffuscope.prompt.windows import Window
from diffuscope.types import Conditioning, Levels

LITTLE = 0.1
"""Effect below which a word does next to nothing: that of most articles is about .05, of a drawn thing .6 and more."""


@torch.no_grad()
def word_effects(
    pipe: Pipeline, prompt: str, record: Record, levels: Levels, *, calls: int = 5, image: int = 0
) -> dict[str, float]:
    """Each word's effect in a run: about 1 where it does as much as the whole prompt, about 0 where it does nothing.

    The change of the clean estimate without the word, divided by its change without any word, averaged over some
    network calls of the run, from the first to the last. A cause and its effect, unlike attention, which a few words
    collect for all (Jain & Wallace 2019). Costs one network call with a row for each word, ``calls`` times.

    Args:
        pipe: the model.
        prompt: one text, of the run; in it a word stands for all its occurrences.
        record: of the run: ``pipe.steps(prompt, guidance=record)``.
        levels: of the run.
        calls: how many network calls, at least 1.
        image: its number in the run.

    Raises:
        InputError: nothing was recorded, or the model's U-Net has other inputs than text.
    """
    check_text_only(pipe)
    if not record.x or calls < 1:
        got = Unquoted(f"{len(record.x)} network calls" if calls >= 1 else f"calls={calls}")
        raise InputError("record", got, "a Record of at least one network call")
    words = pipe.tokenizer.words(prompt)
    names = list(dict.fromkeys(word for word, _ in words))
    kept: list[str | None] = [None, *names]  # the row without a word; None: with all
    texts = [[i for word, ids in words if word != name for i in ids] for name in kept]
    context = _states(pipe, [*texts, []])
    denoise = denoiser(pipe, Conditioning(context), levels)
    last, shares = len(record.x) - 1, torch.zeros(len(names))
    chosen = sorted({round(k * last / max(calls - 1, 1)) for k in range(calls)})
    for call in chosen:
        x = record.x[call][image : image + 1].to(pipe.device)
        x0 = denoise(x.expand(len(context), -1, -1, -1), record.sigmas[call])
        change = (x0 - x0[:1]).flatten(1).norm(dim=1).float().cpu()
        shares += change[1:-1] / change[-1].clamp_min(1e-12)
    return {name: float(share) / len(chosen) for name, share in zip(names, shares, strict=True)}


def _states(pipe: Pipeline, texts: list[list[int]]) -> Tensor:
    """[K,T,D] what the U-Net reads of texts that are given as token ids."""
    size = pipe.tokenizer.length - 2
    rows = [Window(ids[:size]).row(pipe.tokenizer) for ids in texts]
    with pipe.engine.using(pipe.text_encoder):
        return pipe.text_encoder.read(pipe.text_encoder(torch.tensor(rows, device=pipe.device)))
