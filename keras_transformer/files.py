"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

_PART = ".part-"

# What a disk says that takes no more, and what a person then does.
FULL = {
    errno.ENOSPC: "make room",
    errno.EDQUOT: "make room",
    errno.EFBIG: "raise the limit of the size of files (ulimit -f)",
}


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a path beside `path` to write to; it takes its place only when it is whole on disk.

    A full disk, an exception or a kill leaves what was at `path` before.

    Raises:
        OSError: the folder cannot be written to, or the disk is full; it names `path`.
    """
    path = Path(path)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=_PART, suffix=path.suffix)
    os.close(handle)
    aside = Path(name)
    try:
        # mkstemp makes files for the owner only; what is kept is shared like any other file
        aside.chmod(0o666 & ~current_umask())
        with naming(path):
            yield aside
            with open(aside, "rb+") as file:
                os.fsync(file.fileno())
        os.replace(aside, path)
        flush_folder(path.parent)
    finally:
        aside.unlink(missing_ok=True)


@contextlib.contextmanager
def naming(path: str | os.PathLike[str]) -> Iterator[None]:
    """Let the error of a full disk say what was being written: a failing write does not know."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL and error.filename is None:
            error.filename = os.fspath(path)
        raise


@contextlib.contextmanager
def held(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Keep a folder to this process; it is made where it is not there, and goes if it stays empty.

    The system lets go of it when the process ends, however it does. Where it has no locks, as on
    Windows and some network disks, nothing is kept.

    Raises:
        ValueError: another process has it.
    """
    folder = Path(folder)
    is_new = not folder.exists()
    try:
        import fcntl
    except ImportError:
        yield
        return
    if not is_new and not folder.is_dir():  # for others to complain of
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"{folder} must not be in use: another process trains in it. Wait until it has "
                "ended, or give another --run-folder."
            ) from None
        except OSError:
            pass
        yield
    finally:
        os.close(handle)
        if is_new:
            with contextlib.suppress(OSError):  # it is not empty
                folder.rmdir()


def remove_parts(folder: Path) -> None:
    """Delete what killed processes were writing with `replacing` in a folder."""
    for part in folder.glob(f"{_PART}*"):
        part.unlink(missing_ok=True)


def flush_folder(folder: Path) -> None:
    """Make the names in a folder last through a power cut."""
    if os.name == "nt":  # folders cannot be opened there
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def current_umask() -> int:
    """Return the permissions that new files are to lack."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
