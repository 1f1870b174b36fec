"""The process of a command, each in a process of its own."""

import subprocess
import sys

STATE = "print(gc.get_threshold()[0] > 10_000, gc.get_freeze_count() > 0)"


def run(*lines: str) -> str:
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


def test_it_looks_for_unreachable_objects_seldom_and_not_at_its_end() -> None:
    command = "import gc, sys; from diffuscope.cli import main; sys.argv = ['diffuscope', '-V']; main()"
    assert run(command, STATE) == "True True"


def test_a_call_of_main_leaves_the_callers_settings() -> None:
    assert run("import gc; from diffuscope.cli import main; main(['-V'])", STATE) == "False False"


def test_a_command_ends_at_once_after_what_has_to_be_done() -> None:
    """Threads have ended, handlers have run and all is written, but no object is freed one by one."""
    code = (
        "import atexit, sys, threading, time",
        "from diffuscope import cli",
        "class Freed:",
        "    def __del__(self): print('freed')",
        "def work():",
        "    time.sleep(0.3)",
        "    print('worked')",
        "def main():",
        "    sys.kept = Freed()",
        "    atexit.register(print, 'tidied')",
        "    threading.Thread(target=work).start()",
        "    print('no line', end=' ')",
        "    return 3",
        "cli.main = main",
        "cli.command()",
    )
    done = subprocess.run([sys.executable, "-c", "\n".join(code)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (3, "no line worked\ntidied\n", "")


def test_a_base_that_is_another_is_refused_where_it_is_read_too(tmp_path) -> None:
    """Its hash is taken by a thread beside the import of torch, whose error nobody sees."""
    code = (
        "import json, pathlib, shutil, sys",
        "from diffuscope.cli import main",
        "from diffuscope.model_files import shipped_models",
        f"folder = pathlib.Path({str(tmp_path)!r}) / 'model'",
        "shutil.copytree(shipped_models()['emoji-turbo'], folder)",
        "config = json.loads((folder / 'config.json').read_text())",
        "config['base_hash'] = '0' * 64",
        "(folder / 'config.json').write_text(json.dumps(config))",
        "sys.stderr = sys.stdout",
        "print('refused:', main(['generate', 'a fox', '--model', str(folder)]))",
    )
    assert run(*code) == "refused: 2"
