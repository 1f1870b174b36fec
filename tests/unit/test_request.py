"""Request: every value survives JSON, every mistake is refused by its option's name, every option has every door."""

import inspect
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import pytest
import torch
from annotated_types import Ge, Gt, Interval, Le, Lt, MinLen
from hypothesis import example, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

import diffuscope as ds
from diffuscope.cli import main
from diffuscope.cli.flags import WITHOUT_FLAG, flag_of
from diffuscope.config import LEVELS
from diffuscope.errors import InputError
from diffuscope.pipeline import Pipeline
from diffuscope.pipeline.receipt import read, request_of
from diffuscope.request import LONGEST_TEXT, Branch, GuidanceOptions, Latents, Request, Thresholding
from diffuscope.schema import Option, Options, conformed, is_mapping, options, schema, split_annotated
from narrow import made
from refusals import refused

OPTIONS = {option.name: option for option in options(Request)}
NESTED = {"guidance_options": GuidanceOptions, "thresholding": Thresholding}
PATHS = {
    **{name: option for name, option in OPTIONS.items() if name not in NESTED},
    **{f"{name}.{option.name}": option for name, kind in NESTED.items() for option in options(kind)},
}
"""Every option with its path: "strength", "guidance_options.rescale"."""


def bounds(marks: Sequence[Any]) -> dict[str, Any]:
    """The bounds that are set, by their names: ge, gt, le, lt."""
    found: dict[str, Any] = {}
    for mark in marks:
        if isinstance(mark, Ge | Gt | Le | Lt | Interval):
            found |= {name: getattr(mark, name) for name in ("ge", "gt", "le", "lt") if hasattr(mark, name)}
    return {name: bound for name, bound in found.items() if bound is not None}


def values(hint: Any) -> st.SearchStrategy[Any]:
    """Values that fit an annotation."""
    base, marks = split_annotated(hint)
    origin, args = get_origin(base), get_args(base)
    limits = bounds(marks)
    lowest, highest = limits.get("ge", limits.get("gt")), limits.get("le", limits.get("lt"))
    if origin in (Union, UnionType):
        return st.one_of(*map(values, args))
    if origin is Literal:
        return st.sampled_from(args)
    if base is int:
        return st.integers(lowest, highest)
    if base is float:
        edges = {"exclude_min": "gt" in limits, "exclude_max": "lt" in limits}
        return st.floats(lowest, highest, allow_nan=False, allow_infinity=False, **edges)
    if base is Branch:
        return BRANCHES
    if isinstance(base, type) and is_dataclass(base):
        return instances(base)
    if is_mapping(origin):
        return st.dictionaries(st.text(), values(args[1]), max_size=3)
    if origin is tuple and args[-1] is not Ellipsis:
        return st.tuples(*map(values, args))
    if origin is not None:
        least = max((mark.min_length for mark in marks if isinstance(mark, MinLen)), default=0)
        return st.lists(values(args[0]), min_size=least, max_size=4)
    return {NoneType: st.none(), bool: st.booleans(), str: st.text(max_size=20)}[base]


def instances(kind: type[Options]) -> st.SearchStrategy[Any]:
    """Options of which some are set; what contradicts another is left out again, by the argument of the error."""

    def consistent(chosen: dict[str, Any]) -> Options:
        while (error := refusal(kind, **chosen)) is not None:
            del chosen[error.argument]
        return kind(**chosen)

    return st.fixed_dictionaries({}, optional={option.name: values(option.annotation) for option in options(kind)}).map(
        consistent
    )


BRANCHES = st.recursive(
    st.builds(Request, st.text(max_size=5), guidance_scale=st.floats(0, 9)),
    lambda inner: st.builds(
        lambda step, first, x: Request("a fox", branch=Branch(step, first, x)),
        st.integers(0, 1000),
        inner,
        st.none() | st.builds(Latents.of, st.builds(lambda c: torch.randn(1, c, 2, 3), st.integers(1, 4))),
    ),
    max_leaves=3,
).map(lambda first: Branch(3, first))
"""Branches of branches, with and without latents."""


def refusal(call: Callable[..., object], *args: object, **kwargs: object) -> InputError | None:
    """The error with which a call refuses."""
    try:
        call(*args, **kwargs)
    except InputError as error:
        return error
    return None


JUNK = st.one_of(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    st.lists(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3), max_size=3),
    st.dictionaries(st.sampled_from(["rescale", "end", "limit", "eta", "x"]), st.integers() | st.text(), max_size=2),
)


