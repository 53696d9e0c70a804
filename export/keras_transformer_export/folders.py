"""A folder that appears whole or not at all."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from keras_transformer.files import current_umask, flush_folder, naming

AT_FDCWD = -100
RENAME_EXCHANGE = 2


@contextlib.contextmanager
def written_aside(folder: Path) -> Iterator[Path]:
    """Give an empty folder beside `folder`, which takes its place when the block ends well.

    A folder that stood there is replaced in one step and deleted afterwards. When the block
    raises, it stays as it was and nothing else is left. The error of a full disk names `folder`.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".part", dir=folder.parent))
    try:
        # mkdtemp makes folders for the owner only; a bundle is shared like any other folder.
        aside.chmod(0o777 & ~current_umask())
        with naming(folder):
            yield aside
            _flush(aside)
        _put_in_place(aside, folder)
        flush_folder(folder.parent)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _put_in_place(new: Path, folder: Path) -> None:
    if not folder.exists():
        new.rename(folder)
    elif not _exchange(new, folder):
        old = new.with_suffix(".old")
        folder.rename(old)
        try:
            new.rename(folder)
        except BaseException:
            old.rename(folder)
            raise
        shutil.rmtree(old, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    """Swap two folders in one step, where the system can: then there is never none."""
    if not sys.platform.startswith("linux"):
        return False
    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    return (
        rename is not None
        and rename(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), RENAME_EXCHANGE) == 0
    )


def _flush(folder: Path) -> None:
    for path in (*folder.rglob("*"), folder):
        if path.is_dir():
            flush_folder(path)
        else:
            with path.open("rb+") as file:
                os.fsync(file.fileno())
