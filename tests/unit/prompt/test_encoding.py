"""Texts to Conditioning: each row is its text's, however often it comes; and what is cut is said."""

import torch

from diffuscope.pipeline import Pipeline
from diffuscope.prompt import encode, truncation_notice


def test_rows_are_their_texts(tiny: Pipeline) -> None:
    texts = ["cat", "", "fox", "cat"]
    rows: list[int] = []

    class Count:
        def wants(self, name: str) -> bool:
            return name == "text_encoder.embeddings"

        def __call__(self, name: str, value: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
            rows.append(len(value))
            return value

    told = encode(texts, tiny.tokenizer, tiny.text_encoder, Count())
    assert rows == [3]
    assert told.pooled is not None
    for k, text in enumerate(texts):
        alone = encode([text], tiny.tokenizer, tiny.text_encoder)
        assert torch.equal(told.ids[k], tiny.tokenizer.encode(text)[0])
        assert (told.embeddings[k] - alone.embeddings[0]).abs().max() < 1e-5
        assert (told.pooled[k] - alone.pooled[0]).abs().max() < 1e-5


def test_nothing_is_said_of_what_fits(tiny: Pipeline) -> None:
    assert truncation_notice("", tiny.tokenizer) is None
    assert truncation_notice("cat " * 75, tiny.tokenizer) is None
    assert "'cat'" in str(truncation_notice("cat " * 76, tiny.tokenizer))