def test_the_longest_text_is_taken_and_one_letter_more_is_counted() -> None:
    assert Request("x" * LONGEST_TEXT).prompt == "x" * LONGEST_TEXT
    with refused("prompt") as caught:
        Request("x" * (LONGEST_TEXT + 1))
    assert "at most 16,384 characters" in caught.value.want


@given(instances(Request))
def test_json_gives_the_same_request(request_: Request) -> None:
    text = request_.to_json()
    assert Request.from_json(text) == request_
    assert Request.from_json(text.encode()) == request_
    assert Request.from_dict(request_.to_dict()) == request_
    assert Request.from_json(text).to_json() == text


@given(st.sampled_from([*OPTIONS]), JUNK)
@example("strength", True)
@example("seed", 1.0)
@example("thresholding", {"limit": "x"})
def test_python_and_json_refuse_the_same_values(name: str, value: object) -> None:
    error = refusal(Request, **{name: value})
    in_json = refusal(Request.from_json, json.dumps({name: value}))
    if error is None:
        assert in_json is None
        assert Request.from_json(json.dumps({name: value})) == Request(**{name: value})
        return
    assert in_json is not None
    assert error.argument.partition(".")[0] == name
    assert str(error).startswith(f"{error.argument}: got ")
    assert in_json.argument == error.argument


@pytest.mark.parametrize("kind", [Request, *NESTED.values()])
def test_every_default_fits_as_it_is(kind: type[Options]) -> None:
    """So it is not checked again in each call."""
    for option in options(kind):
        fit = conformed(option.default, option.annotation, option.name)
        assert fit == option.default
        assert type(fit) is type(option.default)


def outside(option: Option) -> list[float]:
    """Numbers just beyond the bounds of an option that is one number."""
    annotation = option.annotation
    members = [split_annotated(member) for member in (annotation, *get_args(split_annotated(annotation)[0]))]
    limits = {name: bound for base, marks in members if base in (int, float) for name, bound in bounds(marks).items()}
    step = 1 if any(base is int for base, _ in members) else 1e-9
    beyond = {"ge": -step, "gt": 0, "le": step, "lt": 0}
    return [bound + beyond[name] for name, bound in limits.items()]


NUMBERS = {path: option for path, option in PATHS.items() if outside(option)}


def nested(path: str, value: object) -> dict[str, object]:
    """The keywords of a Request in which the option ``path`` has this value."""
    first, _, rest = path.partition(".")
    return {first: {rest: value}} if rest else {first: value}


@pytest.mark.parametrize("sigmas", [[], [1.0], ["x", 0.0]])
def test_what_a_list_of_noise_levels_must_be_is_said(sigmas: list[object]) -> None:
    with refused("sigmas", sigmas) as caught:
        Request(prompt="a fox", sigmas=sigmas)  # type: ignore[arg-type]
    assert LEVELS in caught.value.want
    assert "strictly decreasing" in LEVELS


@pytest.mark.parametrize("path", NUMBERS)
def test_numbers_beyond_their_range_are_refused(path: str) -> None:
    for value in (*outside(NUMBERS[path]), math.nan, math.inf, -math.inf, True, "1"):
        with refused(path):
            Request(**nested(path, value))


