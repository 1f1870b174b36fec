from dataclasses import replace

import pytest
import torch

from caption_parser import CaptionParser
from diffuscope.data.corpus import Corpus, Picture
from diffuscope.data.split import colour_key, split
from diffuscope.errors import InputError
from diffuscope.evaluate import questions, words
from diffuscope.evaluate.material import Material
from diffuscope.evaluate.scores import EXAMS, colours_right, make_exam, real_pictures


def pair(material, question):
    picture = material.pictures[question.row]
    return picture.concept, picture.style


def test_held_out_and_seen_share_nothing(material):
    held = {pair(material, question) for question in questions.held_out(material)}
    seen = {pair(material, question) for question in questions.seen(material)}
    assert held == {(c, s) for c, s in material.split.styles if c in material.split.concepts}
    assert not held & seen
    assert not seen & material.split.styles
    assert len(seen) == len(material.split.concepts)


def test_every_prompt_is_a_caption_that_says_what_is_asked(material):
    names = {picture.name for picture in material.pictures} | {"apple"} | set(words.TAG_WORDS)
    reader = CaptionParser(names)
    for ask in EXAMS.values():
        for question in ask(material):
            caption = reader.parse(question.prompt)
            assert caption is not None, question.prompt
            assert (caption.style, caption.background) == (question.style, question.background)
            assert caption.things[0].colour == question.colour or question.colour in caption.things[0].name
            assert question.word is None or caption.things[0].name == question.word


def test_colours_are_those_never_trained_on(material):
    asked = questions.colours(material)
    assert asked
    for question in asked:
        assert (question.colour, colour_key(material.pictures[question.row].name)) in material.split.colours
        assert question.colour != "white"


def test_things_stand_out_from_their_backgrounds(material):
    asked = questions.both(material)
    assert len(asked) == 10 * len(material.split.concepts)
    assert all(question.colour != question.background for question in asked)


def test_tag_words_stand_in_no_name(material):
    assert {question.word for question in questions.tag_words(material)} == {"burger", "kitten", "cab", "fir"}
    assert material.telling["burger"] == {"hamburger"}


def test_a_word_that_is_part_of_a_name_is_not_known_from_tags_alone(corpus_file):
    corpus = Corpus.load(corpus_file)
    called = Picture("noto", "burger king", (), "objects", "burger-king", corpus.pictures[0].svg)
    telling = words.telling(Corpus((*corpus.pictures, called)), split(corpus))
    assert "burger" not in telling
    assert "kitten" in telling


def test_an_exam_has_enough_pictures_and_does_not_depend_on_the_order(material):
    asked = questions.tag_words(material)
    exam = questions.exam(asked, 10)
    assert (len(exam.questions), exam.each, len(exam.prompts)) == (4, 3, 12)
    assert questions.exam(reversed(asked), 10) == exam
    assert questions.exam(asked, 2).questions == exam.questions[:2]


def test_what_cannot_be_judged_is_not_asked(material):
    asked = questions.both(material)
    exam = questions.exam(asked, 5, lambda part: ["green" in question.prompt for question in part])
    assert len(exam.questions) == 5
    assert all("green" in question.prompt for question in exam.questions)


@pytest.mark.parametrize("name", ["colours", "colours_of_one_style", "backgrounds", "both"])
def test_real_pictures_answer_every_question_of_colour(material, name):
    exam = make_exam(material, name, 20)
    assert exam.questions
    right = colours_right(real_pictures(material, exam.questions), exam.questions)
    assert all(value.all() for value in right.values())
    wrong = [
        replace(q, colour=q.colour and "cyan", background=q.background and "pink")  # None stays None
        for q in exam.questions
    ]
    changed = colours_right(real_pictures(material, wrong), exam.questions)
    assert all(value.float().mean() < 0.5 for value in changed.values())


def test_a_question_of_colour_is_right_in_every_style(material):
    """A sprite without a hue keeps its grays whatever it is asked for: nobody is asked for colours of its thing."""
    question = next(one for one in make_exam(material, "colours", 20).questions if one.colour == "blue")
    every = questions.in_every_style(material, question)
    assert len({material.pictures[one.row].style for one in every}) == len(every) > 1
    sprites = material.canvas.sprites.clone()
    sprites[next(one.row for one in every if one.row != question.row), :3] = 150
    changed = replace(material, canvas=replace(material.canvas, sprites=sprites))
    asked = make_exam(changed, "colours", 20).questions
    assert asked
    assert question.prompt not in {one.prompt for one in asked}
    assert question in make_exam(changed, "colours_of_one_style", 20).questions


def test_real_pictures_are_those_that_training_sees(material):
    row = questions.seen(material)[0].row
    rgba = material.canvas.sprites[row].float() / 255
    expected = (rgba[:3] * rgba[3:] + 1 - rgba[3:]) * 255
    assert (material.drawn([row])[0].float() - expected).abs().max() <= 0.51


def test_a_corpus_without_held_out_pairs_cannot_be_scored(corpus_file, tmp_path):
    few = Corpus(tuple(p for p in Corpus.load(corpus_file).pictures if p.style == "noto"))
    few.save(tmp_path / "few.xz")
    with pytest.raises(InputError, match="scores need both"):
        Material.load(tmp_path / "few.xz", torch.device("cpu"), size=32, processes=1)
