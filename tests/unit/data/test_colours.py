import pytest
import torch

from diffuscope.data import palette
from diffuscope.data.colours import (
    dominant_tones,
    dominant_word,
    oklab,
    polar,
    recolour,
    recolour_to_word,
    srgb,
    word_tones,
)
from diffuscope.data.palette import COLOUR_WORDS, COLOURS


def flat(*rgb: int, size: int = 8) -> torch.Tensor:
    """[1,3,size,size] of one colour, in [0,1]."""
    return torch.tensor(rgb, dtype=torch.float64).view(1, 3, 1, 1).expand(1, 3, size, size) / 255


def sprite(rgb: torch.Tensor) -> torch.Tensor:
    """The opaque uint8 RGBA of [1,3,H,W]."""
    return (torch.cat([rgb, torch.ones_like(rgb[:, :1])], 1) * 255).round().byte()


def test_oklab_known_values():
    """The pairs of Ottosson's article, through XYZ of the sRGB primaries; white is (1, 0, 0)."""
    white, red = oklab(flat(255, 255, 255))[0, :, 0, 0], oklab(flat(255, 0, 0))[0, :, 0, 0]
    torch.testing.assert_close(white, torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64), atol=1e-4, rtol=0)
    torch.testing.assert_close(red, torch.tensor([0.62796, 0.22486, 0.12585], dtype=torch.float64), atol=1e-4, rtol=0)


