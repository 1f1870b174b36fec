"""``import diffuscope`` is light, and so is whatever needs no picture: each in a process of its own."""

import subprocess
import sys

import pytest

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


def test_import_changes_nothing_but_how_long_threads_spin() -> None:
    """OpenMP reads GOMP_SPINCOUNT when torch is loaded, so it can only be set before; whoever has set it keeps it."""
    before = "import os, sys, random, warnings; a = (dict(os.environ), warnings.filters[:], random.getstate())"
    after = "print(a == (dict(os.environ), warnings.filters[:], random.getstate()))"
    assert run(f"import os; os.environ['GOMP_SPINCOUNT'] = '7'; {before}; import diffuscope; {after}") == "True\n"
    unset = "import os; os.environ.pop('GOMP_SPINCOUNT', None); a = set(os.environ); import diffuscope"
    assert run(f"{unset}; print(set(os.environ) - a)") == "{'GOMP_SPINCOUNT'}\n"


def test_to_count_the_shapes_is_not_to_load_a_compiler() -> None:
    """Torch's own counts them with its compiler's tables, which take seconds to import: more than the picture does."""
    program = (
        "import sys, diffuscope as ds\n"
        "from diffuscope.lens.shapes import shapes\n"
        "assert len(shapes([*ds.load('emoji').components.networks.values()], None)) > 300\n"
        "assert 'torch._dynamo' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
