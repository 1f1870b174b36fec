"""Settings of other programs, in the very form in which each writes them: used, or named as not used."""

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from sd_parsers import ParserManager

from diffuscope.cli.info_image import command
from diffuscope.metadata import infotext, read_texts, settings_of
from diffuscope.pipeline import Pipeline
from diffuscope.request import Request
from foreign_settings import FORMS, GRAPH, INVOKEAI, INVOKEAI_2, NOVELAI, WEBUI


def png(path: Path, texts: dict[str, str]) -> Path:
    chunks = PngInfo()
    for key, text in texts.items():
        chunks.add_text(key, text)
    Image.new("RGB", (8, 8)).save(path, pnginfo=chunks)
    return path


@pytest.mark.parametrize(("texts", "options", "unused"), FORMS.values(), ids=FORMS)
def test_each_program_s_settings_are_used_or_named(
    tmp_path: Path, texts: dict[str, str], options: dict[str, Any], unused: set[str]
) -> None:
    found, others = settings_of(read_texts(png(tmp_path / "a.png", texts)).texts)
    assert found is not None
    assert found.options == options
    assert found.unused.keys() == unused
    assert len(others) == len(texts) - 1


@pytest.mark.parametrize("form", ["web UI", "ComfyUI", "NovelAI"])
def test_another_reader_finds_the_same(tmp_path: Path, form: str) -> None:
    """sd-parsers, of the same file."""
    texts, options, _ = FORMS[form]
    if form == "ComfyUI":  # it does not follow links to texts
        spelled = {"6": {"class_type": "CLIPTextEncode", "inputs": {"text": GRAPH["12"]["inputs"]["value"]}}}
        kinds = {"positive": "CONDITIONING", "negative": "CONDITIONING", "clip": "CLIP", "model": "MODEL"}
        links = [
            [0, value[0], value[1], name, 0, kinds.get(key, "LATENT")]
            for name, node in (GRAPH | spelled).items()
            for key, value in node["inputs"].items()
            if isinstance(value, list)
        ]
        texts = {"prompt": json.dumps(GRAPH | spelled), "workflow": json.dumps({"links": links})}
    theirs = ParserManager().parse(png(tmp_path / "a.png", texts))
    assert theirs is not None
    (sampler,) = theirs.samplers
    assert str(sampler.parameters["seed"]) == str(options["seed"])
    assert float(sampler.parameters["cfg_scale"]) == options["guidance_scale"]
    assert options["prompt"].startswith(str(theirs.prompts[0].value))
    assert options["negative_prompt"] == str(theirs.negative_prompts[0].value)


@pytest.mark.parametrize("suffix", ["jpg", "webp"])
def test_the_web_ui_writes_exif_into_other_formats(tmp_path: Path, suffix: str) -> None:
    """UTF-16 of the order that the web UI's library writes, and of the other one."""
    for codec in ("utf-16-be", "utf-16-le"):
        exif = Image.Exif()
        exif.get_ifd(0x8769)[0x9286] = b"UNICODE\0" + WEBUI.replace("fox", "狐").encode(codec)
        path = tmp_path / f"a.{suffix}"
        Image.new("RGB", (8, 8)).save(path, exif=exif)
        found, others = settings_of(read_texts(path).texts)
        assert found is not None
        assert found.options == FORMS["web UI"][1] | {"prompt": "masterpiece, (red 狐:1.2), snow"}
        assert others == {}


def test_comfyui_writes_a_webp_s_camera(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0110] = f"prompt:{json.dumps(GRAPH)}"
    exif[0x010F] = f"workflow:{json.dumps({})}"
    Image.new("RGB", (8, 8)).save(tmp_path / "a.webp", exif=exif)
    found, others = settings_of(read_texts(tmp_path / "a.webp").texts)
    assert found is not None
    assert found.options == FORMS["ComfyUI"][1]
    assert others == {"EXIF Make": "workflow:{}"}


def test_what_we_write_is_read_back(tiny: Pipeline, tmp_path: Path) -> None:
    """Also by those who drop our receipt."""
    call = Request(
        'a "red", fox\nin snow',
        negative_prompt="blue, green",
        seed=7,
        sampler="dpmpp_2m",
        sigmas="sgm_uniform",
        clip_skip=1,
        upscale=4,
    )
    (path,) = tiny(call).save(tmp_path / "out.png")
    found, _ = settings_of({"parameters": read_texts(path).texts["parameters"]})
    assert found is not None
    assert found.program.startswith("diffuscope ")
    for name in ("seed", "sampler", "sigmas", "clip_skip", "upscale"):
        assert found.options[name] == getattr(call, name)
    assert (found.options["prompt"], found.options["negative_prompt"]) == (call.prompt, call.negative_prompt)
    assert found.unused.keys() == {"Model hash", "VAE hash"}
    assert found.notes == []


