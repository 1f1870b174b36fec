"""The lab's page: small files that are sent as they are written, one vendored library, nothing from elsewhere."""

import hashlib
import json
import re

from house.places import ROOT, SOURCE, assert_none

PAGE = SOURCE / "lab"
FILES = [path for path in PAGE.rglob("*") if path.is_file()]
SENT = [path for path in FILES if path.suffix in {".html", ".css", ".js", ".json", ".webp", ".bin", ".svg"}]
OWN = [path for path in SENT if path.suffix in {".html", ".css", ".js"} and "vendor" not in path.parts]
LIT_HTML = "b878e7f95dec8a9b6e9b217faca6b6a11bad82ebc44c0caa77419ed83edd81f2"
"""SHA-256 of lit-html.js in the package lit-html 3.3.3 of npm."""

LONGEST, HEAVIEST = 400, 340_000


def test_the_vendored_library_is_the_published_one():
    assert hashlib.sha256((PAGE / "vendor/lit-html.js").read_bytes()).hexdigest() == LIT_HTML
    assert "BSD 3-Clause" in (PAGE / "vendor/lit-html.LICENSE").read_text(encoding="utf-8")
    assert [path.name for path in (PAGE / "vendor").glob("*.js")] == ["lit-html.js"]


def test_the_page_is_light():
    assert sum(path.stat().st_size for path in SENT) <= HEAVIEST


def test_its_files_are_short():
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in OWN}
    assert len(lengths) > 15
    assert_none(f"{path.relative_to(PAGE)} has {length} lines" for path, length in lengths.items() if length > LONGEST)


def test_it_fetches_nothing_from_elsewhere_and_has_no_inline_code():
    forbidden = {
        "an address": re.compile(r"https?://(?!www\.w3\.org/)"),
        "an inline style": re.compile(r"\sstyle=[\"'$]"),
        "an inline handler": re.compile(r"\son[a-z]+=[\"']"),
        "code from a text": re.compile(r"\beval\(|new Function"),
        "markup from a text": re.compile(r"innerHTML|unsafeHTML|document\.write"),
    }
    texts = {path: path.read_text(encoding="utf-8") for path in OWN}
    assert_none(
        f"{path.relative_to(PAGE)} has {name}"
        for path, text in texts.items()
        for name, pattern in forbidden.items()
        if pattern.search(text)
    )


def test_every_module_says_what_it_is_for():
    modules = [path for path in OWN if path.suffix == ".js"]
    assert_none(
        f"{path.relative_to(PAGE)} begins with no sentence"
        for path in modules
        if not path.read_text(encoding="utf-8").startswith("// ")
    )


def test_the_terms_have_the_words_of_the_glossary():
    rows = [row.split("|")[1:3] for row in (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").splitlines()]
    glossary = {
        name.strip(): row[1].strip().replace("`", "") for row in rows if len(row) == 2 for name in row[0].split(",")
    }
    terms = json.loads((PAGE / "terms.json").read_text(encoding="utf-8"))
    assert terms
    assert {name: glossary.get(name) for name in terms} == terms


def test_the_tours_are_the_chapters_of_the_deep_dive():
    """Each stop leads to a view that there is."""
    index = json.loads((PAGE / "tours/index.json").read_text(encoding="utf-8"))
    assert len(index) == 10
    views = {
        found[1]
        for path in (PAGE / "views").glob("*.js")
        if (found := re.search(r"^  id: '([\w-]+)'", path.read_text(encoding="utf-8"), re.MULTILINE))
    }
    faults = []
    for tour in index:
        stops = json.loads((PAGE / f"tours/{tour['id']}.json").read_text(encoding="utf-8"))["stops"]
        chapter = ROOT / f"docs/deep-dive/{tour['page']}.md"
        if f"# {tour['title']}" not in chapter.read_text(encoding="utf-8").splitlines():
            faults.append(f"{tour['title']} is no chapter")
        if tour["stops"] != len(stops):
            faults.append(f"{tour['title']} has {len(stops)} stops")
        faults += [f"{tour['title']}: no view {stop['view']}" for stop in stops if stop["view"] not in views]
    assert_none(faults)
