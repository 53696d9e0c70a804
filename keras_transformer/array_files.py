"""Arrays in one file, with a checksum that tells whether they are what was written."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from keras_transformer.files import replacing

_ABOUT, _CHECKSUM = "progress", "sha256"


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray], about: Mapping[str, Any]) -> None:
    """Write named arrays and what is to be known about them, whole or not at all.

    Args:
        path: an `.npz` file; one that is there is replaced.
        arrays: by name.
        about: plain values, kept as JSON.

    Raises:
        OSError: the disk is full or the folder not writable; what was at `path` stays.
    """
    entries = dict(arrays) | {_ABOUT: np.frombuffer(json.dumps(dict(about)).encode(), "uint8")}
    checksum = np.frombuffer(_digest(entries), "uint8")
    with replacing(path) as aside:
        np.savez(aside, allow_pickle=False, **entries, **{_CHECKSUM: checksum})


def read_arrays(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read what `write_arrays` wrote: the arrays, and what is to be known about them.

    A file of the first versions has no SHA-256; only ZIP's own check of each entry guards it.

    Raises:
        ValueError: the file cannot be read, or holds something else than was written.
    """
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as stored:
            entries = {name: stored[name] for name in stored.files}
        checksum = entries.pop(_CHECKSUM, None)
        whole = checksum is None or checksum.tobytes() == _digest(entries)
        about = json.loads(entries.pop(_ABOUT).tobytes())
    except Exception as error:  # what reading raises depends on the byte that is damaged
        raise ValueError(f"{path} is damaged ({error})") from None
    if not whole:
        raise ValueError(f"{path} is damaged (its SHA-256 is another than when it was written)")
    return entries, about


def _digest(entries: Mapping[str, np.ndarray]) -> bytes:
    digest = hashlib.sha256()
    for name in sorted(entries):
        array = entries[name]
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.digest()
