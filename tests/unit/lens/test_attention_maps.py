"""Word maps: the sum they are defined as, on the word's own tokens, and clear errors for other words."""

import numpy as np
import torch
from PIL import Image

from diffuscope.lens.attention_maps import (
    CROSS_ATTENTION,
    AttentionCapture,
    AttentionMaps,
    combine_layers,
    gaussian_smooth,
    token_grid,
)
from diffuscope.lens.capture import Capture
from diffuscope.pipeline import Pipeline
from diffuscope.prompt.positions import token_positions
from refusals import refused


def test_maps_are_the_mean_of_all_steps_layers_and_heads(tiny: Pipeline) -> None:
    """Against every weight of the run, averaged at the end; both layers of TINY that attend are as fine."""
    prompt = "a hippopotamus and a fox"
    capture, every = (
        AttentionCapture("unet.[du]*.cross_attn.weights"),
        Capture("unet.[du]*.cross_attn.weights", reduce="all"),
    )
    tiny(prompt, seed=1, tap=capture)
    tiny(prompt, seed=1, tap=every)
    maps = capture.maps(tiny.tokenizer)
    assert maps.tokens.shape == (77, 16, 16)
    slow = torch.stack([every[name][:, 1].mean((0, 1)) for name in every.keys()]).mean(0)  # noqa: SIM118
    torch.testing.assert_close(maps.tokens, slow.T.reshape(77, 16, 16), rtol=1e-5, atol=1e-6)
    positions = list(token_positions("hippopotamus", prompt, tiny.tokenizer))
    assert torch.equal(maps.word("Hippopotamus"), maps.tokens[positions].mean(0))
    assert list(maps.words()) == ["a", "hippopotamus", "and", "fox"]


def test_each_picture_has_its_own_maps_and_they_add_up_to_one(tiny: Pipeline) -> None:
    capture = AttentionCapture()
    tiny(["a red fox", "two cats"], seed=1, num_images_per_prompt=2, tap=capture, height=24, width=40)
    maps = [capture.maps(tiny.tokenizer, image) for image in range(4)]
    assert [each.prompt for each in maps] == ["a red fox", "a red fox", "two cats", "two cats"]
    for each in maps:
        assert each.tokens.shape == (77, 12, 20)
        torch.testing.assert_close(each.tokens.sum(0), torch.ones(12, 20), atol=1e-4, rtol=0)
    alone = AttentionCapture()
    tiny("two cats", seed=3, tap=alone, height=24, width=40)
    torch.testing.assert_close(maps[2].tokens, alone.maps(tiny.tokenizer).tokens, atol=1e-4, rtol=0)


def test_a_map_made_by_hand_is_where_it_was_put(tiny: Pipeline) -> None:
    layer = torch.zeros(16, 77)
    layer[:, 0] = 0.9
    layer[3::4, 2] = 0.1  # the right column looks at "fox"
    maps = AttentionMaps(combine_layers([layer], (32, 32)), "red fox", tiny.tokenizer)
    assert maps.horizontal_centre("fox") > 0.8
    assert maps.peaks()["red"] == 0.0
    assert maps.peaks()["fox"] > 1.0
    picture = Image.new("RGB", (8, 8), "white")
    array = np.asarray(maps.overlay("fox", picture, 1.0)).astype(int)
    assert array[:, -1].mean() > array[:, 0].mean()
    assert maps.overlay("fox", picture, 0.0).tobytes() == picture.tobytes()
    with refused("word") as caught:
        maps.word("fxo")
    assert "fox" in caught.value.hint
    with refused("opacity", 2.0):
        maps.overlay("fox", picture, 2.0)


def test_without_guidance_the_only_rows_are_the_prompts(tiny: Pipeline) -> None:
    capture = AttentionCapture()
    tiny("a fox", seed=1, guidance_scale=1.0, tap=capture)
    assert capture.maps(tiny.tokenizer).tokens.shape == (77, 16, 16)
    with refused("image", 1):
        capture.maps(tiny.tokenizer, 1)


def test_what_is_no_cross_attention_is_refused(tiny: Pipeline) -> None:
    with refused("names", "unet.conv_out"):
        tiny("a fox", tap=AttentionCapture("unet.conv_out"))
    with refused("image"):
        AttentionCapture(CROSS_ATTENTION).maps(tiny.tokenizer)


def test_grids_have_the_proportions_of_the_picture() -> None:
    assert token_grid(256, (32, 32)) == (16, 16)
    assert token_grid(24, (32, 48)) == (4, 6)
    assert token_grid(15, (24, 40)) == (3, 5)
    with refused("count", 13):
        token_grid(13, (32, 32))


def test_smoothing_keeps_a_constant() -> None:
    torch.testing.assert_close(gaussian_smooth(torch.full((1, 2, 4, 4), 0.3)), torch.full((1, 2, 4, 4), 0.3))


def test_words_of_a_weighted_prompt_have_their_own_maps(tiny: Pipeline) -> None:
    """Brackets and numbers are no words; the words after them stand where the text encoder reads them."""
    capture, call = AttentionCapture(), {"seed": 1, "num_inference_steps": 1}
    tiny("a (red:1.0) fox", tap=capture, prompt_syntax="comfyui", **call)
    weighted = capture.maps(tiny.tokenizer)
    tiny("a red fox", tap=capture, **call)
    plain = capture.maps(tiny.tokenizer)
    assert [*weighted.words()] == ["a", "red", "fox"]
    assert all(torch.equal(weighted.word(word), plain.word(word)) for word in plain.words())
    long = "(cat:1.0) " * 80 + "fox"
    tiny(long, negative_prompt=long, tap=capture, prompt_syntax="comfyui", **call)
    assert token_positions("fox", long, tiny.tokenizer, "comfyui") == (77 + 1 + 80 - 75,)
    assert capture.maps(tiny.tokenizer).word("fox").ndim == 2
