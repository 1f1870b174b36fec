"""Of ``/api/v1``: how the model reads a text."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from annotated_types import Interval
from fastapi import APIRouter
from fastapi import Request as HttpRequest
from starlette.concurrency import run_in_threadpool

from diffuscope.lens.text import debug, nearest_of_each
from diffuscope.models.tokenizer import Tokenizer
from diffuscope.pipeline import Pipeline
from diffuscope.prompt.parts import parts_of
from diffuscope.prompt.windows import layout
from diffuscope.request import Syntax, Text
from diffuscope.schema import Group, Options
from diffuscope.serve.engine import Engine
from diffuscope.serve.http.bodies import described, options_of


@dataclass(frozen=True, kw_only=True)
class TextQuery(Options):
    """A text to be read as a prompt."""

    prompt: Annotated[Text, Group("text")] = ""
    """the text"""
    prompt_syntax: Syntax = "plain"
    """how it is read"""
    nearest: Annotated[int, Interval(ge=0, le=50)] = 0
    """for each token so many tokens with the most similar embeddings"""


def add_text(routes: APIRouter, engine: Engine) -> None:
    """Add the routes."""

    @routes.post("/text", openapi_extra=described(TextQuery))
    async def text(http: HttpRequest) -> dict[str, Any]:
        """The words of a text, with merges, token ids and positions, and the windows that the text encoder reads."""
        query = await options_of(http, TextQuery)
        found = await run_in_threadpool(_read, engine.pipe, query)
        if query.nearest:
            ids = sorted({i for word in found["words"] for i in word["ids"]})[: engine.pipe.tokenizer.length]
            found["nearest"] = await run_in_threadpool(
                engine.batcher.task, lambda: _nearest(engine.pipe, ids, query.nearest)
            )
        return found


def _read(pipe: Pipeline, query: TextQuery) -> dict[str, Any]:
    tokenizer, syntax = pipe.tokenizer, query.prompt_syntax
    report = debug(pipe, query.prompt, prompt_syntax=syntax)
    text = parts_of(query.prompt, syntax, pipe.config.preset.num_inference_steps)[0].texts[0]
    windows = layout(text, tokenizer, syntax).windows
    return {
        "words": [
            {
                "word": trace.word,
                "ids": list(place.ids),
                "tokens": list(trace.pieces),
                "positions": list(place.positions),
                "bytes": list(trace.start),
                "merges": [
                    {"rank": merge.rank, "pair": list(merge.pair), "pieces": list(merge.pieces)}
                    for merge in trace.merges
                ],
                "unknown": trace.word in report.unknown,
            }
            for trace, place in zip(report.words, report.tokens, strict=True)
        ],
        "windows": [
            {
                "ids": window.row(tokenizer),
                "tokens": _names(tokenizer, window.row(tokenizer)),
                "weights": window.factors(tokenizer.length),
                "words": [None, *window.words, *[None] * (tokenizer.length - 1 - len(window.words))],
            }
            for window in windows
        ],
        "limit": report.limit,
        "used": sum(len(place.ids) for place in report.tokens),
        "truncated": report.truncated,
    }


def _names(tokenizer: Tokenizer, ids: Sequence[int]) -> list[str]:
    return tokenizer.decode(ids)


def _nearest(pipe: Pipeline, ids: Sequence[int], count: int) -> dict[str, list[dict[str, Any]]]:
    """Of each token that the model has learned, those with the most similar embeddings; itself is left out."""
    table = pipe.text_encoder.token_embedding.weight
    learned = [i for i in ids if i < len(table) and bool(table[i].any())]
    near = nearest_of_each(table[learned], pipe.tokenizer, pipe.text_encoder, count + 1)
    return {
        str(i): [{"id": each.id, "token": each.token, "cosine": each.cosine} for each in found if each.id != i][:count]
        for i, found in zip(learned, near, strict=True)
    }
