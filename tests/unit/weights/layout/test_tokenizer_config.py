"""What a folder's tokenizer says beside its words is CLIP's, named as not used, or refused."""

import json
from pathlib import Path

import pytest

from diffuscope.config import TINY
from diffuscope.errors import WeightsError
from diffuscope.models.tokenizer import Tokenizer
from diffuscope.pipeline.save import write_tokenizer
from diffuscope.weights.layout import diffusers_folder, tokenizer_files

SETTINGS, SPECIAL = "tokenizer/tokenizer_config.json", "tokenizer/special_tokens_map.json"


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """The JSON files of a folder and its tokenizer, without weights."""
    diffusers_folder.write_config(tmp_path, TINY)
    write_tokenizer(Tokenizer(), tmp_path / "tokenizer")
    return tmp_path


def edit(path: Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize(
    ("file", "field", "value"),
    [
        (SETTINGS, "foo", 2),
        (SETTINGS, "do_lower_case", False),  # transformers lower-cases whatever it says
        (SETTINGS, "add_prefix_space", True),
        (SPECIAL, "mask_token", "a"),
    ],
)
def test_a_setting_without_effect_is_named(written: Path, file: str, field: str, value: object) -> None:
    assert diffusers_folder.describe(written).notes == ()
    edit(written / file, **{field: value})
    (note,) = diffusers_folder.describe(written).notes
    assert note == f"{file} has fields that are not used: {field!r}"


@pytest.mark.parametrize(
    ("file", "field", "value"),
    [
        (SETTINGS, "model_max_length", 20),
        (SETTINGS, "model_max_length", 10**30),
        (SETTINGS, "padding_side", "left"),
        (SETTINGS, "truncation_side", "left"),
        (SETTINGS, "pad_token", "zz"),
        (SPECIAL, "bos_token", {"content": "zz"}),
        (SPECIAL, "eos_token", "!"),
    ],
)
def test_a_setting_that_gives_other_ids_is_refused(written: Path, file: str, field: str, value: object) -> None:
    edit(written / file, **{field: value})
    with pytest.raises(WeightsError, match=f"{file} has {field} = "):
        diffusers_folder.describe(written)


@pytest.mark.parametrize("file", [SETTINGS, SPECIAL])
@pytest.mark.parametrize("tokens", [["zz"], [{"content": "zz"}], {"zz_token": "zz"}, "zz", [5]])
def test_a_special_token_without_an_id_is_refused(written: Path, file: str, tokens: object) -> None:
    edit(written / file, additional_special_tokens=["<|endoftext|>"])
    tokenizer_files.read(written / "tokenizer")
    edit(written / file, additional_special_tokens=tokens)
    with pytest.raises(WeightsError, match="no file gives it an id"):
        tokenizer_files.read(written / "tokenizer")


@pytest.mark.parametrize(
    ("document", "says"),
    [({"foo": 1}, "has no model"), ({"model": {}}, "no vocabulary"), ({"model": {"vocab": {"a": 0}}}, "no list of")],
)
def test_a_whole_tokenizer_has_a_vocabulary_and_merges(written: Path, document: object, says: str) -> None:
    (written / "tokenizer/tokenizer.json").write_text(json.dumps(document))
    with pytest.raises(WeightsError, match=says):
        tokenizer_files.read(written / "tokenizer")
