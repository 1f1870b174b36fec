import torch

from diffuscope.evaluate.retrieval import Gallery, clip_similarity, features, in_top

FEATURES = torch.tensor([[1.0, 0, 0], [0, 1.0, 0], [0.0, 1.0, 0], [0, 0, 1.0]])
GALLERY = Gallery(FEATURES, ["cat", "cat", "dog", "dog"], ["noto", "blob", "noto", "blob"])


def test_a_concept_is_the_mean_of_its_pictures():
    assert GALLERY.names == ("cat", "dog")
    cat = torch.tensor([1.0, 1.0, 0]) / 2**0.5
    assert torch.allclose(GALLERY.means(None)[0], cat)


def test_the_asked_style_is_left_out_for_every_concept():
    similarity = GALLERY.similarity(FEATURES[[0, 0]], ["noto", None])
    assert torch.equal(similarity[0], torch.tensor([0.0, 0.0]))
    assert similarity[1, 0] > similarity[1, 1]


def test_a_concept_in_no_other_style_is_like_nothing():
    alone = Gallery(FEATURES[:2], ["cat", "dog"], ["noto", "blob"])
    assert torch.equal(alone.similarity(FEATURES[:1], ["noto"]), torch.tensor([[0.0, 0.0]]))


def test_the_order_of_pictures_does_not_matter():
    one = GALLERY.similarity(FEATURES, ["noto", "blob", None, "noto"])
    other = GALLERY.similarity(FEATURES.flip(0), ["noto", None, "blob", "noto"])
    assert torch.equal(one, other.flip(0))


def test_ties_and_nan_are_not_in_the_top():
    similarity = torch.tensor([[0.9, 0.5, 0.1], [0.9, 0.5, 0.1], [0.5, 0.5, 0.1], [float("nan")] * 3])
    own = torch.tensor([0, 1, 0, 0])
    assert in_top(1, similarity, own).tolist() == [True, False, False, False]
    assert in_top(2, similarity, own).tolist() == [True, True, True, False]


def test_features_do_not_depend_on_the_batch(feature_net):
    pictures = torch.randint(0, 256, (5, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(features(feature_net, pictures, batch=2), features(feature_net, pictures, batch=5), atol=1e-5)


def test_clip_similarity_is_the_cosine_with_each_caption():
    asked = []

    def encode(texts):
        asked.append(texts)
        return torch.tensor([[3.0, 0.0] if text == "x" else [0.0, 1.0] for text in texts])

    matrix = torch.tensor([[1.0, 0, 0], [0, 1.0, 0]])
    similarity = clip_similarity(FEATURES[:2], matrix, encode, [["x", "y"], ["x", "y"]])
    assert torch.allclose(similarity, torch.eye(2))
    assert asked == [["x", "y"]]
