import lzma
from pathlib import Path

import pytest

from diffuscope.data import packages
from diffuscope.data.corpus import Corpus, build, square_svg
from diffuscope.data.names import has_skin_tone, phrase, slug
from diffuscope.errors import OutputError
from refusals import refused


def named(corpus: Corpus, style: str) -> dict[str, str]:
    return {p.name: p.concept for p in corpus.pictures if p.style == style}


def test_names_come_from_unicode_labels(corpus):
    noto = named(corpus, "noto")
    assert noto["flag of France"] == "flag-of-france"
    assert noto["man with red hair"] == "man-with-red-hair"
    assert "flag of France" in named(corpus, "twemoji")  # spelled flag-for-flag-france
    assert "smiling face with open hands" in named(corpus, "fluent 3d")  # by an alias
    assert named(corpus, "streamline") == {"fox": "fox"}  # two variants, one name


def test_what_has_no_place_is_left_out(corpus):
    shown = {p.svg for p in corpus.pictures}
    assert not any("#fdb" in svg or "#eda" in svg for svg in shown)  # skin tones
    assert named(corpus, "firefox") == {"cherry blossom": "cherry-blossom"}  # "aok" cannot be read
    assert named(corpus, "line icon") == {"beer glass": "beer-glass"}  # no logos
    assert all("unseen" not in p.name for p in corpus.pictures)


def test_icon_sets_keep_their_own_names(corpus):
    assert set(named(corpus, "game icon")) == {"polar bear", "abstract", "fox head", "fox trap"}
    assert named(corpus, "freehand") == {"file code": "file-code"}
    assert {p.group for p in corpus.pictures if p.style == "game icon"} == {"icon"}


def test_tags_are_in_the_order_of_their_rank(corpus):
    dogs = next(p for p in corpus.pictures if p.name == "dog face")
    assert dogs.tags == ("puppy", "animal", "woof")  # what both dictionaries have comes first


def test_a_word_names_what_it_is_and_an_icon_what_it_shows(corpus):
    also = {p.name: p.also for p in corpus.pictures}
    assert "puppy" in also["dog face"]
    assert also["fox head"] == ("fox",)
    assert also["fox trap"] == also["polar bear"] == ()  # no fox, and no bear in this corpus


def test_a_repeated_drawing_becomes_a_synonym(corpus):
    foxes = [p for p in corpus.pictures if p.style == "fluent flat" and p.concept == "fox"]
    assert len(foxes) == 1
    assert "vixen twin" in foxes[0].tags
    assert "reynard fox" in foxes[0].tags  # from emojilib
    assert all(p.name != "vixen twin" for p in corpus.pictures)


def test_same_input_same_bytes(node_modules, make_packages, tmp_path, corpus):
    again = make_packages(tmp_path / "again")
    build(node_modules, tmp_path / "a.xz")
    build(again, tmp_path / "b.xz")
    assert (tmp_path / "a.xz").read_bytes() == (tmp_path / "b.xz").read_bytes()
    assert Corpus.load(tmp_path / "a.xz") == corpus
    assert Corpus.load(tmp_path / "a.xz").hash == corpus.hash
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("a.xz") and path.name != "a.xz"]


def test_only_permissive_licences(make_packages, tmp_path):
    folder = make_packages(tmp_path)
    info = folder / "@iconify-json/noto/info.json"
    info.write_text(info.read_text().replace("MIT", "CC-BY-SA-4.0"))
    with refused("folder") as caught:
        build(folder, tmp_path / "out.xz")
    assert "'CC-BY-SA-4.0'" in str(caught.value)


def test_a_missing_package_is_named(tmp_path):
    with refused("folder") as caught:
        build(tmp_path, tmp_path / "out.xz")
    assert "@iconify-json/noto@1.2.9" in str(caught.value)


@pytest.mark.parametrize(
    "content", [b"no xz", lzma.compress(b""), lzma.compress(b"[1]\n"), lzma.compress(b'{"style": "noto"}\n')]
)
def test_a_foreign_file_is_refused(tmp_path, content):
    (tmp_path / "file").write_bytes(content)
    with refused("path"):
        Corpus.load(tmp_path / "file")


def test_a_truncated_file_is_refused(tmp_path, corpus):
    corpus.save(tmp_path / "file")
    (tmp_path / "file").write_bytes((tmp_path / "file").read_bytes()[:-40])
    with refused("path"):
        Corpus.load(tmp_path / "file")


def test_a_file_that_cannot_be_written(tmp_path, corpus):
    with pytest.raises(OutputError, match="cannot be written"):
        corpus.save(tmp_path / "nowhere" / "corpus.xz")


def test_a_failed_save_leaves_nothing(tmp_path, corpus):
    (tmp_path / "taken").mkdir()
    with pytest.raises(OutputError, match="taken cannot be written"):
        corpus.save(tmp_path / "taken")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_no_npm(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(OutputError, match="no npm client"):
        build(None, tmp_path / "out.xz")


def test_npm_fails(tmp_path, monkeypatch):
    (tmp_path / "npm").write_text("#!/bin/sh\necho no such package >&2\nexit 4\n")
    (tmp_path / "npm").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(OutputError, match=r"npm failed with code 4.*no such package"):
        build(None, tmp_path / "out.xz")


def test_attribution_names_every_package(node_modules):
    text = packages.attribution(node_modules)
    for package, version in packages.VERSIONS.items():
        assert f"| {package} | {version} |" in text
    for word in ("CLIP vocabulary", "Real-ESRGAN", "EfficientNet-Lite0", "Somebody", "[MIT](https://example.org/mit)"):
        assert word in text


def test_the_committed_attribution_has_every_version():
    text = (Path(__file__).parents[3] / "ATTRIBUTION.md").read_text(encoding="utf-8")
    assert all(f"| {package} | {version} |" in text for package, version in packages.VERSIONS.items())


@pytest.mark.parametrize(
    ("label", "words"),
    [
        ("flag: France", "flag of France"),
        ("man: red hair", "man with red hair"),
        ("person: bald", "bald person"),
        ("man walking: facing right", "man walking facing right"),
        ("keycap: 2", "keycap 2"),
        ("family: man, woman, boy", "family of man, woman, boy"),
        ("woman’s hat", "woman's hat"),
    ],
)
def test_labels_become_phrases(label, words):
    assert phrase(label) == words


def test_slugs_and_skin_tones():
    assert slug("Piñata & St. John’s") == "pinata-and-st-johns"
    assert has_skin_tone("artist-light", {"artist": 1})
    assert has_skin_tone("elf-tone1", {})
    assert not has_skin_tone("traffic-light", {})


def test_icons_become_square():
    svg = square_svg({"body": "<g/>", "width": 20}, {"width": 32, "height": 10})
    assert 'viewBox="0 -5 20 20"' in svg
