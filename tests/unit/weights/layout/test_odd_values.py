"""Every field of a folder's configuration files with odd values: a model, or one typed error of a screen."""

import json
from pathlib import Path

import pytest

from diffuscope.config import PRESETS
from diffuscope.errors import DiffuscopeError, WeightsError
from diffuscope.weights.layout import diffusers_folder, fields, own_config

ODD: tuple[object, ...] = (
    *(None, True, "x", "x" * 100_000, 0, -1, 0.5, 2**62, 10**400, float("nan"), float("inf")),
    *([], [None], [0], [[]], [True, True], [10**9] * 3, ["x"] * 1000, {}, {"a": 1}),
)
FILES = {
    "model_index": "model_index.json",
    "unet": "unet/config.json",
    "vae": "vae/config.json",
    "text_encoder": "text_encoder/config.json",
    "scheduler": "scheduler/scheduler_config.json",
}


def assert_short(error: BaseException) -> None:
    assert len(str(error)) < 3000
    assert len(str(error).splitlines()) == 1


@pytest.mark.parametrize("kind", FILES)
def test_a_folder_of_odd_values(tmp_path: Path, kind: fields.Kind) -> None:
    """A third of the values for each field, in turn."""
    diffusers_folder.write_config(tmp_path, PRESETS["tiny-sdxl"])
    path = tmp_path / FILES[kind]
    document = json.loads(path.read_text())
    for i, field in enumerate(sorted(fields.READ[kind] | document.keys())):
        for value in ODD[i % 3 :: 3]:
            path.write_text(json.dumps(document | {field: value}))
            try:
                diffusers_folder.describe(tmp_path)
            except DiffuscopeError as error:
                assert_short(error)


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        ("text_encoder", "architectures", 5),
        ("scheduler", "num_train_timesteps", float("inf")),
        ("scheduler", "num_train_timesteps", 999.5),
        ("scheduler", "num_train_timesteps", "1000"),
        ("scheduler", "steps_offset", True),
        ("scheduler", "beta_start", "0.1"),
        ("scheduler", "beta_end", 10**400),
    ],
)
def test_a_value_of_another_type_is_named_with_its_field(tmp_path: Path, kind: str, field: str, value: object) -> None:
    """Not converted: 999.5 steps would silently be 999."""
    diffusers_folder.write_config(tmp_path, PRESETS["tiny-sdxl"])
    path = tmp_path / FILES[kind]
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: value, "_class_name": "DDIMScheduler"}))
    with pytest.raises(WeightsError, match=f"{FILES[kind]} has {field} = .*, expected a "):
        diffusers_folder.describe(tmp_path)


@pytest.mark.parametrize(
    ("part", "field", "value"),
    [
        ("schedule", "steps_offset", -1),
        ("schedule", "sigma_min", -1.0),
        ("preset", "upscale", -4),
        ("preset", "upscale", 2),
    ],
)
def test_a_value_beyond_its_range_is_refused_on_loading(tmp_path: Path, part: str, field: str, value: float) -> None:
    """In our own folder, and in that of diffusers, whose scheduler's file has the first and whose index the preset."""
    document = json.loads(own_config.to_json(PRESETS["tiny-sdxl"]))
    document[part][field] = value
    with pytest.raises(WeightsError, match=rf"{field} (is )?{value}"):
        own_config.model_config(document, "the file", "save it again")
    diffusers_folder.write_config(tmp_path, PRESETS["tiny-sdxl"])
    path = tmp_path / FILES["scheduler" if part == "schedule" else "model_index"]
    theirs = json.loads(path.read_text())
    if part == "preset":
        theirs["_diffuscope"]["preset"][field] = value
    else:
        edm = {"_class_name": "EDMEulerScheduler"} if field == "sigma_min" else {}
        theirs |= {field: value} | edm
        index = tmp_path / FILES["model_index"]
        scheduler = ["diffusers", theirs["_class_name"]]
        index.write_text(json.dumps(json.loads(index.read_text()) | {"scheduler": scheduler}))
    path.write_text(json.dumps(theirs))
    with pytest.raises(WeightsError, match=str(value) if field != "sigma_min" else r"-2\.0"):
        diffusers_folder.describe(tmp_path)


def test_our_own_configuration_of_odd_values() -> None:
    document = json.loads(own_config.to_json(PRESETS["tiny-sdxl"]))
    for part, inner in document.items():
        for i, field in enumerate(inner if isinstance(inner, dict) else ()):
            for value in ODD[i % 3 :: 3]:
                try:
                    own_config.from_json(document | {part: inner | {field: value}})
                except (
                    ValueError,
                    TypeError,
                    OverflowError,
                ) as error:  # what a folder's reader makes a WeightsError of
                    assert_short(error)
        for value in ODD:
            try:
                own_config.from_json(document | {part: value})
            except (ValueError, TypeError, OverflowError) as error:
                assert_short(error)
