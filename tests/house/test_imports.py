"""Importing does nothing but define."""

import json
import os
import subprocess
import sys
from pathlib import Path

from house.places import MODULES, SOURCE

NAMES = sorted(
    "diffuscope." + ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__")
    for path in MODULES
    if path.name != "__main__.py" and path != SOURCE / "__init__.py"
)

OTHERS = ["torch", "numpy", "matplotlib", "PIL.Image", "tyro", "tqdm", "regex", "safetensors.torch"]
"""Loaded first: what they do to warnings and the like is theirs."""

INHERITED = {"HOME", "LD_LIBRARY_PATH", "MPLCONFIGDIR", "OMP_NUM_THREADS", "PATH", "PYTHONPATH", "XDG_CACHE_HOME"}
"""Of the environment; a variable that an import of ours has set in this process would hide that it sets one."""

PURE = """
import importlib, json, logging, os, random, sys, warnings
def state():
    loggers = [type(handler).__name__ for handler in logging.root.handlers]
    return dict(os.environ), warnings.filters[:], loggers, logging.root.level, random.getstate(), os.getcwd()
for name in json.loads(sys.argv[1]):
    importlib.import_module(name)
import torch
before, drawn, threads = state(), torch.random.get_rng_state(), torch.get_num_threads()
for name in json.loads(sys.argv[2]):
    importlib.import_module(name)
assert state() == before, "an import changed the environment, warnings, logging, random numbers or the folder"
assert torch.equal(drawn, torch.random.get_rng_state()), "an import drew random numbers"
assert torch.get_num_threads() == threads and torch.is_grad_enabled()
assert not torch.cuda.is_initialized()
"""


def python(code: str, *arguments: str, cwd: Path) -> str:
    clean = {name: value for name, value in os.environ.items() if name in INHERITED}
    done = subprocess.run([sys.executable, "-c", code, *arguments], cwd=cwd, env=clean, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def test_the_package_loads_no_torch_and_leaves_no_trace(tmp_path: Path):
    said = python("import diffuscope, sys, logging; print('torch' in sys.modules, logging.root.handlers)", cwd=tmp_path)
    assert said == "False []\n"
    assert list(tmp_path.iterdir()) == []


def test_no_module_does_anything_when_imported(tmp_path: Path):
    """Every module of the package, in one process."""
    assert len(NAMES) > 60
    python(PURE, json.dumps(OTHERS), json.dumps(NAMES), cwd=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_threads_that_wait_sleep_soon_unless_torch_or_the_user_was_first(tmp_path: Path):
    show = "import os; print(os.environ.get('GOMP_SPINCOUNT'))"
    assert python(f"import diffuscope; {show}", cwd=tmp_path) == "1000\n"
    assert python(f"import torch, diffuscope; {show}", cwd=tmp_path) == "None\n"
    policy = "import os; os.environ['OMP_WAIT_POLICY'] = 'active'"
    assert python(f"{policy}; import diffuscope; {show}", cwd=tmp_path) == "None\n"
