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
