"""A pool of pairs as ids in flat arrays: what batches are drawn from."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal, NamedTuple

import numpy as np

from keras_transformer.text.tokenizer import Tokenizer
from keras_transformer.text.validation import check_text

# Pairs tokenized at once: enough for speed, few enough that their texts take no memory to speak of.
_CHUNK = 2048


class Rows(NamedTuple):
    """Rows of ids, one after the other: row i is `flat[starts[i] : starts[i] + lengths[i]]`."""

    flat: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray

    @classmethod
    def of(cls, rows: Sequence[np.ndarray]) -> "Rows":
        """Joins int32 arrays."""
        lengths = np.fromiter((len(row) for row in rows), np.int64, len(rows))
        flat = np.concatenate(rows) if rows else np.zeros(0)
        return cls(flat.astype(np.int32), np.cumsum(lengths) - lengths, lengths)

    def padded(self, indices: np.ndarray, rows: int, width: int, fill: int) -> np.ndarray:
        """Returns int32 [rows, width]: the chosen rows, `fill` after them and in rows left over."""
        result = np.full((rows, width), fill, np.int32)
        lengths = self.lengths[indices, None]
        real = np.arange(width) < lengths
        positions = self.starts[indices, None] + np.arange(width)
        result[: len(indices)][real] = self.flat[positions[real]]
        return result

    def take(self, indices: np.ndarray) -> "Rows":
        """Returns a copy of the chosen rows, in this order."""
        return Rows.of(
            [self.flat[self.starts[i] : self.starts[i] + self.lengths[i]] for i in indices]
        )


@dataclass(frozen=True, eq=False)
class Pool:
    """Pieces of the sources and targets of some pairs, without special ids."""

    source: Rows
    target: Rows

    def __len__(self) -> int:
        return len(self.source.lengths)

    def take(self, indices: np.ndarray) -> "Pool":
        """Returns a copy of the chosen pairs, in this order."""
        return Pool(self.source.take(indices), self.target.take(indices))


def empty_pool() -> Pool:
    """Returns a pool without pairs."""
    return Pool(Rows.of([]), Rows.of([]))


def join(pools: Iterable[Pool]) -> Pool:
    """Returns one pool with the pairs of all, in order."""
    parts = list(pools)
    return Pool(
        _join_rows([part.source for part in parts]), _join_rows([part.target for part in parts])
    )


def _join_rows(parts: list[Rows]) -> Rows:
    sizes = np.cumsum([0] + [len(part.flat) for part in parts[:-1]])
    starts = [part.starts + size for part, size in zip(parts, sizes, strict=True)]
    return Rows(
        np.concatenate([part.flat for part in parts]),
        np.concatenate(starts),
        np.concatenate([part.lengths for part in parts]),
    )


class Encoder:
    """Turns pairs of texts, or of id lists, into pools, and applies the length limits.

    The limits count the end id. `overlong` and its counts: a pair with a side above its limit is
    skipped, or the side is cut to the limit.
    """

    def __init__(
        self,
        source: Tokenizer,
        target: Tokenizer,
        max_source_length: int,
        max_target_length: int,
        overlong: Literal["skip", "cut"],
    ):
        self.tokenizers = source, target
        self._limits = max_source_length - 1, max_target_length - 1
        self._overlong = overlong

    def pool(self, pairs: Iterator[Any], size: int, first: int) -> tuple[Pool, int, int]:
        """Reads up to `size` pairs.

        Args:
            pairs: iterator over (source, target).
            size: the most pairs to read.
            first: the index of the next pair, for messages.

        Returns:
            The pool, the number of pairs read, and the number of overlong ones among them.
        """
        chunks: list[Pool] = [empty_pool()]
        read = overlong = 0
        while chunk := list(islice(pairs, min(_CHUNK, size - read))):
            encoded = self._encode(chunk, first + read)
            kept, too_long = self._within_limits(encoded)
            chunks.append(kept)
            overlong += too_long
            read += len(chunk)
        return join(chunks), read, overlong

    def _encode(self, chunk: list[Any], first: int) -> list[list[np.ndarray]]:
        for offset, pair in enumerate(chunk):
            if not isinstance(pair, tuple | list) or len(pair) != 2:
                raise ValueError(
                    "pairs must be (source, target) tuples of two texts or two lists of ids. "
                    f"Correct the corpus. Received: pairs[{first + offset}]={_shown(pair)}"
                )
        return [self._encode_side(side, [pair[side] for pair in chunk], first) for side in (0, 1)]

    def _encode_side(self, side: int, values: list[Any], first: int) -> list[np.ndarray]:
        tokenizer, name = self.tokenizers[side], ("source", "target")[side]
        if isinstance(values[0], str):
            for offset, value in enumerate(values):
                check_text(value, f"{name} of pairs[{first + offset}]")
            return [np.array(ids, np.int32) for ids in tokenizer.encode(values)]
        return [
            _check_ids(ids, tokenizer, f"{name} of pairs[{first + offset}]")
            for offset, ids in enumerate(values)
        ]

    def _within_limits(self, sides: list[list[np.ndarray]]) -> tuple[Pool, int]:
        lengths = np.array([[len(ids) for ids in side] for side in sides])
        too_long = (lengths > np.array(self._limits)[:, None]).any(axis=0)
        if self._overlong == "cut":
            pairs = [
                [ids[:limit] for ids in side]
                for side, limit in zip(sides, self._limits, strict=True)
            ]
        else:
            keep = np.flatnonzero(~too_long)
            pairs = [[side[i] for i in keep] for side in sides]
        return Pool(Rows.of(pairs[0]), Rows.of(pairs[1])), int(too_long.sum())


def _check_ids(ids: Any, tokenizer: Tokenizer, name: str) -> np.ndarray:
    try:
        array = np.asarray(ids if len(ids) else np.zeros(0, np.int32))
    except (TypeError, ValueError):
        array = np.zeros(0)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise ValueError(
            f"{name} must be a text or a list of integer ids, all pairs alike. Correct the "
            f"corpus. Received: {_shown(ids)}"
        )
    outside = np.flatnonzero((array < 0) | (array >= tokenizer.vocab_size))
    if len(outside):
        raise ValueError(
            f"{name} must have ids from 0 to {tokenizer.vocab_size - 1}, the tokenizer's "
            "vocabulary. Use the tokenizer that made them. "
            f"Received: id {array[outside[0]]} at position {outside[0]}"
        )
    special = np.flatnonzero(np.isin(array, (tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id)))
    if len(special):
        raise ValueError(
            f"{name} must not have padding, begin or end ids: batches add them. Pass what "
            f"Tokenizer.encode returns. Received: id {array[special[0]]} at position {special[0]}"
        )
    return array.astype(np.int32)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:60] + "..."
