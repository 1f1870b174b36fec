"""torch's libraries, loaded while the command line is read: a quarter of a second for which Python need not wait."""

import ctypes
import sys
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from threading import Thread


def load_libraries() -> Thread | None:
    """Begin to load them in a thread, in torch's own order; where that cannot be done, torch does it later."""
    spec = find_spec("torch")
    if sys.platform != "linux" or "torch" in sys.modules or spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent / "lib"

    def load() -> None:
        with suppress(OSError):
            ctypes.CDLL(str(folder / "libtorch_global_deps.so"), mode=ctypes.RTLD_GLOBAL)
            ctypes.CDLL(str(folder / "libtorch.so"))

    thread = Thread(target=load)  # an exit waits: a library may not be half initialised
    thread.start()
    return thread
