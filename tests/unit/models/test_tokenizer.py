import copy
import gzip
import hashlib
import tracemalloc
from importlib.resources import files
from pathlib import Path

import pytest
import torch

from diffuscope.errors import ModelNotFoundError, WeightsError
from diffuscope.models.tokenizer import Tokenizer
from diffuscope.prompt import truncation_notice
from refusals import refused

ASSET = files("diffuscope") / "assets" / "bpe_simple_vocab_16e6.txt.gz"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer()


def test_the_vocabulary_is_the_published_file() -> None:
    digest = hashlib.sha256(ASSET.read_bytes()).hexdigest()
    assert digest == "924691ac288e54409236115652ad4aa250f48203de50a9e4722a6ecd48d6804a"


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("A picture of a puppy", [320, 1674, 539, 320, 6829]),
        ("cat", [2368]),
        ("skunk", [42194]),
        ("a blue cat face, noto style", [320, 1746, 2368, 1710, 267, 578, 531, 1844]),
        ("red apple on a yellow background", [736, 3055, 525, 320, 4481, 5994]),
        ("", []),
        (" \n\u3000", []),
        ("<|endoftext|>", [49407]),
    ],
)
def test_published_ids(tokenizer: Tokenizer, text: str, ids: list[int]) -> None:
    assert tokenizer.tokenize(text) == ids
    row = tokenizer.encode(text)
    assert row.shape == (1, 77)
    assert row.dtype == torch.int64
    assert row[0].tolist() == [49406, *ids] + [49407] * (76 - len(ids))


def test_case_and_white_space_do_not_matter(tokenizer: Tokenizer) -> None:
    assert tokenizer.tokenize("  A\tPICTURE of\n\na   Puppy ") == tokenizer.tokenize("a picture of a puppy")
    assert tokenizer.tokenize("cafe\u0301") == tokenizer.tokenize("CAFÉ")


def test_a_batch_is_its_rows(tokenizer: Tokenizer) -> None:
    texts = ["a red fox", "", "word " * 100]
    assert torch.equal(tokenizer.encode(texts), torch.cat([tokenizer.encode(text) for text in texts]))
    assert tokenizer.encode([]).shape == (0, 77)


def test_length_and_pad_are_free() -> None:
    row = Tokenizer(length=6, pad=0).encode(["cat", "a picture of a puppy"])
    assert row.tolist() == [[49406, 2368, 49407, 0, 0, 0], [49406, 320, 1674, 539, 320, 49407]]


def test_cut_names_exactly_what_encode_leaves_out() -> None:
    tokenizer = Tokenizer(length=7)
    assert tokenizer.cut("A picture of a puppy") == ""
    assert tokenizer.cut("A picture of a Puppy  and a  KITTEN ") == "and a  KITTEN"
    assert tokenizer.cut("one two three four hippopotamuses") == "hippopotamuses"  # three tokens, of which one fits
    assert tokenizer.encode("A picture of a Puppy  and a  KITTEN ")[0, -1] == tokenizer.end


@pytest.mark.parametrize("words", [74, 75, 76, 200])
def test_cut_and_kept_are_the_whole_text(tokenizer: Tokenizer, words: int) -> None:
    text = " ".join(["cat"] * words)
    assert len(tokenizer.cut(text).split()) == max(0, words - 75)


def test_decode_gives_the_strings_of_the_vocabulary(tokenizer: Tokenizer) -> None:
    strings = tokenizer.decode(tokenizer.encode("A picture of a puppy"))
    assert strings[:7] == ["<|startoftext|>", "a</w>", "picture</w>", "of</w>", "a</w>", "puppy</w>", "<|endoftext|>"]
    assert tokenizer.decode(tokenizer.tokenize("é")) == ["Ã©</w>"]


def test_trace_shows_each_merge(tokenizer: Tokenizer) -> None:
    puppy, s = tokenizer.trace("Puppy's")
    assert (puppy.word, puppy.start) == ("puppy", ("p", "u", "p", "p", "y</w>"))
    assert puppy.pieces == ("puppy</w>",)
    assert puppy.ids == (6829,)
    assert [merge.rank for merge in puppy.merges] == [
        tokenizer.tokens.index("".join(m.pair)) - 512 for m in puppy.merges
    ]
    assert [len(merge.pieces) for merge in puppy.merges] == [4, 3, 2, 1]
    assert s.pieces == ("'s</w>",)
    start = tokenizer.trace("<|startoftext|>")[0]
    assert (start.start, start.merges, start.ids) == (("<|startoftext|>",), (), (49406,))