def test_there_and_back():
    rgb = torch.rand(4, 3, 5, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    torch.testing.assert_close(srgb(oklab(rgb)), rgb, atol=1e-7, rtol=0)


@pytest.mark.parametrize("word", COLOUR_WORDS)
def test_tensor_and_scalar_oklab_agree(word):
    tensor = oklab(flat(*COLOURS[word]))[0, :, 0, 0]
    torch.testing.assert_close(
        tensor, torch.tensor(palette.oklab(*COLOURS[word]), dtype=torch.float64), atol=1e-12, rtol=0
    )


@pytest.mark.parametrize("word", ["red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink", "brown"])
def test_a_flat_colour_leads(word):
    tone = dominant_tones(sprite(flat(*COLOURS[word])))[0].double()
    light, chroma, hue = (value[0, 0, 0] for value in polar(oklab(flat(*COLOURS[word]))))
    torch.testing.assert_close(tone, torch.stack([light, chroma, hue, torch.ones(())]), atol=2e-3, rtol=0)


def test_gray_leads_only_without_a_hue():
    rgb = flat(128, 128, 128).clone()
    assert dominant_tones(sprite(rgb))[0, 1] == 0
    rgb[..., :3] = flat(222, 45, 38)[..., :3]
    tone = dominant_tones(sprite(rgb))[0]
    assert tone[1] > 0.1
    assert tone[3] == pytest.approx(3 / 8)


def test_nothing_leads_in_a_confetti():
    words = ["red", "yellow", "green", "blue", "purple", "black", "white", "cyan"]
    stripes = torch.cat([flat(*COLOURS[word])[..., :1] for word in words], dim=-1)
    assert dominant_tones(sprite(stripes))[0, 3] < palette.MIN_SHARE


@pytest.mark.parametrize("old", ["red", "blue", "yellow", "gray", "black", "white", "brown"])
def test_recolouring_gives_the_colour_asked_and_can_be_undone(old):
    before = flat(*COLOURS[old]).float()
    tone = dominant_tones(sprite(before))
    for new, target in zip(COLOUR_WORDS, word_tones(tone), strict=True):
        after = recolour(before, tone, target[None])
        torch.testing.assert_close(after, flat(*COLOURS[new]).float(), atol=0.02, rtol=0)
        back = recolour(after, dominant_tones(sprite(after)), word_tones(tone)[[COLOUR_WORDS.index(old)]])
        torch.testing.assert_close(back, before, atol=0.03, rtol=0)


def test_other_colours_and_shading_stay():
    rgb = flat(200, 40, 40).float().clone()
    rgb[..., 4] = flat(120, 20, 20)[..., 0]  # a shadow of the same hue
    rgb[..., 7] = flat(255, 255, 255)[..., 0]
    rgb[..., 6] = flat(30, 100, 230)[..., 0]
    tone = dominant_tones(sprite(rgb))
    after = recolour(rgb, tone, word_tones(tone)[[COLOUR_WORDS.index("green")]])
    torch.testing.assert_close(after[..., 6:], rgb[..., 6:], atol=1e-3, rtol=0)
    light = oklab(after)[0, 0, 0]
    assert light[4] < light[0] - 0.1
    assert after[0, 1, 0, 4] > after[0, 0, 0, 4]


def test_leading_word():
    tones = dominant_tones(torch.cat([sprite(flat(*COLOURS[word])) for word in COLOUR_WORDS]))
    assert dominant_word(tones).tolist() == list(range(len(COLOUR_WORDS)))
    tones[3, 3] = 0
    assert dominant_word(tones).tolist()[3] == -1


def two(left: str, right: str, part: int) -> torch.Tensor:
    """[1,4,8,8] RGBA in [0,1]: ``part`` columns of one colour, the others of the other."""
    rgb = flat(*COLOURS[left]).float().clone()
    rgb[..., part:] = flat(*COLOURS[right]).float()[..., part:]
    return torch.cat([rgb, torch.ones_like(rgb[:, :1])], 1)


@pytest.mark.parametrize("word", COLOUR_WORDS)
def test_a_colour_given_leads_and_light_and_shade_stay(word):
    given = two("green", "yellow", 5)
    before = given.clone()
    tone = dominant_tones((given * 255).round().byte())
    after = recolour_to_word(given, tone, torch.tensor([COLOUR_WORDS.index(word)]))
    assert torch.equal(given, before)
    assert dominant_word(dominant_tones(sprite(after))).tolist() == [COLOUR_WORDS.index(word)]
    if word in ("black", "gray", "white", "brown"):  # the yellow would lead: it turns too, and stays the lighter part
        light, chroma, _ = polar(oklab(after))
        assert chroma.max() < 0.1
        assert light[..., -1].min() >= light[..., 0].max()


def test_a_small_part_of_another_colour_stays_where_the_word_leads_clearly():
    given = two("green", "yellow", 7)
    after = recolour_to_word(
        given, dominant_tones((given * 255).round().byte()), torch.tensor([COLOUR_WORDS.index("blue")])
    )
    torch.testing.assert_close(after[..., 7], given[:, :3, :, 7], atol=1e-3, rtol=0)


def test_pictures_are_coloured_each_by_itself():
    given = torch.cat([two("green", "yellow", 7), two("green", "yellow", 5), two("red", "blue", 4)])
    tone, word = dominant_tones((given * 255).round().byte()), torch.tensor([9, 9, 3])
    alone = [recolour_to_word(*(value[i : i + 1] for value in (given, tone, word))) for i in range(3)]
    torch.testing.assert_close(recolour_to_word(given, tone, word), torch.cat(alone), atol=1e-6, rtol=0)


def test_a_large_part_of_another_colour_turns_although_the_word_would_just_lead():
    """Blue has 35 parts of 64 and leads, with three fifths of them it would not: the green turns too."""
    given = torch.cat([two("red", "green", 5)] * 7 + [two("red", "green", 0)], 2)
    tone, blue = dominant_tones((given * 255).round().byte()), torch.tensor([COLOUR_WORDS.index("blue")])
    some = recolour(given[:, :3], tone, word_tones(tone)[blue])
    assert dominant_word(dominant_tones(sprite(some))).tolist() == blue.tolist()
    after = recolour_to_word(given, tone, blue)
    assert (after[:, 2] > after[:, 1]).all()
