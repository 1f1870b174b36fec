"""Inspections of the text encoder: layer by layer, and between two prompts or words."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from annotated_types import Interval
from torch import Tensor

from diffuscope.lens.capture import Capture
from diffuscope.lens.inspect.attention import NoOptions
from diffuscope.lens.inspect.base import Inspection, Seen, call_of, one_text, pictures
from diffuscope.lens.text import layer_conditionings
from diffuscope.pipeline import Pipeline
from diffuscope.prompt.embeddings import encode_with_embedding, word_embedding
from diffuscope.prompt.mixing import Interpolation, interpolate
from diffuscope.request import Request
from diffuscope.schema import Options
from diffuscope.types import Conditioning


def layers(pipe: Pipeline, request: Request, options: NoOptions) -> Inspection:  # noqa: ARG001
    """A picture of each layer of the text encoder, the embeddings first: Diffusion Lens (Toker et al. 2024).

    Beside ``pictures`` [L+1,H,W,3] there are, of the T tokens from start to end of the text, ``attention`` [L,N,T,T],
    each row the attention that a token pays, and ``similarity`` [L+1,T], the cosine with its state in the last layer.
    """
    prompt = one_text(request)
    found = layer_conditionings(pipe, prompt)
    used = min(len(pipe.tokenizer.tokenize(prompt)) + 2, pipe.tokenizer.length)
    capture = Capture("text_encoder.layer.*.self_attn.weights", reduce="last")
    pipe.encode_prompt(prompt, tap=capture)
    weights = [capture[f"text_encoder.layer.{i}.self_attn.weights"][0] for i in range(len(found) - 1)]
    states = torch.stack([each.embeddings[0, :used].float().cpu() for each in found])  # [L+1,T,D]
    fixed = {
        "attention": torch.stack(weights)[..., :used, :used].contiguous(),
        "similarity": F.cosine_similarity(states, states[-1:], dim=-1),
    }
    ids = found[-1].ids
    assert ids is not None  # layer_conditioning encodes a text
    tokens = pipe.tokenizer.decode(ids[0, :used])
    return Inspection(
        [_conditioned(request, each) for each in found],
        lambda seen: pictures(seen) | fixed,
        lambda: {"tokens": tokens, "layers": len(found) - 1},
    )


@dataclass(frozen=True, kw_only=True)
class Blend(Options):
    """A way from the prompt to another, or from a word of it to another."""

    to: str = ""
    """the other prompt; or, with a word, the word that takes its place"""
    word: str | None = None
    """a word of the prompt, whose embedding is blended before the text encoder"""
    count: Annotated[int, Interval(ge=2, le=16)] = 5
    """pictures, from the one to the other"""
    method: Interpolation = "lerp"
    """lerp: along the straight line; slerp: along the arc"""


def blend(pipe: Pipeline, request: Request, options: Blend) -> Inspection:
    """``pictures`` [count,H,W,3] on the way from the prompt to another; ``fractions`` [count] from 0 to 1."""
    prompt = one_text(request)
    fractions = torch.linspace(0, 1, options.count)
    between: list[Conditioning]
    if options.word is not None:
        vectors = [word_embedding(word, pipe) for word in (options.word, options.to)]
        start, end = (Conditioning(vector[None, None]) for vector in vectors)
        mixed = [interpolate(start, end, float(share), options.method).embeddings[0, 0] for share in fractions]
        between = [encode_with_embedding(prompt, options.word, vector, pipe) for vector in mixed]
    else:
        start, end = (pipe.encode_prompt(text, prompt_syntax=request.prompt_syntax) for text in (prompt, options.to))
        between = [interpolate(start, end, float(share), options.method) for share in fractions]

    def gather(seen: Sequence[Seen]) -> dict[str, Tensor]:
        return pictures(seen) | {"fractions": fractions}

    return Inspection([_conditioned(request, each) for each in between], gather)


def _conditioned(request: Request, conditioning: Conditioning) -> Any:
    return call_of(request, prompt=None, conditioning=conditioning, clip_skip=0, prompt_syntax="plain")