@pytest.mark.parametrize(
    "text",
    [
        "aaaaaaa aaaaaaaa",
        "mississippimississippi",
        "Donaudampfschifffahrtsgesellschaft!!!!!?!?",
        "🦊🦊🦊 東京タワー",
        "!!!!!!!!!!",
        "ab" * 300,
    ],
)
def test_heap_merges_as_the_trace_does(tokenizer: Tokenizer, text: str) -> None:
    assert [i for word in tokenizer.trace(text) for i in word.ids] == tokenizer.tokenize(text)


def test_the_cache_changes_nothing_and_stays_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diffuscope.models.tokenizer._CACHED", 8)
    tokenizer = Tokenizer()
    texts = ["one two three four five", "five four three two one", "x" * 100]
    assert [tokenizer.tokenize(text) for text in texts * 2] == [Tokenizer().tokenize(text) for text in texts] * 2
    assert sum(map(len, tokenizer._cache)) <= 100


def test_a_long_word_is_encoded_once(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its ids, its cut end, and the note on it, which a call asks for one after the other."""
    text, merged, real = "abc" * 1000, [], Tokenizer._merge
    monkeypatch.setattr(Tokenizer, "_merge", lambda self, ids: merged.append(len(ids)) or real(self, ids))
    tokenizer.encode(text)
    assert truncation_notice(text, tokenizer)
    assert tokenizer.words(text)[0][0] == text
    assert merged == [3000]


def test_a_plain_table_of_merges_is_the_same_vocabulary(tokenizer: Tokenizer, tmp_path: Path) -> None:
    (tmp_path / "merges.txt").write_bytes(gzip.decompress(ASSET.read_bytes()))
    assert Tokenizer(tmp_path / "merges.txt").tokens == tokenizer.tokens


def test_tokenizers_share_the_table_and_nothing_else(tokenizer: Tokenizer) -> None:
    copied = copy.deepcopy(tokenizer)
    copied.set_added_tokens({"fox": 2})
    assert copied.tokens is Tokenizer(length=7).tokens is tokenizer.tokens
    assert copied.encode("a fox").tolist() != tokenizer.encode("a fox").tolist() == Tokenizer().encode("a fox").tolist()


def test_wrong_input_says_what_to_do(tokenizer: Tokenizer, tmp_path: Path) -> None:
    with refused("text", "U+DC80, an unpaired surrogate"):
        tokenizer.encode("a \udc80 b")
    with refused("ids"):
        tokenizer.decode(torch.zeros(2, 77, dtype=torch.int64))
    with refused("ids", 49408):
        tokenizer.decode([49408])
    with refused("length", 1):
        Tokenizer(length=1)
    with pytest.raises(ModelNotFoundError, match=r"no vocabulary at .*none\.txt"):
        Tokenizer(tmp_path / "none.txt")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (ASSET.read_bytes()[:1000], "cannot be read"),
        (b"\xff\xfe\x00", "cannot be read"),
        (b"header\na b\n", "expected 48894 pairs"),
        (b"header\n" + b"zz y\n" * 48894, "'zz', which no earlier merge makes"),
    ],
)
def test_a_damaged_vocabulary_is_refused(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "merges.txt").write_bytes(data)
    with pytest.raises(WeightsError, match=message):
        Tokenizer(tmp_path / "merges.txt")


def test_a_vocabulary_that_unpacks_to_gigabytes_is_refused_in_little_memory(tmp_path: Path) -> None:
    (tmp_path / "merges.txt").write_bytes(gzip.compress(bytes(1 << 27)) * 16)
    tracemalloc.start()
    try:
        with pytest.raises(WeightsError, match="expected 48894 pairs"):
            Tokenizer(tmp_path / "merges.txt")
        assert tracemalloc.get_traced_memory()[1] < 1 << 27
    finally:
        tracemalloc.stop()
