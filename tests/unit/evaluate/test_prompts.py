from dataclasses import replace

import pytest
import torch

from caption_parser import CaptionParser
from diffuscope.data.captions import PLACES
from diffuscope.data.corpus import Corpus, Picture
from diffuscope.data.split import colour_key, split
from diffuscope.evaluate import prompts, tag_words
from diffuscope.evaluate.eval_data import EvalData
from diffuscope.evaluate.scores import PROMPT_SETS, is_at, make_prompt_set, measured, real_images
from refusals import refused


def pair(data, prompt):
    picture = data.pictures[prompt.row]
    return picture.concept, picture.style


def test_held_out_and_seen_share_nothing(data):
    held = {pair(data, prompt) for prompt in prompts.held_out(data)}
    seen = {pair(data, prompt) for prompt in prompts.seen(data)}
    assert held == {(c, s) for c, s in data.split.styles if c in data.split.concepts}
    assert not held & seen
    assert not seen & data.split.styles
    assert len(seen) == len(data.split.concepts)


def test_every_prompt_is_a_caption_with_its_own_attributes(data):
    names = {picture.name for picture in data.pictures} | {"apple"} | set(tag_words.TAG_WORDS)
    reader = CaptionParser(names)
    for make in PROMPT_SETS.values():
        for prompt in make(data):
            caption = reader.parse(prompt.text)
            assert caption is not None, prompt.text
            assert (caption.style, caption.background) == (prompt.style, prompt.background)
            assert caption.things[0].colour == prompt.colour or prompt.colour in caption.things[0].name
            assert prompt.word is None or caption.things[0].name == prompt.word
            assert (caption.count, caption.place) == (prompt.count, prompt.place)
            assert len(prompt.at) == prompt.count


def test_colours_are_those_never_trained_on(data):
    listed = prompts.colours(data)
    assert listed
    for prompt in listed:
        assert (prompt.colour, colour_key(data.pictures[prompt.row].name)) in data.split.colours
        assert prompt.colour != "white"


def test_things_stand_out_from_their_backgrounds(data):
    listed = prompts.both(data)
    assert len(listed) == 10 * len(data.split.concepts)
    assert all(prompt.colour != prompt.background for prompt in listed)


def test_an_icon_is_asked_for_as_the_thing_that_it_shows(data):
    (prompt,) = prompts.icons(data)
    assert (prompt.text, prompt.concept) == ("a rocket, freehand style", "rocket")
    assert data.pictures[prompt.row].name == "rocket flight"


def test_all_everyday_concepts_are_asked_for_in_held_out_styles(data):
    held = {pair(data, prompt) for prompt in prompts.held_out_everyday(data)}
    assert held == {(c, s) for c, s in data.split.styles if c in data.everyday}
    assert set(data.split.concepts) <= set(data.everyday)


def test_the_place_of_a_thing_is_measured(data):
    listed = prompts.several(data)
    assert {prompt.place for prompt in listed} == set(PLACES)
    images, places = real_images(data, listed), [prompt.place or "" for prompt in listed]
    assert is_at(images, places).float().mean() > 0.9
    assert not is_at(images, [*places[1:], places[0]]).any()
    assert not is_at(torch.full_like(images[:1], 255), places[:1]).any()  # nothing is nowhere


def test_tag_words_stand_in_no_name(data):
    assert {prompt.word for prompt in prompts.tag_words(data)} == {"burger", "kitten", "cab", "fir"}
    assert data.tag_words["burger"] == {"hamburger"}


def test_a_word_that_is_part_of_a_name_is_not_known_from_tags_alone(corpus_file):
    corpus = Corpus.load(corpus_file)
    called = Picture("noto", "burger king", (), "objects", "burger-king", corpus.pictures[0].svg)
    words = tag_words.tag_only_words(Corpus((*corpus.pictures, called)), split(corpus))
    assert "burger" not in words
    assert "kitten" in words


def test_a_prompt_set_has_enough_images_and_does_not_depend_on_the_order(data):
    listed = prompts.tag_words(data)
    chosen = prompts.prompt_set(listed, 10)
    assert (len(chosen.prompts), chosen.images_per_prompt, len(chosen.texts)) == (4, 3, 12)
    assert prompts.prompt_set(reversed(listed), 10) == chosen
    assert prompts.prompt_set(listed, 2).prompts == chosen.prompts[:2]


def test_invalid_prompts_are_left_out(data):
    listed = prompts.both(data)
    chosen = prompts.prompt_set(listed, 5, lambda part: ["green" in prompt.text for prompt in part])
    assert len(chosen.prompts) == 5
    assert all("green" in prompt.text for prompt in chosen.prompts)


@pytest.mark.parametrize("name", ["colours", "colours_of_one_style", "backgrounds", "both", "counts", "several"])
def test_real_images_are_correct_for_every_colour_prompt(data, name):
    chosen = make_prompt_set(data, name, 20)
    assert chosen.prompts
    correct = measured(real_images(data, chosen.prompts), chosen.prompts)
    assert all(value.all() for value in correct.values())
    wrong = [
        replace(
            q,
            colour=q.colour and "cyan",
            background=q.background and "pink",  # None stays None
            at=((0.5, 0.2, 0.3),) if q.place else q.at[:-1] or q.at,
        )
        for q in chosen.prompts
    ]
    changed = measured(real_images(data, wrong), chosen.prompts)
    assert all(value.float().mean() < 0.5 for value in changed.values())


def test_a_colour_prompt_is_correct_in_every_style(data):
    """A sprite without a hue keeps its grays whatever it is listed for: nobody is listed for colours of its thing."""
    prompt = next(one for one in make_prompt_set(data, "colours", 20).prompts if one.colour == "blue")
    every = prompts.in_every_style(data, prompt)
    assert len({data.pictures[one.row].style for one in every}) == len(every) > 1
    sprites = data.canvas.sprites.clone()
    sprites[next(one.row for one in every if one.row != prompt.row), :3] = 150
    changed = replace(data, canvas=replace(data.canvas, sprites=sprites))
    listed = make_prompt_set(changed, "colours", 20).prompts
    assert listed
    assert prompt.text not in {one.text for one in listed}
    assert prompt in make_prompt_set(changed, "colours_of_one_style", 20).prompts


def test_real_pictures_are_those_that_training_sees(data):
    row = prompts.seen(data)[0].row
    rgba = data.canvas.sprites[row].float() / 255
    expected = (rgba[:3] * rgba[3:] + 1 - rgba[3:]) * 255
    assert (data.images([row])[0].float() - expected).abs().max() <= 0.51


def test_a_corpus_without_held_out_pairs_cannot_be_scored(corpus_file, tmp_path):
    few = Corpus(tuple(p for p in Corpus.load(corpus_file).pictures if p.style == "noto"))
    few.save(tmp_path / "few.xz")
    with refused("path"):
        EvalData.load(tmp_path / "few.xz", torch.device("cpu"), size=32, processes=1)
