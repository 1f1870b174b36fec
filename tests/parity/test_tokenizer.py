"""Hugging Face's CLIPTokenizer, built here from the same table of merges, on 12,000 seeded strings: no difference.

Three quirks are named below. But for emoji, the corpus keeps to characters of Unicode 3.2, the one edition that every
Python carries: Python, regex and tokenizers each bring tables of an edition of their own.
"""

import gzip
import json
import random
from importlib.resources import files
from pathlib import Path
from unicodedata import ucd_3_2_0

import pytest
from transformers import CLIPTokenizer

from diffuscope.models.tokenizer import Tokenizer

COUNT = 12_000
BLOCKS = {
    "ascii": (0x20, 0x7F),
    "control": (0x00, 0x20),
    "c1": (0x7F, 0xA1),
    "latin": (0xA0, 0x250),
    "accents": (0x300, 0x370),
    "greek, cyrillic": (0x370, 0x530),
    "hebrew, arabic": (0x590, 0x700),
    "devanagari, thai": (0x900, 0xE80),
    "hangul parts": (0x1100, 0x1200),
    "spaces, joiners, marks": (0x2000, 0x2070),
    "letters with tricks": (0x2100, 0x2190),
    "arrows, signs": (0x2190, 0x27C0),
    "kana, cjk": (0x3000, 0x9FFF),
    "hangul": (0xAC00, 0xD7A4),
    "compatibility": (0xF900, 0xFFF0),
    "letters beyond 16 bits": (0x10400, 0x10450),
    "mathematical letters": (0x1D400, 0x1D800),
    "emoji": (0x1F300, 0x1FA70),
}
WORDS = """
's 't 're 've 'm 'll 'd 'S 'LL '' don't o'clock snake_case __init__ 3.14 1,000 ½ ² Ⅷ ٣ ﷺ ǅ ß İ ı ſ Σ ΣΟΦΟΣ ﬁ Å é
café naïve 東京 안녕 שלום مرحبا नमस्ते 👍🏽 🇫🇷 ❤️ #️⃣ -- … “quoted” (masterpiece:1.2) [[cat]] </w> <|x|> <|endoftext|>
<|startoftext|> a picture of a puppy noto style
"""
PIECES = [
    *WORDS.split(),
    "\u200b",
    "\u200e",
    "\u200f",
    "\ufeff",
    "\u00ad",
    "\u2028",
    "\u0085",
    "\x1c",
    "\x1f",
    "\x00",
    "👩\u200d👩\u200d👧\u200d👦",
]


@pytest.fixture(scope="module")
def merges() -> list[str]:
    data = (files("diffuscope") / "assets/bpe_simple_vocab_16e6.txt.gz").read_bytes()
    return gzip.decompress(data).decode().split("\n")[1 : 49152 - 256 - 2 + 1]


@pytest.fixture(scope="module")
def oracle(merges: list[str], tmp_path_factory: pytest.TempPathFactory) -> CLIPTokenizer:
    """Vocabulary as CLIP's own tokenizer lays it out: bytes, bytes that end a word, merges, start, end."""
    latin = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    letters = [chr(code) for code in latin] + [chr(256 + i) for i in range(256 - len(latin))]
    vocabulary = letters + [letter + "</w>" for letter in letters] + [merge.replace(" ", "") for merge in merges]
    vocabulary += ["<|startoftext|>", "<|endoftext|>"]
    folder = tmp_path_factory.mktemp("clip")
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(vocabulary)}), encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n", encoding="utf-8")
    return CLIPTokenizer(vocab=str(folder / "vocab.json"), merges=str(folder / "merges.txt"))


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer()


