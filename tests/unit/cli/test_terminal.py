"""Strangers' texts on the terminal: harmless, short, and no end of a run."""

import re
import unicodedata
from pathlib import Path

import pytest

import diffuscope.cli
from diffuscope.cli import main
from diffuscope.errors import DiffuscopeError, InputError, OutputError, Unquoted, WeightsError, shortened, visible

HOSTILE = "a\x1b[2J\x1b]0;title\x07\x9b31m\r\u202eevil\u2066\u200b\ud800\u2028b"


def harmless(text: str) -> bool:
    return all(sign in "\n\t" or unicodedata.category(sign) not in {"Cc", "Cf", "Cs", "Zl", "Zp"} for sign in text)


def test_visible_text_steers_nothing() -> None:
    assert not harmless(HOSTILE)
    assert harmless(visible(HOSTILE))
    for kept in ("a fox\n\tjumps", "狐 \N{FOX FACE}", "Füchse – ‘x’", "\N{MAN}\N{ZERO WIDTH JOINER}\N{WOMAN}"):
        assert visible(kept) == kept


@pytest.mark.parametrize("kind", [WeightsError, OutputError, lambda text: InputError("a", Unquoted(text), "b")])
def test_every_error_is_harmless_and_one_screen(kind) -> None:
    error: DiffuscopeError = kind(HOSTILE * 100_000)
    assert harmless(str(error))
    assert len(str(error)) < 2_000
    assert len(str(kind("line\n" * 5_000)).splitlines()) <= 20


def test_shortened_keeps_both_ends() -> None:
    text = "begin" + "x" * 10_000 + "end"
    assert shortened(text).startswith("begin")
    assert shortened(text).endswith("end")
    assert "8,408 characters" in shortened(text)
    assert shortened("a fox") == "a fox"


def test_the_command_line_s_errors_are_harmless(tmp_path: Path, capsys) -> None:
    assert main(["generate", "fox", "--model", HOSTILE.replace("\ud800", "") * 1000]) == 2
    err = capsys.readouterr().err
    assert harmless(err)
    assert len(err) < 2_000


@pytest.mark.parametrize("columns", ["1", "3", "5"])
def test_help_ends_on_the_narrowest_terminal(columns: str, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert main(["replay", "--help"]) == 0
    assert "--model" in capsys.readouterr().out


def test_commands_print_by_say_and_tell_alone() -> None:
    """Any other way to the terminal would carry a stranger's text there as it is."""
    folder = Path(diffuscope.cli.__file__).parent
    files = [path for path in folder.glob("*.py") if path.name != "terminal.py"]
    assert [path.name for path in files if re.search(r"std(out|err)\.write|print\w*\(", path.read_text())] == []
