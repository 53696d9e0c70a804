"""Rows of ids as rectangles, and which rows go together; NumPy only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np


def pad_rows(rows: Sequence[Sequence[int]], pad_id: int) -> np.ndarray:
    """Return int32 `[B, longest]`, padded on the right."""
    longest = max(map(len, rows), default=0)
    padded = np.full((len(rows), longest), pad_id, "int32")
    for index, row in enumerate(rows):
        padded[index, : len(row)] = row
    return padded


def rounded_up(size: int, smallest: int = 8, most: int | None = None) -> int:
    """Return the power of two from `size` on, or `most`, so that few shapes are compiled."""
    rounded = max(smallest, 1 << (size - 1).bit_length())
    return rounded if most is None else min(rounded, most)


def grown_to(ids: np.ndarray, rows: int, length: int, pad_id: int) -> np.ndarray:
    """Return ids `[rows, length]`: pads behind each row, and copies of the first row below."""
    padded = np.pad(ids, ((0, 0), (0, length - ids.shape[1])), constant_values=pad_id)
    return np.concatenate([padded, np.repeat(padded[:1], rows - len(ids), axis=0)])


def batches_by_length(lengths: Sequence[int], batch_size: int) -> Iterator[np.ndarray]:
    """Yield index arrays that together cover all rows, rows of similar length together."""
    order = np.argsort(np.asarray(lengths), kind="stable")
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]
