"""``import diffuscope`` is light, and every public name is there when it is asked for."""

import subprocess
import sys

import pytest

import diffuscope as ds
from diffuscope.cli import COMMANDS


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("code", ["import diffuscope", "import diffuscope.cli; diffuscope.cli.main(['--help'])"])
def test_neither_import_nor_help_loads_what_is_heavy(code: str) -> None:
    heavy = run(f"{code}; import sys; print('heavy:', *{{'torch', 'numpy', 'PIL', 'tyro'}} & set(sys.modules))")
    assert heavy.splitlines()[-1] == "heavy:"


@pytest.mark.parametrize("command", COMMANDS)
def test_a_commands_help_loads_no_torch(command: str) -> None:
    said = run(
        f"import diffuscope.cli, sys; diffuscope.cli.main('{command} --help'.split()); print('torch' in sys.modules)"
    )
    assert said.splitlines()[-1] == "False"


def test_import_changes_nothing() -> None:
    before = "import os, sys, random, warnings; a = (dict(os.environ), warnings.filters[:], random.getstate())"
    after = "print(a == (dict(os.environ), warnings.filters[:], random.getstate()))"
    assert run(f"{before}; import diffuscope; {after}") == "True\n"


@pytest.mark.parametrize("name", ds.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(ds, name) is not None
    assert name in dir(ds)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"no attribute 'loud'.*load"):
        ds.loud  # noqa: B018


def test_samplers_as_functions_and_as_names() -> None:
    assert list(ds.samplers()) == list(ds.diffusion.samplers.SAMPLERS)
    assert ds.samplers()["heun"].calls == 2
