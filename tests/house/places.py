"""Where things are, and one way to fail, for the tests of the house."""

import subprocess
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "diffuscope"
MODULES = sorted(SOURCE.rglob("*.py"))


def tracked() -> list[Path]:
    """Every file of the repository that exists, in git's order."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [path for name in listed.split("\0") if name and (path := ROOT / name).is_file()]


def documents() -> list[Path]:
    """The Markdown files that people read."""
    return [path for path in tracked() if path.suffix == ".md"]


def name_of(path: Path) -> str:
    """A file's path in the repository."""
    return path.relative_to(ROOT).as_posix()


def assert_none(offenders: Iterable[str]) -> None:
    """A rule of the house holds; otherwise fail with every offender, one a line."""
    lines = list(offenders)
    if lines:
        raise AssertionError("\n".join([f"{len(lines)} offenders", *lines]))
