from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from diffuscope.data.split import Split
from diffuscope.errors import WeightsError
from diffuscope.evaluate import prompts
from diffuscope.evaluate.classifier import load_classifier, predict, save_classifier
from diffuscope.evaluate.scorer import load_projection
from diffuscope.evaluate.scores import real_images
from diffuscope.vision.classifier import Classifier, ClassifierConfig
from diffuscope.vision.clip_score import PROJECTION
from diffuscope.weights.store import packing

CPU = torch.device("cpu")


def network(data) -> Classifier:
    torch.manual_seed(0)
    return Classifier(ClassifierConfig(classes=len(data.split.concepts), channels=(8, 16), blocks=1)).eval()


def test_a_classifier_comes_back_from_its_file(data, tmp_path):
    path = tmp_path / "classifier.safetensors"
    made = network(data)
    save_classifier(path, made, data.split)
    loaded = load_classifier(path, data.split, CPU)
    images = data.images(range(8))
    assert loaded.config == made.config
    assert torch.equal(predict(loaded, images), predict(made.half().float(), images))


def test_a_classifier_of_another_split_is_refused(data, tmp_path):
    path = tmp_path / "classifier.safetensors"
    save_classifier(path, network(data), data.split)
    other = Split(frozenset(), data.split.colours, data.split.concepts)
    with pytest.raises(WeightsError, match="held-out images may have"):
        load_classifier(path, other, CPU)


@pytest.mark.parametrize("metadata", [None, {"config": "{}"}, {"config": "[", "concepts": "[]", "split": ""}])
def test_what_is_no_classifier_is_refused(data, tmp_path, metadata):
    save_file({"x": torch.zeros(1)}, tmp_path / "x.safetensors", metadata)
    with pytest.raises(WeightsError, match="is not a classifier"):
        load_classifier(tmp_path / "x.safetensors", data.split, CPU)


def test_the_projection_is_found_by_name(tmp_path):
    matrix = torch.randn(4, 6)
    save_file({PROJECTION: matrix, "log_scale": torch.zeros(1)}, tmp_path / "towers.safetensors")
    assert torch.equal(load_projection(tmp_path / "towers.safetensors", CPU), matrix)
    save_file({"log_scale": torch.zeros(1)}, tmp_path / "none.safetensors")
    with pytest.raises(WeightsError, match=PROJECTION):
        load_projection(tmp_path / "none.safetensors", CPU)


def test_a_packed_projection_is_unpacked(tmp_path):
    matrix = torch.randn(64, 128) * torch.logspace(-2, 2, 64)[:, None]  # rows whose int8 scales differ
    packing.write(tmp_path / "towers.safetensors", {"picture.weight": matrix})
    loaded = load_projection(tmp_path / "towers.safetensors", CPU)
    assert ((loaded - matrix).abs() <= matrix.abs().amax(1, keepdim=True) / 254 + 1e-6).all()


def test_every_image_of_every_prompt_is_scored(scorer, data):
    chosen = prompts.prompt_set(prompts.seen(data), 24)
    images = real_images(data, chosen.prompts).repeat_interleave(chosen.images_per_prompt, 0)
    styles = [prompt.style for prompt in chosen.prompts for _ in range(chosen.images_per_prompt)]
    correct = replace(scorer, classifier=network(data)).concepts(chosen, images, styles)
    assert set(correct) == {"r1", "r5", "clip", "classifier"}
    assert all(value.shape == (len(chosen.prompts), chosen.images_per_prompt) for value in correct.values())
    assert all(torch.equal(value[:, 0], value[:, 1]) for value in correct.values())
    assert (correct["r1"] <= correct["r5"]).all()


def test_a_tag_word_is_correct_if_the_nearest_concept_carries_it(scorer, data):
    chosen = prompts.prompt_set(prompts.tag_words(data), 4)
    images = real_images(data, chosen.prompts)
    correct = scorer.tag_words(chosen, images, [None] * 4)["r1"]
    nearest = [scorer.wide_gallery.names[i] for i in scorer.wide_gallery.similarity(
        scorer.feature_net.features(images.float() / 255).pooled, [None] * 4).argmax(1)]  # fmt: skip
    carried = [name in data.tag_words[q.word] for name, q in zip(nearest, chosen.prompts, strict=True)]
    assert correct.flatten().tolist() == carried