@pytest.mark.parametrize(
    ("text", "argument"),
    [
        ('{"strenght": 0.5}', "strenght"),
        ('{"guidance_options": {"scale": 1}}', "guidance_options.scale"),
        ('{"thresholding": {"most": 1}}', "thresholding.most"),
        ('{"strength": "0.5"}', "strength"),
        ('{"strength": 2}', "strength"),
        ('{"strength": NaN}', "strength"),
        ('{"guidance_scale": Infinity}', "guidance_scale"),
        ('{"guidance_options": {"end": -Infinity}}', "guidance_options.end"),
        ('{"seed": 1, "seed": 2}', "seed"),
        ('{"sampler_options": {"eta": 1, "eta": 0}}', "eta"),
        ('{"sampler_options": {"eta": null}}', "sampler_options.eta"),
        ('{"branch": {"step": 1}}', "branch.request"),
        ('{"branch": {"step": -1, "request": {}}}', "branch.step"),
        ('{"branch": {"step": 1, "request": {"strength": 2}}}', "branch.request.strength"),
        ('{"branch": {"step": 1, "request": {}, "x": {"shape": [1, 4, 2, 2], "data": "AAAA"}}}', "branch.x.data"),
        ('{"branch": {"step": 1, "request": {}, "x": {"shape": [1, 1, 1, 1], "data": "????AA=="}}}', "branch.x.data"),
        ('{"branch": {"step": 1, "request": ' * 400 + "{}" + "}}" * 400, "branch.request"),
        ('{"prompt": []}', "prompt"),
        ('{"prompt": "\\ud83e"}', "prompt"),
        (json.dumps({"prompt": "x" * (LONGEST_TEXT + 1)}), "prompt"),
        (json.dumps({"negative_prompt": ["a", "x" * (LONGEST_TEXT + 1)]}), "negative_prompt"),
        (json.dumps({"guidance_options": {"similarity": "x" * (LONGEST_TEXT + 1)}}), "guidance_options.similarity"),
        ('{"image": "in.png"}', "image"),
        ("[]", "json"),
        ("3", "json"),
        ("", "json"),
        ('{"prompt": "a"', "json"),
        ("[" * 100_000, "json"),
        (b"\xff", "json"),
    ],
)
def test_json_that_is_no_request(text: str | bytes, argument: str) -> None:
    with refused(argument):
        Request.from_json(text)


def test_every_option_is_a_keyword_of_both_calls() -> None:
    for call in (Pipeline.__call__, Pipeline.steps):
        parameters = inspect.signature(call).parameters
        assert [name for name in OPTIONS if name not in parameters] == []
        stated = {name: parameters[name].default for name in OPTIONS if name != "sampler_options"}  # made for each call
        assert stated == {name: OPTIONS[name].default for name in stated}


def test_help_has_every_argument_in_plain_types() -> None:
    for call, returned in ((Pipeline.__call__, "Result"), (Pipeline.steps, "Run"), (ds.load, "Pipeline")):
        signature, text = inspect.signature(call), call.__doc__ or ""
        assert signature.return_annotation.__name__ == returned
        assert "Annotated" not in str(signature)
        names = [name for name in signature.parameters if name != "self"]
        assert [name for name in names if f"\n    {name}: " not in text] == []


def test_help_is_true_at_every_door() -> None:
    """A form, a flag and a JSON object know no None and no dict; Python's own help adds what Python alone takes."""
    of_python = re.compile(r"\b(None|True|False|dict|Python|printed)\b|``|\[")
    stated = {path: option.help for path, option in PATHS.items()} | {"": schema(Request)["description"]}
    assert [path for path, text in stated.items() if of_python.search(text)] == []
    text = Pipeline.steps.__doc__ or ""
    assert [name for name, kind in NESTED.items() if f"{kind.__name__}, or a dict of its fields" not in text] == []


def test_a_misspelt_keyword_is_named_with_the_right_one() -> None:
    with pytest.raises(TypeError, match=r"Pipeline.steps\(\).*'guidance_scael'. Did you mean 'guidance_scale'"):
        Pipeline.steps(None, "a red fox", guidance_scael=7.5)
    with pytest.raises(TypeError, match=r"load\(\).*'devise'. Did you mean 'device'"):
        ds.load(devise="cpu")


