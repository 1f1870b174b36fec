from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from diffuscope.data.split import Split
from diffuscope.errors import WeightsError
from diffuscope.evaluate import questions
from diffuscope.evaluate.judges import classes, load_classifier, load_tower, save_classifier
from diffuscope.evaluate.scores import real_pictures
from diffuscope.models.classifier import Classifier, ClassifierConfig
from diffuscope.weights.store import packing

CPU = torch.device("cpu")


def network(material) -> Classifier:
    torch.manual_seed(0)
    return Classifier(ClassifierConfig(classes=len(material.split.concepts), channels=(8, 16), blocks=1)).eval()


def test_a_classifier_comes_back_from_its_file(material, tmp_path):
    path = tmp_path / "classifier.safetensors"
    made = network(material)
    save_classifier(path, made, material.split)
    loaded = load_classifier(path, material.split, CPU)
    pictures = material.drawn(range(8))
    assert loaded.config == made.config
    assert torch.equal(classes(loaded, pictures), classes(made.half().float(), pictures))


def test_a_classifier_of_another_split_is_refused(material, tmp_path):
    path = tmp_path / "classifier.safetensors"
    save_classifier(path, network(material), material.split)
    other = Split(frozenset(), material.split.colours, material.split.concepts)
    with pytest.raises(WeightsError, match="may have seen what is held out"):
        load_classifier(path, other, CPU)


@pytest.mark.parametrize("metadata", [None, {"config": "{}"}, {"config": "[", "concepts": "[]", "split": ""}])
def test_what_is_no_classifier_is_refused(material, tmp_path, metadata):
    save_file({"x": torch.zeros(1)}, tmp_path / "x.safetensors", metadata)
    with pytest.raises(WeightsError, match="is no classifier"):
        load_classifier(tmp_path / "x.safetensors", material.split, CPU)


def test_the_picture_tower_is_found_by_name(tmp_path):
    matrix = torch.randn(4, 6)
    save_file({"picture.weight": matrix, "log_scale": torch.zeros(1)}, tmp_path / "towers.safetensors")
    assert torch.equal(load_tower(tmp_path / "towers.safetensors", CPU), matrix)
    save_file({"log_scale": torch.zeros(1)}, tmp_path / "none.safetensors")
    with pytest.raises(WeightsError, match=r"picture\.weight"):
        load_tower(tmp_path / "none.safetensors", CPU)


def test_the_picture_tower_that_ships_is_unpacked(tmp_path):
    matrix = torch.randn(64, 128) * torch.logspace(-2, 2, 64)[:, None]  # rows whose int8 scales differ
    packing.write(tmp_path / "towers.safetensors", {"picture.weight": matrix})
    loaded = load_tower(tmp_path / "towers.safetensors", CPU)
    assert ((loaded - matrix).abs() <= matrix.abs().amax(1, keepdim=True) / 254 + 1e-6).all()


def test_judges_answer_for_each_picture_of_each_question(judges, material):
    exam = questions.exam(questions.seen(material), 24)
    pictures = real_pictures(material, exam.questions).repeat_interleave(exam.each, 0)
    without = [question.style for question in exam.questions for _ in range(exam.each)]
    right = replace(judges, classifier=network(material)).names(exam, pictures, without)
    assert set(right) == {"r1", "r5", "towers", "classifier"}
    assert all(value.shape == (len(exam.questions), exam.each) for value in right.values())
    assert all(torch.equal(value[:, 0], value[:, 1]) for value in right.values())
    assert (right["r1"] <= right["r5"]).all()


def test_a_word_is_right_if_the_nearest_concept_carries_it(judges, material):
    exam = questions.exam(questions.tag_words(material), 4)
    pictures = real_pictures(material, exam.questions)
    right = judges.words(exam, pictures, [None] * 4)["r1"]
    nearest = [judges.wide.names[i] for i in judges.wide.similarity(
        judges.feature_net.features(pictures.float() / 255).pooled, [None] * 4).argmax(1)]  # fmt: skip
    carried = [name in material.telling[q.word] for name, q in zip(nearest, exam.questions, strict=True)]
    assert right.flatten().tolist() == carried
