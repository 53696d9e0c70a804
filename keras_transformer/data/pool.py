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


class Side(NamedTuple):
    """The texts of one side: text i has the ways `rows[firsts[i]]` to be cut and those after it.

    Attributes:
        rows: every way of every text, the usual one of each text first.
        firsts: index in `rows` of the usual way of each text.
        counts: number of ways of each text, 1 without sampling.
        log_probs: float32, of each way.
    """

    rows: Rows
    firsts: np.ndarray
    counts: np.ndarray
    log_probs: np.ndarray

    @classmethod
    def of(cls, texts: Sequence[Sequence[tuple[np.ndarray, float]]]) -> "Side":
        """Joins the (ids, log probability) of every way of every text."""
        counts = np.fromiter((len(ways) for ways in texts), np.int64, len(texts))
        log_probs = np.array([log_prob for ways in texts for _, log_prob in ways], np.float32)
        rows = Rows.of([ids for ways in texts for ids, _ in ways])
        return cls(rows, np.cumsum(counts) - counts, counts, log_probs)

    @property
    def lengths(self) -> np.ndarray:
        """The length of each text, cut as usual."""
        return self.rows.lengths[self.firsts]

    @property
    def longest(self) -> np.ndarray:
        """The length of each text, cut into the most pieces."""
        if not len(self.firsts):
            return np.zeros(0, np.int64)
        return np.maximum.reduceat(self.rows.lengths, self.firsts)

    def expected_lengths(self, alpha: float) -> np.ndarray:
        """The mean length of each text as `draw` cuts it; float64 where it has several ways."""
        if len(self.log_probs) == len(self.counts):  # one way each
            return self.lengths
        text = np.repeat(np.arange(len(self.counts)), self.counts)
        log_probs = self.log_probs.astype(np.float64)
        weights = np.exp(alpha * (log_probs - np.maximum.reduceat(log_probs, self.firsts)[text]))
        totals = np.add.reduceat(weights, self.firsts)
        return np.add.reduceat(weights * self.rows.lengths, self.firsts) / totals

    def take(self, indices: np.ndarray) -> "Side":
        """Returns a copy of the chosen texts, in this order."""
        counts = self.counts[indices]
        firsts = np.cumsum(counts) - counts
        ways = np.repeat(self.firsts[indices] - firsts, counts) + np.arange(counts.sum())
        return Side(self.rows.take(ways), firsts, counts, self.log_probs[ways])

    def draw(self, texts: np.ndarray, alpha: float, chance: np.random.Generator) -> np.ndarray:
        """Returns an index in `rows` for each text, drawn by probability to the power alpha."""
        chosen = self.firsts[texts]
        for i in np.flatnonzero(self.counts[texts] > 1):
            first, count = self.firsts[texts[i]], self.counts[texts[i]]
            log_probs = self.log_probs[first : first + count].astype(np.float64)
            weights = np.exp(alpha * (log_probs - log_probs.max()))
            chosen[i] += chance.choice(count, p=weights / weights.sum())
        return chosen


@dataclass(frozen=True, eq=False)
class Pool:
    """Pieces of the sources and targets of some pairs, without special ids."""

    source: Side
    target: Side

    def __len__(self) -> int:
        return len(self.source.counts)

    def take(self, indices: np.ndarray) -> "Pool":
        """Returns a copy of the chosen pairs, in this order."""
        return Pool(self.source.take(indices), self.target.take(indices))


def empty_pool() -> Pool:
    """Returns a pool without pairs."""
    return Pool(Side.of([]), Side.of([]))


def join(pools: Iterable[Pool]) -> Pool:
    """Returns one pool with the pairs of all, in order."""
    parts = list(pools)
    return Pool(
        _join_sides([part.source for part in parts]), _join_sides([part.target for part in parts])
    )


def _join_sides(parts: list[Side]) -> Side:
    return Side(
        _join_rows([part.rows for part in parts]),
        _shifted([(part.firsts, len(part.rows.lengths)) for part in parts]),
        np.concatenate([part.counts for part in parts]),
        np.concatenate([part.log_probs for part in parts]),
    )


def _join_rows(parts: list[Rows]) -> Rows:
    return Rows(
        np.concatenate([part.flat for part in parts]),
        _shifted([(part.starts, len(part.flat)) for part in parts]),
        np.concatenate([part.lengths for part in parts]),
    )


def _shifted(parts: list[tuple[np.ndarray, int]]) -> np.ndarray:
    """Join indices into arrays of the given sizes to indices into those arrays joined."""
    sizes = np.cumsum([0] + [size for _, size in parts[:-1]])
    return np.concatenate([indices + size for (indices, _), size in zip(parts, sizes, strict=True)])


class Encoder:
    """Turns pairs of texts, or of id lists, into pools, and applies the length limits.

    With `nbest` above 1, each text gets so many ways to be cut, for sampling; those above a limit
    are left out. The limits count the end id. `overlong` and its counts: a pair with a side above
    its limit is skipped, or the side is cut to the limit.
    """

    def __init__(
        self,
        source: Tokenizer,
        target: Tokenizer,
        max_source_length: int,
        max_target_length: int,
        overlong: Literal["skip", "cut"],
        nbest: int = 1,
    ):
        self._nbest = nbest
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

    def _encode(self, chunk: list[Any], first: int) -> "list[list[list[_Way]]]":
        for offset, pair in enumerate(chunk):
            if not isinstance(pair, tuple | list) or len(pair) != 2:
                raise ValueError(
                    "pairs must be (source, target) tuples of two texts or two lists of ids. "
                    f"Correct the corpus. Received: pairs[{first + offset}]={_shown(pair)}"
                )
        return [self._encode_side(side, [pair[side] for pair in chunk], first) for side in (0, 1)]

    def _encode_side(self, side: int, values: list[Any], first: int) -> "list[list[_Way]]":
        tokenizer, name = self.tokenizers[side], ("source", "target")[side]
        if not isinstance(values[0], str):
            return [
                [(_check_ids(ids, tokenizer, f"{name} of pairs[{first + offset}]"), 0.0)]
                for offset, ids in enumerate(values)
            ]
        for offset, value in enumerate(values):
            check_text(value, f"{name} of pairs[{first + offset}]")
        if self._nbest == 1:
            return [[(np.array(ids, np.int32), 0.0)] for ids in tokenizer.encode(values)]
        texts = tokenizer.encode_nbest(values, self._nbest)
        return [[(np.array(ids, np.int32), log_prob) for ids, log_prob in ways] for ways in texts]

    def _within_limits(self, sides: "list[list[list[_Way]]]") -> tuple[Pool, int]:
        lengths = np.array([[len(ways[0][0]) for ways in side] for side in sides])
        too_long = (lengths > np.array(self._limits)[:, None]).any(axis=0)
        keep = np.flatnonzero(~too_long) if self._overlong == "skip" else range(len(sides[0]))
        kept = [
            Side.of([_short_ways(side[i], limit) for i in keep])
            for side, limit in zip(sides, self._limits, strict=True)
        ]
        return Pool(*kept), int(too_long.sum())


_Way = tuple[np.ndarray, float]


def _short_ways(ways: list[_Way], limit: int) -> list[_Way]:
    """Return the ways up to a limit, and the usual one in any case, cut to it."""
    (usual, log_prob), *others = ways
    short = [way for way in others if len(way[0]) <= limit and len(usual) <= limit]
    return [(usual[:limit], log_prob), *short]


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
