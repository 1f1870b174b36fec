"""What a notebook shows: short lines, and images; no numbers of tensors."""

import copy
import io

import pytest
import torch
from PIL import Image

import diffuscope as ds
from diffuscope.diffusion.samplers import TABLE
from diffuscope.lens.attention_maps import AttentionCapture
from diffuscope.lens.inversion import invert
from diffuscope.lens.recording import Record
from diffuscope.pipeline import Pipeline
from diffuscope.weights.store import files
from lora_files import kohya, layers
from refusals import refused


def test_lines_are_short_and_say_what_one_looks_for(quick: Pipeline) -> None:
    heat, record = AttentionCapture(), Record()
    run = quick.steps(["a red fox", "a cat"], seed=7, tap=heat, guidance=record)
    assert repr(run).startswith("Run('a red fox' and 1 more: 0 of 1 steps, sigma ")
    step = next(run)
    assert repr(run).endswith("1 of 1 steps, sigma 0)")
    assert repr(step) == "Step(index=0, sigma=0, x=[2, 4, 16, 16], x0=[2, 4, 16, 16])"
    result = run.result()
    assert repr(result) == f"Result(2 images of 32x32, seeds 7, 8{notes(result)})"
    assert repr(quick).startswith("Pipeline('tiny', float32 on cpu: 32x32, 1 steps of ")
    assert repr(TABLE["heun"]) == "SamplerInfo('heun', 'Heun', order 2, noise 'none')"
    encoded = quick.encode_prompt("a fox")
    states = quick.text_encoder(encoded.ids)
    inversion = invert(quick, Image.new("RGB", (32, 32)), steps=2)
    for each in (encoded, states, inversion, record, heat.maps(quick.tokenizer)):
        assert "tensor(" not in repr(each)
        assert len(repr(each)) < 400
    assert repr(encoded) == "Conditioning(embeddings=[1, 77, 32], ids=[1, 77], pooled=[1, 32])"


def notes(result: ds.Result) -> str:
    return "".join(f"; note: {note}" for note in result.notes)


def test_a_pipeline_names_its_loras(quick: Pipeline, tmp_path) -> None:
    pipe = Pipeline(copy.deepcopy(quick.components))
    files.write(tmp_path / "ink.safetensors", kohya(layers(pipe)))
    pipe.load_lora(tmp_path / "ink.safetensors", 0.5)
    assert repr(pipe).endswith("LoRA ink 0.5)")


@pytest.mark.parametrize(("count", "size"), [(1, (32, 32)), (2, (64, 32)), (5, (128, 64))])
def test_a_result_shows_its_images(quick: Pipeline, count: int, size: tuple[int, int]) -> None:
    result = quick("a fox", seed=1, num_images_per_prompt=count)
    with Image.open(io.BytesIO(result._repr_png_())) as shown:
        assert (shown.format, shown.size) == ("PNG", size)
        assert shown.convert("RGB").crop((0, 0, 32, 32)).tobytes() == result.images[0].tobytes()


def test_arrays_are_not_shown(quick: Pipeline) -> None:
    result = quick("a fox", seed=1, output_type="np")
    assert repr(result).startswith("ArrayResult(ndarray [1, 32, 32, 3], seed 1")
    assert result._repr_png_() is None


def test_conditioning_takes_text_states(quick: Pipeline) -> None:
    encoded = quick.encode_prompt(["a fox", "a cat"])
    by_tensor = quick(conditioning=encoded.embeddings, seed=1)
    assert torch.equal(by_tensor.latents, quick(conditioning=encoded, seed=1).latents)
    with refused("conditioning"):
        quick(conditioning=encoded.embeddings[0])
    with refused("conditioning", "a fox"):
        quick(conditioning="a fox")


def test_a_tap_that_changes_the_dtype_is_named(quick: Pipeline) -> None:
    with refused("tap") as caught:
        quick("a fox", tap={"unet.mid.resnet.0": lambda value: value.double()})
    assert "float64 on cpu for 'unet.mid.resnet.0'" in str(caught.value)
    assert "float32 on cpu" in caught.value.want
