"""Added words: ids beyond CLIP's, found where they are meant, gone without a trace."""

import pytest
import torch

from diffuscope.config import TextEncoderConfig
from diffuscope.models.text_encoder import TextEncoder
from diffuscope.models.tokenizer import Tokenizer
from refusals import refused

TEXTS = ["a red fox", "a <cat-toy>, sitting", "Straßenbahn 狐 Ξ", "<|endoftext|> fox"]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer()


def test_clip_s_ids_stay_as_they_are(tokenizer: Tokenizer) -> None:
    before = tokenizer.encode(TEXTS)
    tokenizer.set_added_tokens({"zzyx": 2})
    assert torch.equal(tokenizer.encode(TEXTS), before)
    tokenizer.set_added_tokens({"<cat-toy>": 1, "fox": 1})
    assert not torch.equal(tokenizer.encode(TEXTS), before)
    tokenizer.set_added_tokens({})
    assert torch.equal(tokenizer.encode(TEXTS), before)
    assert tokenizer.added_tokens == {}


def test_a_word_takes_as_many_places_as_it_has_vectors(tokenizer: Tokenizer) -> None:
    tokenizer.set_added_tokens({"<cat-toy>": 3, "Ink": 1})
    assert tokenizer.added_tokens == {"<cat-toy>": (49408, 49409, 49410), "Ink": (49411,)}
    assert tokenizer.tokenize("a <cat-toy> in ink") == [320, 49408, 49409, 49410, 530, 49411]
    assert tokenizer.decode([320, 49409, 49411]) == ["a</w>", "<cat-toy>_1", "Ink"]
    (_, trace) = tokenizer.trace("a <Cat-Toy>")
    assert (trace.word, trace.ids, trace.pieces[0]) == ("<cat-toy>", (49408, 49409, 49410), "<cat-toy>")
    with refused("ids", 49412):
        tokenizer.decode([49412])


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("ink", 1),
        ("INK, ink.Ink", 3),
        ("ink-wash", 1),
        ("(ink:1.2)", 1),
        ("inks", 0),
        ("ink_2", 0),
        ("think", 0),
        ("in k", 0),
        ("<s>ink<s>", 1),
        ("x<s>y", 0),
    ],
)
def test_where_a_word_is_found(tokenizer: Tokenizer, text: str, found: int) -> None:
    tokenizer.set_added_tokens({"ink": 1, "<s>": 1})
    (ink,) = tokenizer.added_tokens["ink"]
    assert tokenizer.tokenize(text).count(ink) == found


def test_the_longest_word_goes_first(tokenizer: Tokenizer) -> None:
    tokenizer.set_added_tokens({"ink": 1, "ink-wash": 1})
    assert tokenizer.tokenize("ink-wash") == [49409]


def test_what_does_not_fit_is_cut(tokenizer: Tokenizer) -> None:
    tokenizer.set_added_tokens({"long": 74})
    assert tokenizer.cut("a long day") == "day"
    assert tokenizer.encode("a long day")[0, 75] == 49481


@pytest.mark.parametrize(("counts", "wrong"), [({"a b": 1}, "a b"), ({"": 1}, ""), ({"x": 1, "X": 1}, "X")])
def test_impossible_words(tokenizer: Tokenizer, counts: dict[str, int], wrong: str) -> None:
    with refused("word", wrong):
        tokenizer.set_added_tokens(counts)


def test_the_text_encoder_reads_the_vectors() -> None:
    config = TextEncoderConfig(width=32, layers=1, heads=2, hidden=32)
    encoder = TextEncoder(config).requires_grad_(False)
    ids = torch.tensor([[49406, 320, 49408, 49409, 49407]])
    vectors = torch.randn(2, 32, generator=torch.Generator().manual_seed(0))
    names = set(encoder.state_dict())
    encoder.added_embeddings = vectors
    assert set(encoder.state_dict()) == names
    embeddings = encoder.embed(ids) - encoder.position_embedding.weight[:5]
    torch.testing.assert_close(embeddings[0, 2:4], vectors)
    assert torch.equal(encoder.vectors(torch.tensor([49409, 49408])), vectors.flip(0))
    torch.testing.assert_close(embeddings[0, [0, 1, 4]], encoder.token_embedding(ids[0, [0, 1, 4]]))
    known = ids.clamp(max=49407)
    with_words = encoder.embed(known)
    encoder.added_embeddings = None
    assert torch.equal(encoder.embed(known), with_words)
    assert encoder.to(torch.float64).added_embeddings is None
