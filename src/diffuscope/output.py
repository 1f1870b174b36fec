"""Where results go: names that can be written, and files that appear whole or not at all. Imports no torch."""

import contextlib
import functools
import hashlib
import itertools
import os
import platform
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from diffuscope.errors import InputError, OutputError


def check_output(
    path: str | os.PathLike[str],
    argument: str = "path",
    *,
    suffix: str | tuple[str, ...] = ".png",
    count: int = 1,
    overwrite: bool = True,
) -> Path:
    """The path of a file; refuse one that cannot be written.

    Args:
        path: as ``numbered`` takes it.
        argument: its name in the error.
        suffix: how its name ends, or several ways.
        count: how many images will be written.
        overwrite: whether files that are there will be replaced.
    """
    path = Path(path)
    if os.path.isdir(path):  # noqa: PTH112 (unlike Path's, it answers False for impossible names)
        raise OutputError(f"cannot write {path}: it is a folder; add a file name")
    suffixes = (suffix,) if isinstance(suffix, str) else suffix
    if path.suffix.lower() not in suffixes:
        raise InputError(argument, path.name, f"a name that ends in {' or '.join(suffixes)}")
    if "\0" in str(path):
        raise InputError(argument, str(path), "a name without zero bytes")
    if not os.path.isdir(path.parent):  # noqa: PTH112
        raise OutputError(f"cannot write {path}: there is no folder {path.parent}; make it first, or choose another")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise OutputError(f"cannot write {path}: no permission to write to {path.parent}; choose another folder")
    names = numbered(path, count, overwrite=overwrite)
    length, most = len(os.fsencode(names[-1].name)), _longest_name(path.parent)
    if length > most:
        raise OutputError(f"cannot write {path}: its name has {length} bytes and {most} are possible; shorten it")
    for name in names:
        _check_replaceable(name)
    return path


def _check_replaceable(path: Path) -> None:
    try:
        permissions(path)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}; choose another name") from error


def _longest_name(folder: Path) -> int:
    try:
        return os.pathconf(folder, "PC_NAME_MAX")
    except (AttributeError, OSError, ValueError):  # Windows, and file systems that do not say
        return 255


def numbered(path: Path, count: int, *, overwrite: bool = True) -> list[Path]:
    """The names of ``count`` images: ``out.png``, or ``out-0.png`` and so on for several.

    Without ``overwrite`` they are names that nothing has: else ``out-2.png``, or ``out-2-0.png`` and so on.
    """
    for attempt in itertools.count(1):
        first = path if attempt == 1 else path.with_stem(f"{path.stem}-{attempt}")
        names = [first.with_stem(f"{first.stem}-{k}") if count > 1 else first for k in range(count)]
        if overwrite or not any(map(os.path.lexists, names)):
            return names
    raise AssertionError


@contextlib.contextmanager
def replacing(path: str | Path, *, overwrite: bool = True) -> Iterator[Path]:
    """A new file that replaces ``path`` once the block has ended and the disk has it, and is removed on an error.

    A file that was there keeps its permissions, and a link still leads to the file.

    Raises:
        OutputError: it cannot be written, is read-only, or is no file.
        FileExistsError: it is there, without ``overwrite``.
    """
    path = Path(path)
    part = None
    try:
        if "\0" in str(path):
            raise OSError(0, "its name has a zero byte")
        place = path.resolve() if path.is_symlink() else path
        part = part_of(place)
        mode = permissions(place)
        part.touch(0o666 if mode is None else mode, exist_ok=False)  # in a folder for everybody, no link of others
        if mode is not None:
            part.chmod(mode)
        yield part
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        part.replace(place) if overwrite else _move_beside(part, path)
    except FileExistsError:
        raise
    except OSError as error:
        reason = error.strerror or str(error)
        raise OutputError(
            f"{path} cannot be written: {reason}; give a folder that exists, with permission and space"
        ) from error
    finally:
        if part is not None:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)


def part_of(path: Path) -> Path:
    """A new, hidden name beside ``path`` for what is not whole yet; also short enough where ``path`` is just so.

    It holds the machine and the process, so that the next call removes what a process left that was killed.
    """
    _remove_abandoned(path.parent)
    return path.with_name(f".{path.name[:30]}.{_machine()}-{os.getpid()}-{secrets.token_hex(4)}.part")


_PART = re.compile(r"\..+\.([0-9a-f]{8})-([0-9]{1,10})-[0-9a-f]{8}\.part")


@functools.cache
def _machine() -> str:
    return hashlib.sha256(platform.node().encode("utf-8", "replace")).hexdigest()[:8]


def _remove_abandoned(folder: Path) -> None:
    """Remove the files and folders that were not whole when the process that wrote them ended, by kill -9 for example.

    Those of processes that run, and of other machines that share the folder, stay.
    """
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            match = _PART.fullmatch(entry.name)
            if match and match[1] == _machine() and not _runs(int(match[2])):
                if entry.is_dir(follow_symlinks=False):
                    shutil.rmtree(entry.path, ignore_errors=True)
                else:
                    with contextlib.suppress(OSError):
                        os.unlink(entry.path)  # noqa: PTH108


def _runs(process: int) -> bool:
    """Whether there is such a process; where that cannot be asked without harm, True."""
    if os.name != "posix" or process == os.getpid():
        return True
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # it is another user's
        return True
    return True


def permissions(path: Path) -> int | None:
    """The permissions of a file that is to be replaced; None if there is none."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(mode):
        raise OSError(0, "it is no file")
    if not mode & 0o222 or not os.access(path, os.W_OK):  # whoever has the folder's permission could replace it
        raise PermissionError(0, "it is read-only")
    return stat.S_IMODE(mode)


def _move_beside(part: Path, path: Path) -> None:
    """Give ``part`` the name ``path``, unless that has been taken in the meantime."""
    if os.path.lexists(path):
        raise FileExistsError(path)
    try:
        os.link(part, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        part.replace(path)