@pytest.mark.parametrize(
    ("line", "options"),
    [
        ("Sampler: Euler a", {"sampler": "euler_ancestral"}),
        ("Sampler: DPM++ 2M Karras", {"sampler": "dpmpp_2m", "sigmas": "karras"}),
        ("Sampler: DPM++ 3M SDE", {"sampler": "dpmpp_3m_sde", "sigmas": "exponential"}),
        ("Sampler: Euler, Schedule type: Uniform", {"sampler": "euler", "sigmas": "linspace"}),
        ("Sampler: Nobody's, Schedule type: Align Your Steps", {}),
        ("Sampler: Euler, Denoising strength: 0.4", {"sampler": "euler", "strength": 0.4}),
        ("Sampler: Euler, Denoising strength: 0.4, Hires upscale: 2", {"sampler": "euler"}),
    ],
)
def test_samplers_and_strengths_of_the_web_ui(line: str, options: dict[str, Any]) -> None:
    found, _ = settings_of({"parameters": f"fox\nSteps: 5, {line}, Seed: 1"})
    assert found is not None
    assert found.options == {"prompt": "fox", "num_inference_steps": 5, "seed": 1, **options}
    named = {part.split(":")[0] for part in line.split(", ")} - {"Schedule type"}
    assert len(found.unused) == 2 * ("Nobody" in line) + 2 * ("Hires" in line)
    assert found.unused.keys() <= named | {"Schedule type"}


def test_a_command_survives_the_shell() -> None:
    options = {"prompt": 'it\'s a "fox" $HOME `ls` \n狐', "negative_prompt": "-blue", "seed": 3, "guidance_scale": -1.0}
    words = shlex.split(command(options))
    assert words == [
        "diffuscope", "generate", options["prompt"], "--negative-prompt=-blue", "--seed", "3", "--guidance-scale=-1",
    ]  # fmt: skip


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
DOCUMENTS = {"invokeai_metadata": INVOKEAI, "sd-metadata": INVOKEAI_2, "Comment": NOVELAI, "prompt": GRAPH}


@settings(max_examples=150)
@given(key=st.sampled_from(sorted(DOCUMENTS)), data=st.data())
def test_any_value_anywhere_is_used_or_named(key: str, data: st.DataObject) -> None:
    """No shape of a stranger's JSON is an error; every value that is not null is an option or is named."""
    document = json.loads(json.dumps(DOCUMENTS[key]))
    owner = data.draw(st.sampled_from([each for each in _objects(document) if each]))
    name = data.draw(st.sampled_from(sorted(owner)))
    owner[name] = data.draw(VALUES)
    found, others = settings_of({key: json.dumps(document), "x": "y"})
    assert others.keys() - {key} == {"x"}
    if found is not None:
        command(found.options)
        Request.from_dict({k: v for k, v in found.options.items() if k not in ("model", "vae")})


def _objects(value: Any) -> list[dict[str, Any]]:
    if isinstance(value, list):
        return [each for part in value for each in _objects(part)]
    return [value, *(each for part in value.values() for each in _objects(part))] if isinstance(value, dict) else []


@settings(max_examples=200)
@given(st.text() | st.from_regex(r"\A[ -~\n]*\nSteps: \d+, [A-Za-z ]+: [^\n]*\Z"))
def test_any_text_is_a_prompt_or_settings(text: str) -> None:
    found, _ = settings_of({"parameters": text})
    assert found is not None
    assert "prompt" in found.options or found.unused


@pytest.mark.parametrize(("prompt", "syntax"), [("a fox", None), ("a [fox:cat:0.5]", "a1111"), ("fox, " * 60, "a1111")])
def test_prompts_with_signs_are_read_as_their_program_reads_them(prompt: str, syntax: str | None) -> None:
    """Weights and long prompts; a plain prompt needs no option, since it is the same in every syntax."""
    found = infotext.parse(f"{prompt}\nSteps: 20, Sampler: Euler, CFG scale: 7, Seed: 1, Size: 64x64")
    assert found.options.get("prompt_syntax") == syntax
