"""What a folder's tokenizer says beside its words is CLIP's, named as not used, or refused."""

import json
from pathlib import Path

import pytest

from diffuscope.config import TINY
from diffuscope.errors import WeightsError
from diffuscope.model_files import describe_folder
from diffuscope.models.tokenizer import Tokenizer
from diffuscope.saving import write_tokenizer
from diffuscope.weights.layout import diffusers_folder, own_config, tokenizer_files

SETTINGS, SPECIAL = "tokenizer/tokenizer_config.json", "tokenizer/special_tokens_map.json"


@pytest.fixture(params=["diffusers", "own"])
def written(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The JSON files of a folder in either layout and its tokenizer, without weights."""
    if request.param == "own":
        (tmp_path / own_config.FILE).write_text(own_config.to_json(TINY))
    else:
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
    assert describe_folder(written).notes == ()
    edit(written / file, **{field: value})
    (note,) = describe_folder(written).notes
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
        describe_folder(written)


@pytest.mark.parametrize("written", ["diffusers"], indirect=True)
def test_a_text_encoder_of_more_positions_than_its_tokenizer_is_named(written: Path) -> None:
    edit(written / "text_encoder/config.json", max_position_embeddings=248)
    with pytest.raises(WeightsError, match=r"77, and its text encoder 248 positions \(LongCLIP has 248\)"):
        describe_folder(written)
    edit(written / SETTINGS, model_max_length=248)
    assert describe_folder(written).config.text_encoder.positions == 248


@pytest.mark.parametrize("written", ["own"], indirect=True)
@pytest.mark.parametrize("file", [SETTINGS, SPECIAL])
def test_our_config_and_the_tokenizer_pad_alike(written: Path, file: str) -> None:
    for name in (SETTINGS, SPECIAL):
        edit(written / name, pad_token="!" if name == file else None)
    with pytest.raises(WeightsError, match="pads texts with another token than 49407"):
        describe_folder(written)


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
