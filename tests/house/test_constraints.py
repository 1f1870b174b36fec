"""``constraints.txt`` pins the whole environment: all that any group or extra needs, and nothing else."""

import re
import tomllib
from importlib import metadata

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from house.places import ROOT, assert_none

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
LINES = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
PINS = {canonicalize_name(line.partition("==")[0]): line.partition("==")[2] for line in LINES}

ACCELERATORS = ("nvidia-", "cuda-", "triton")
"""What only some builds of torch ask for; torch itself pins them, and a pin here would contradict its own."""

ELSEWHERE = ("ray",)
"""What no test needs, and is too large to install for none: ``benchmarks/ray_cluster.py`` has its checks."""


def requirements() -> list[Requirement]:
    """All that the package, its extras and the groups of lint and test ask for; those of docs are another stamp."""
    project, groups = PROJECT["project"], PROJECT["dependency-groups"]
    extras = [line for lines in project["optional-dependencies"].values() for line in lines]
    lines = (*project["dependencies"], *extras, *groups["lint"], *groups["test"])
    return [Requirement(line) for line in lines if not line.startswith((*ACCELERATORS, *ELSEWHERE))]


def needed() -> dict[str, str]:
    """Name -> installed version of ``requirements`` and of all that they require."""
    found: dict[str, str] = {}
    seen: set[tuple[str, frozenset[str]]] = set()
    waiting = requirements()
    while waiting:
        requirement = waiting.pop()
        key = canonicalize_name(requirement.name), frozenset(requirement.extras)
        if key in seen:
            continue
        seen.add(key)
        package = metadata.distribution(requirement.name)
        found[key[0]] = package.version
        for line in package.requires or ():
            below = Requirement(line)
            if below.name.startswith(ACCELERATORS):
                continue
            if below.marker is None or any(below.marker.evaluate({"extra": e}) for e in ("", *requirement.extras)):
                waiting.append(below)
    return found


def test_each_line_is_one_exact_pin():
    assert_none(
        f"{line!r}: expected NAME==VERSION, without a +local part"
        for line in LINES
        if not re.fullmatch(r"[A-Za-z0-9_.-]+==[A-Za-z0-9_.]+", line)
    )
    assert len(PINS) == len(LINES)
    assert sorted(LINES, key=str.lower) == LINES


def test_torch_is_the_version_that_everything_was_measured_with():
    assert PINS["torch"] == "2.13.0"


def test_everything_needed_is_pinned_at_what_is_installed():
    assert_none(
        f"{name}: installed {version}, pinned {PINS.get(name)}"
        for name, version in needed().items()
        if PINS.get(name) != version.partition("+")[0]
    )


def test_direct_requirements_of_every_group_are_pinned():
    groups = [line for lines in PROJECT["dependency-groups"].values() for line in lines]
    lines = [line for line in groups + PROJECT["build-system"]["requires"] if not line.startswith(ACCELERATORS)]
    names = {canonicalize_name(Requirement(line).name) for line in lines}
    assert_none(f"{name} is not pinned" for name in sorted(names - PINS.keys()))
