"""Batches of token ids in few static shapes, in an order that only seed, epoch and step decide."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any, Literal, NamedTuple

import numpy as np

from keras_transformer.data.corpus import check_reiterable
from keras_transformer.data.pool import Encoder, Pool, Rows, empty_pool, join
from keras_transformer.data.shapes import (
    Shape,
    assign,
    choose_shapes,
    deal,
    make_shape,
    merge_leftovers,
)
from keras_transformer.text.tokenizer import Tokenizer

_POOL_SIZE = 131_072


class Batch(NamedTuple):
    """One batch of ids, padded on the right; int32.

    Attributes:
        source_ids: [B, S], pieces and end id.
        target_in: [B, T], start id and pieces.
        target_out: [B, T], pieces and end id.
    """

    source_ids: np.ndarray
    target_in: np.ndarray
    target_out: np.ndarray


@dataclass(frozen=True)
class Statistics:
    """What one epoch consists of.

    Attributes:
        batches: number of batches (steps).
        pairs: number of pairs in them.
        source_tokens: source positions that are not padding, end ids included.
        target_tokens: target positions that are not padding, end ids included.
        positions: all source and target positions of the batches.
        overlong: pairs with a side above its limit, which were skipped or cut.
        complete: False when the corpus is larger than one pool and no epoch has been read to its
            end yet: all numbers are then those of the first pool.
    """

    batches: int = 0
    pairs: int = 0
    source_tokens: int = 0
    target_tokens: int = 0
    positions: int = 0
    overlong: int = 0
    complete: bool = False

    @property
    def padding_waste(self) -> float:
        """The share of padding among all source and target positions, empty rows included."""
        return 1 - (self.source_tokens + self.target_tokens) / max(1, self.positions)


class BatchStream:
    """Batches of pairs, bucketed by length.

    Every batch has one of at most `num_shapes` shapes (`shapes`), chosen from the first pool of
    pairs. Batches are full; only the last few of an epoch may have rows that are all padding.
    An epoch has every pair once. Pairs are shuffled inside pools of `pool_size`, read in the
    order of the corpus, and so are a pool's batches; a corpus of one pool is tokenized once and
    kept in memory, a larger one is streamed. Pairs left over from a pool go into the next one.

    The order is a function of (seed, epoch, step) alone: `batches(epoch)` may be called for any
    epoch at any time.

    Args:
        pairs: a corpus that can be iterated more than once: (source, target) texts, or lists of
            ids as `Tokenizer.encode` returns them.
        source: `Tokenizer` of the sources.
        target: `Tokenizer` of the targets.
        batch_tokens: the most positions, padding included, of a batch on either side. A single
            pair that is longer still makes a batch.
        seed: for shuffling, an integer from 0.
        shuffle: False keeps the order of the corpus inside each shape.
        max_source_length: the most source ids of a pair, end id included.
        max_target_length: the most target ids of a pair, end id included.
        overlong: "skip" pairs above a limit or "cut" them; `statistics` counts them.
        num_shapes: the most shapes of batches.
        decoder_start_id: what `target_in` begins with; None: the target tokenizer's begin id.
        pool_size: pairs that are shuffled together.

    Raises:
        ValueError: for an argument out of range, an iterator in place of a corpus, a corpus
            without a usable pair, text with U+0000, and ids outside the vocabulary. Errors in
            pairs beyond the first pool come when they are read.
    """

    def __init__(
        self,
        pairs: Iterable[Any],
        source: Tokenizer,
        target: Tokenizer,
        *,
        batch_tokens: int = 4096,
        seed: int = 0,
        shuffle: bool = True,
        max_source_length: int = 256,
        max_target_length: int = 256,
        overlong: Literal["skip", "cut"] = "skip",
        num_shapes: int = 16,
        decoder_start_id: int | None = None,
        pool_size: int = _POOL_SIZE,
    ):
        counts = {
            "batch_tokens": batch_tokens,
            "max_source_length": max_source_length,
            "max_target_length": max_target_length,
            "num_shapes": num_shapes,
            "pool_size": pool_size,
        }
        _check_integers({"seed": seed}, 0)
        _check_integers(counts, 1)
        if overlong not in ("skip", "cut"):
            raise ValueError(
                'overlong must be "skip" or "cut". Choose what happens to pairs above the length '
                f"limits. Received: overlong={overlong!r}"
            )
        start = target.bos_id if decoder_start_id is None else decoder_start_id
        if not 0 <= start < target.vocab_size:
            raise ValueError(
                f"decoder_start_id must be from 0 to {target.vocab_size - 1}, the target "
                f"vocabulary. Leave it out. Received: decoder_start_id={decoder_start_id!r}"
            )
        check_reiterable(pairs)
        self._pairs, self._pool_size = pairs, pool_size
        self._source, self._target, self._start_id = source, target, start
        self._seed, self._shuffle = seed, shuffle
        self._encoder = Encoder(source, target, max_source_length, max_target_length, overlong)
        self._first_pool, self._first_read, overlong_pairs, self._whole = self._read_first_pool()
        self._shapes = self._choose_shapes(
            batch_tokens, num_shapes, max_source_length, max_target_length
        )
        self._statistics = self._measure_first_pool(overlong_pairs)

    @property
    def shapes(self) -> tuple[Shape, ...]:
        """The shapes that batches have, smallest first."""
        return tuple(self._shapes)

    @property
    def steps_per_epoch(self) -> int | None:
        """Batches of an epoch; None for a streamed corpus before its first epoch has ended."""
        return self._statistics.batches if self._statistics.complete else None

    def statistics(self) -> Statistics:
        """Returns the size, padding and overlong pairs of one epoch; see `Statistics`."""
        return self._statistics

    def batches(self, epoch: int = 0, skip: int = 0) -> Iterator[Batch]:
        """Yields the batches of an epoch in its order, without the first `skip` ones."""
        total = Statistics()
        for number, (pool, overlong, last) in enumerate(self._pools(epoch)):
            plan = self._plan(pool, last, self._generator(epoch, number, 1))
            total = self._add(total, pool, plan, overlong)
            for shape_index, members in plan[skip:]:
                yield self._build(pool, self._shapes[shape_index], members)
            skip = max(0, skip - len(plan))
        self._statistics = Statistics(**{**vars(total), "complete": True})

    def stream(self, start_step: int = 0) -> Iterator[Batch]:
        """Yields the batches of epoch 0, 1, 2 and so on without end, from a step on.

        The same batches as from step 0 without the first `start_step`: those are not built.
        """
        epoch, skip = self.locate(start_step)
        while True:
            yield from self.batches(epoch, skip)
            epoch, skip = epoch + 1, 0

    def locate(self, step: int) -> tuple[int, int]:
        """Returns (epoch, step inside that epoch) of a step counted from the very first.

        A streamed corpus is read once where its number of steps is not known and `step` is not
        below the number of the first pool's.
        """
        if self.steps_per_epoch is None:
            if step <= self._statistics.batches // 2:
                return 0, step
            for _ in self.batches(0, skip=2**62):
                pass
        assert_steps = self.steps_per_epoch
        return divmod(step, assert_steps)

    def _pools(self, epoch: int) -> Iterator[tuple[Pool, int, bool]]:
        """Yields (pool, overlong pairs, whether it is the last) with leftovers carried along."""
        raise NotImplementedError
