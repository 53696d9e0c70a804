"""Pools of tokenized pairs on disk, so that a corpus is tokenized once and not in every epoch."""

import hashlib
import json
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from keras_transformer.array_files import read_arrays, write_arrays
from keras_transformer.data.pool import Pool, Rows, Side

_SMALL = 2**16  # ids below it take half the space


class Read(NamedTuple):
    """A pool, the pairs read for it, the overlong ones among them, and whether that was all."""

    pool: Pool
    pairs: int
    overlong: int
    last: bool


class StoredPools:
    """The pools of one corpus in a folder, each a file with a checksum.

    Some 4 bytes a token, or 2 where the vocabularies have fewer than 65,536 pieces.

    Args:
        folder: made when the first pool is saved; None: nothing is kept.
        about: all that decides what the pools hold, as plain values. Pools in the folder that
            were made with something else are deleted.

    Attributes:
        replaced: whether there were such.
    """

    def __init__(self, folder: Path | None, about: dict[str, Any]):
        self.folder = folder
        text = json.dumps(about, sort_keys=True)
        self._key = hashlib.sha256(text.encode()).hexdigest()[:16]
        self.replaced = False
        for path in folder.glob("pool-*.npz") if folder is not None else ():
            if not path.name.startswith(f"pool-{self._key}-"):
                path.unlink(missing_ok=True)
                self.replaced = True

    def load(self, number: int) -> Read | None:
        """Read a pool, counted from 0; None where it is not there, or damaged."""
        if self.folder is None or not self._path(self.folder, number).exists():
            return None
        try:
            arrays, about = read_arrays(self._path(self.folder, number))
        except ValueError as error:
            warnings.warn(f"{error}; its pairs are tokenized again.", stacklevel=2)
            return None
        sides = [_read_side(arrays, name) for name in ("source", "target")]
        return Read(Pool(*sides), about["pairs"], about["overlong"], about["last"])

    def save(self, number: int, read: Read) -> None:
        """Keep a pool; where the disk is full, warn and keep nothing from now on."""
        if self.folder is None:
            return
        arrays = _side_arrays("source", read.pool.source) | _side_arrays("target", read.pool.target)
        about = {"pairs": read.pairs, "overlong": read.overlong, "last": read.last}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_arrays(self._path(self.folder, number), arrays, about)
        except OSError as error:
            warnings.warn(
                f"Tokenized pairs cannot be kept in {self.folder} ({error.strerror}); each epoch "
                "will tokenize them again.",
                stacklevel=2,
            )
            self.folder = None

    def _path(self, folder: Path, number: int) -> Path:
        return folder / f"pool-{self._key}-{number:05d}.npz"


def _side_arrays(name: str, side: Side) -> dict[str, np.ndarray]:
    flat = side.rows.flat
    small = int(flat.max(initial=0)) < _SMALL
    arrays = {
        f"{name}_ids": flat.astype(np.uint16 if small else np.int32),
        f"{name}_lengths": side.rows.lengths.astype(np.int32),
    }
    if len(side.log_probs) > len(side.counts):  # without sampling, each text has one way
        arrays[f"{name}_counts"] = side.counts.astype(np.int32)
        arrays[f"{name}_log_probs"] = side.log_probs
    return arrays


def _read_side(arrays: dict[str, np.ndarray], name: str) -> Side:
    lengths = arrays[f"{name}_lengths"].astype(np.int64)
    rows = Rows(arrays[f"{name}_ids"].astype(np.int32), np.cumsum(lengths) - lengths, lengths)
    one_each = np.ones(len(lengths), np.int64)
    counts = arrays.get(f"{name}_counts", one_each).astype(np.int64)
    log_probs = arrays.get(f"{name}_log_probs", np.zeros(len(lengths), np.float32))
    return Side(rows, np.cumsum(counts) - counts, counts, log_probs)