def test_every_option_is_a_flag(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    assert main(["generate", "--help"]) == 0
    page = capsys.readouterr().out
    paths = {path: option for path, option in PATHS.items() if path not in WITHOUT_FLAG}
    missing = [path for path in paths if f"{flag_of(path)} " not in page and path != "prompt"]
    assert missing == []
    assert "PROMPT" in page
    assert [path for path, option in paths.items() if option.help.split()[0] not in page] == []


def test_every_option_is_a_property_of_the_schema() -> None:
    document = schema(Request)
    properties = document["properties"]
    assert list(properties) == list(OPTIONS)
    assert document["additionalProperties"] is False
    for name, kind in NESTED.items():
        assert list(properties[name]["properties"]) == [option.name for option in options(kind)]
        assert properties[name]["additionalProperties"] is False
    assert [name for name, about in properties.items() if not about["description"]] == []
    defaults = {name: about["default"] for name, about in properties.items()}
    assert Request.from_json(json.dumps(defaults)) == Request()


CALLS = [
    Request(
        ["a fox", "a hen"],
        negative_prompt="blue",
        clip_skip=1,
        prompt_syntax="comfyui",
        batch_size=3,
        num_images_per_prompt=2,
        seed=[5, 6, 7, 8],
        num_inference_steps=3,
        sampler="DDIM",
        sampler_options={"eta": 0.5},
        sigmas="karras",
        final_sigma="sigma_min",
        thresholding=Thresholding(ratio=0.9, max_value=2),
        guidance_scale=4,
        guidance_options=GuidanceOptions(rescale=0.5, end=1.0, shape="cosine", interval=(0.1, 9)),
        height=16,
        width=24,
        upscale=1,
        branch=Branch(1, Request(["a hen", "a fox"], guidance_scale=2)),
    ),
    Request(
        "a fox",
        seed=1,
        step_caching=2,
        token_merging=0.25,
        denoising_end=0.7,
        original_size=(64, 48),
        crops_coords_top_left=(1, 2),
        target_size=(32, 40),
    ),
]


VALIDATOR = Draft202012Validator(schema(Request))


@dataclass(frozen=True)
class Holder(Options):
    """Options that hold a request."""

    request: Request = field(default_factory=Request)
    """what to make"""


@settings(max_examples=25)
@given(instances(Request))
def test_another_validator_takes_what_a_request_writes(request_: Request) -> None:
    VALIDATOR.validate(json.loads(request_.to_json()))


def test_another_validator_refuses_by_the_schema_what_a_request_refuses() -> None:
    Draft202012Validator.check_schema(VALIDATOR.schema)
    wrong = [nested(path, value) for path, option in NUMBERS.items() for value in (*outside(option), "1")]
    wrong += [{"strenght": 1}, {"guidance_options": {"scale": 1}}, {"final_sigma": "one"}, {"seed": []}, {"prompt": 3}]
    wrong += [{name: "x" * (LONGEST_TEXT + 1)} for name in ("prompt", "negative_prompt")]
    assert [values for values in wrong if VALIDATOR.is_valid(values)] == []


def test_the_schema_of_options_that_hold_a_request() -> None:
    """It ends, though a request may hold another one."""
    document = schema(Holder)
    Draft202012Validator(document).validate({"request": CALLS[0].to_dict()})
    assert not Draft202012Validator(document).is_valid({"request": {"branch": {"step": 1, "request": 3}}})


def test_the_calls_below_set_every_option_but_those_of_an_image() -> None:
    unset = [name for name in OPTIONS if all(getattr(each, name) == OPTIONS[name].default for each in CALLS)]
    assert unset == ["image_guidance_scale", "strength", "denoising_start"]


@pytest.mark.parametrize(("request_", "family"), [(CALLS[0], "tiny"), (CALLS[1], "sdxl")])
def test_every_option_is_in_the_receipt_and_replayed(
    request_: Request, family: str, tiny: Pipeline, tmp_path: Path
) -> None:
    pipe = tiny if family == "tiny" else made(family)
    paths = pipe(request_).save(tmp_path / "out.png")
    receipt = read(paths[-1])
    assert OPTIONS.keys() <= receipt.keys()
    again = request_of(receipt)
    for name, option in OPTIONS.items():
        value = getattr(request_, name)
        if value != option.default and name not in ("prompt", "negative_prompt", "seed", "sampler", "branch"):
            assert getattr(again, name) == value, name
    assert ds.replay(paths[-1], model=pipe).identical


def test_options_of_an_image_are_in_the_receipt_and_replayed(tiny: Pipeline, tmp_path: Path) -> None:
    image = tiny("a hen", seed=2).images[0]
    (path,) = tiny(Request("a fox", seed=1, strength=0.6), image=image).save(tmp_path / "out.png")
    assert request_of(read(path)).strength == 0.6
    assert ds.replay(path, model=tiny, image=image).identical
    half = tiny(Request("a fox", seed=1, denoising_end=0.5)).latents
    (path,) = tiny(Request("a fox", seed=1, denoising_start=0.5), image=half).save(tmp_path / "second.png")
    assert request_of(read(path)).denoising_start == 0.5
    assert ds.replay(path, model=tiny, image=half).identical


def test_a_request_is_a_call(tiny: Pipeline) -> None:
    """In place of a prompt; keywords override its options, and mappings stand for nested ones."""
    result = tiny(CALLS[0], num_inference_steps=2, guidance_options={"end": 2.0})
    keywords = {name: getattr(CALLS[0], name) for name in OPTIONS}
    same = tiny(**keywords | {"num_inference_steps": 2, "guidance_options": GuidanceOptions(end=2.0)})
    assert (result.latents == same.latents).all()
    assert isinstance(result.receipt["guidance_options"], Mapping)