@pytest.fixture(scope="module")
def corpus() -> list[str]:
    draw = random.Random(2021)
    blocks = {
        name: [chr(code) for code in range(*ends) if name == "emoji" or ucd_3_2_0.category(chr(code)) != "Cn"]
        for name, ends in BLOCKS.items()
    }
    every = [character for block in blocks.values() for character in block]

    def word() -> str:
        kind = draw.random()
        if kind < 0.4:
            return draw.choice(PIECES)
        if kind < 0.6:
            return "".join(draw.choices("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ", k=draw.randint(1, 14)))
        letters = every if kind < 0.7 else blocks[draw.choice(list(blocks))]
        return "".join(draw.choices(letters, k=draw.randint(1, 8)))

    spaces = ["", " ", " ", " ", "  ", "\n", "\t", "\u3000", "\u00a0"]
    texts = ["", " ", "\n\t ", "'", "a" * 10_000, "🦊" * 2500, "word " * 2000, " ".join(draw.choices(PIECES, k=1500))]
    texts += ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=10_000)), "".join(draw.choices(every, k=10_000))]
    texts += [
        "".join(word() + draw.choice(spaces) for _ in range(draw.randint(1, 10))) for _ in range(COUNT - len(texts))
    ]
    return texts


def test_ids_are_those_of_the_oracle(oracle: CLIPTokenizer, tokenizer: Tokenizer, corpus: list[str]) -> None:
    expected = oracle.backend_tokenizer.encode_batch(corpus, add_special_tokens=False)
    wrong = [text for text, theirs in zip(corpus, expected, strict=True) if tokenizer.tokenize(text) != theirs.ids]
    assert len(set(corpus)) > 10_000
    assert wrong == []


def test_rows_are_those_of_the_oracle(oracle: CLIPTokenizer, tokenizer: Tokenizer, corpus: list[str]) -> None:
    texts = corpus[:2000]
    rows = oracle(texts, padding="max_length", max_length=77, truncation=True).input_ids
    assert tokenizer.encode(texts).tolist() == rows


def test_token_strings_are_those_of_the_oracle(oracle: CLIPTokenizer, tokenizer: Tokenizer) -> None:
    assert tokenizer.decode(range(49408)) == oracle.convert_ids_to_tokens(list(range(49408)))


def test_the_merges_file_of_a_diffusers_folder_is_the_same_vocabulary(
    oracle: CLIPTokenizer, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    oracle.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))["model"]["merges"]
    (tmp_path / "merges.txt").write_text("#version: 0.2\n" + "\n".join(map(" ".join, saved)), encoding="utf-8")
    assert Tokenizer(tmp_path / "merges.txt").tokens == tokenizer.tokens


def test_quirk_special_tokens_in_capitals(oracle: CLIPTokenizer, tokenizer: Tokenizer) -> None:
    """Lower-cased too late to be special, they are plain text; signs that follow then join the "|>" in ours alone."""
    for text in ("<|ENDOFTEXT|>", "a <|StartOfText|> b"):
        assert tokenizer.tokenize(text) == oracle(text, add_special_tokens=False).input_ids
    text = "<|ENDOFTEXT|>!"
    assert [word.word for word in tokenizer.trace(text)] == ["<|", "endoftext", "|>!"]
    assert oracle.tokenize(text)[-2:] == ["></w>", "!</w>"]


def test_quirk_marks_of_unicode_14_are_put_in_order(tokenizer: Tokenizer) -> None:
    """NFC sorts marks by class; the oracle's older tables know none for Telugu's nukta (2021) and leave it behind."""
    assert tokenizer.tokenize("\u0e48\u0c3c") == tokenizer.tokenize("\u0c3c\u0e48")


def test_quirk_capital_sigma_never_becomes_final_sigma(oracle: CLIPTokenizer, tokenizer: Tokenizer) -> None:
    """Python's lower() looks at the letter's place in the word; CLIP's fast tokenizer, like ours, does not."""
    assert "ΣΟΦΟΣ".lower().endswith("ς")
    assert (
        tokenizer.tokenize("ΣΟΦΟΣ") == tokenizer.tokenize("σοφοσ") == oracle.encode("ΣΟΦΟΣ", add_special_tokens=False)
    )
