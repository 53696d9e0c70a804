"""Batches of token ids in few static shapes, in an order that only seed, epoch and step decide."""

import hashlib
import math
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from keras_transformer.data.corpus import check_reiterable, corpus_identity
from keras_transformer.data.pool import Encoder, Pool, Side, empty_pool, join
from keras_transformer.data.shapes import (
    Shape,
    assign,
    choose_shapes,
    deal,
    fill,
    make_shape,
    merge_leftovers,
)
from keras_transformer.data.stored_pools import Read, StoredPools
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
        source_tokens: source positions that are not padding, end ids included; where texts are cut
            in several ways, the number to be expected.
        target_tokens: the same of target positions.
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
    order of the corpus, and so are a pool's batches. A corpus of one pool is tokenized once and
    kept in memory, a larger one is streamed. Pairs left over from a pool go into the next one.

    The order is a function of (seed, epoch, step) alone: `batches(epoch)` may be called for any
    epoch at any time. `failure` is the error that ended a pass, None without one.

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
        cache: a folder of this corpus's own, where it is kept as ids, so that each pair is
            tokenized once and not in every epoch and every process; None: nothing is kept. Only
            for corpora that say who they are (`identity`), as those of this package do.
        subword_nbest: in how many ways a text may be cut; above 1, each epoch draws one of the most
            probable ones (Kudo 2018, https://arxiv.org/abs/1804.10959). For unigram tokenizers.
        subword_alpha: they are drawn by probability to this power, from 0: all alike.
        divisible_by: rows of padding that others add to batches make their number a multiple of
            this; `statistics` counts them.

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
        cache: Path | None = None,
        subword_nbest: int = 1,
        subword_alpha: float = 0.1,
        divisible_by: int = 1,
    ):
        counts = {
            "batch_tokens": batch_tokens,
            "max_source_length": max_source_length,
            "max_target_length": max_target_length,
            "num_shapes": num_shapes,
            "pool_size": pool_size,
            "subword_nbest": subword_nbest,
            "divisible_by": divisible_by,
        }
        _check_integers({"seed": seed}, 0)
        _check_integers(counts, 1)
        if overlong not in ("skip", "cut"):
            raise ValueError(
                'overlong must be "skip" or "cut". Choose what happens to pairs above the length '
                f"limits. Received: overlong={overlong!r}"
            )
        if not 0 <= subword_alpha < math.inf:
            raise ValueError(
                "subword_alpha must be a number from 0. Lower it for more variety. "
                f"Received: subword_alpha={subword_alpha!r}"
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
        self._alpha, self._divisible_by = subword_alpha, divisible_by
        self._encoder = Encoder(
            source, target, max_source_length, max_target_length, overlong, subword_nbest
        )
        about = {
            "corpus": corpus_identity(pairs) if cache else "",
            "tokenizers": [hashlib.sha256(t.serialized).hexdigest() for t in (source, target)],
            "limits": [max_source_length, max_target_length, overlong, pool_size],
            "nbest": subword_nbest,
        }
        self._stored = StoredPools(cache, about)
        self._first_pool = self._read_first_pool()
        self._shapes = self._choose_shapes(
            batch_tokens, num_shapes, (max_source_length, max_target_length)
        )
        self._statistics = self._measure_first_pool()
        self.failure: Exception | None = None

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
        """Yields the batches of an epoch in its order, without the first `skip` ones.

        Batches that are skipped are not built; pairs of a streamed corpus are still tokenized.
        """
        total = Statistics(complete=True)
        carried = empty_pool()
        for number, read in enumerate(self._recording_failure(self._pools())):
            pool = join([carried, read.pool])
            plan, leftovers = self._plan(pool, read.last, (epoch, number))
            total = self._added(total, pool, plan)
            total = replace(total, overlong=total.overlong + read.overlong)
            carried = pool.take(leftovers)
            for place, (index, members) in enumerate(plan[skip:], start=skip):
                chance = np.random.default_rng([self._seed, epoch, number, place])
                yield self._build(pool, self._shapes[index], members, chance)
            skip = max(0, skip - len(plan))
        if not total.batches:
            raise ValueError(_all_overlong(total.overlong))
        self._statistics = total

    def stream(self, start_step: int = 0) -> Iterator[Batch]:
        """Yields the batches of epochs 0, 1, 2 and so on without end, from a step on."""
        epoch, skip = 0, start_step
        while True:
            if self.steps_per_epoch:
                epochs, skip = divmod(skip, self.steps_per_epoch)
                epoch += epochs
            yield from self.batches(epoch, skip)
            # Known at the latest now that an epoch has ended.
            skip = max(0, skip - (self.steps_per_epoch or 0))
            epoch += 1

    @property
    def replaced(self) -> bool:
        """Whether `cache` held ids of other pairs, or of these files before they changed."""
        return self._stored.replaced

    def locate(self, step: int) -> tuple[int, int]:
        """Returns (epoch, step in that epoch) of a step counted from the start of epoch 0.

        A streamed corpus whose number of steps is not known yet is read once, unless `step` is 0.
        """
        if step and self.steps_per_epoch is None:
            for _ in self.batches(skip=sys.maxsize):
                pass
        return divmod(step, self.steps_per_epoch) if self.steps_per_epoch else (0, step)

    def _read_first_pool(self) -> Read:
        read = next(self._read_pools(0, 0), None)
        if read is None or not read.pairs:
            raise ValueError(
                "pairs must have at least one pair. Check the corpus and how it was split. "
                "Received: no pairs"
            )
        if read.last and not len(read.pool):
            raise ValueError(_all_overlong(read.pairs))
        return read

    def _recording_failure(self, reads: Iterator[Read]) -> Iterator[Read]:
        """Keeps the error of a bad pair, since tf.data turns it into one of its own."""
        try:
            yield from reads
        except Exception as error:
            self.failure = error
            raise

    def _pools(self) -> Iterator[Read]:
        yield self._first_pool
        if not self._first_pool.last:
            yield from self._read_pools(1, self._first_pool.pairs)

    def _read_pools(self, number: int, first: int) -> Iterator[Read]:
        """Yields the pools from a number on, which begins with pair `first`: kept ones, then new.

        Tokenizing goes on where what was kept ends, as it does in a run that was interrupted.
        """
        while (kept := self._stored.load(number)) is not None:
            yield kept
            if kept.last:
                return
            number, first = number + 1, first + kept.pairs
        for new in self._tokenized(islice(self._pairs, first, None), first):
            self._stored.save(number, new)
            yield new
            number += 1

    def _tokenized(self, pairs: Iterator[Any], first: int) -> Iterator[Read]:
        following: list[Any] = []
        while True:
            pool, count, overlong = self._encoder.pool(
                chain(following, pairs), self._pool_size, first
            )
            following = list(islice(pairs, 1))
            yield Read(pool, count, overlong, last=not following)
            if not following:
                return
            first += count

    def _choose_shapes(
        self, batch_tokens: int, num_shapes: int, limits: tuple[int, int]
    ) -> list[Shape]:
        pool, whole = self._first_pool.pool, self._first_pool.last
        # Pairs of later pools may be longer: one shape of a streamed corpus covers all of them.
        count = num_shapes if whole else num_shapes - 1
        shapes: list[Shape] = []
        if count and len(pool):
            shapes = choose_shapes(*_lengths(pool), batch_tokens, count)
        if not whole and not any(s.source == limits[0] and s.target == limits[1] for s in shapes):
            shapes.append(make_shape(*limits, batch_tokens))
        return shapes

    def _measure_first_pool(self) -> Statistics:
        read = self._first_pool
        plan = fill(self._shapes, assign(self._shapes, *_lengths(read.pool)))
        empty = Statistics(overlong=read.overlong, complete=read.last)
        return self._added(empty, read.pool, plan)

    def _added(
        self, total: Statistics, pool: Pool, plan: list[tuple[int, np.ndarray]]
    ) -> Statistics:
        """Returns the statistics with those of the planned batches of a pool in them."""
        tokens = [
            round(sum(float(lengths[members].sum()) + len(members) for _, members in plan))
            for lengths in (
                side.expected_lengths(self._alpha) for side in (pool.source, pool.target)
            )
        ]
        positions = 0
        for index, _ in plan:
            shape = self._shapes[index]
            rows = shape.rows + -shape.rows % self._divisible_by
            positions += rows * (shape.source + shape.target)
        return replace(
            total,
            batches=total.batches + len(plan),
            pairs=total.pairs + sum(len(members) for _, members in plan),
            source_tokens=total.source_tokens + tokens[0],
            target_tokens=total.target_tokens + tokens[1],
            positions=total.positions + positions,
        )

    def _plan(
        self, pool: Pool, last: bool, key: tuple[int, int]
    ) -> tuple[list[tuple[int, np.ndarray]], np.ndarray]:
        """Returns (shape index, pairs) of each batch in order, and the pairs left over."""
        generator = np.random.default_rng([self._seed, *key])
        order = generator.permutation(len(pool)) if self._shuffle else np.arange(len(pool))
        assigned = assign(self._shapes, *_lengths(pool))[order]
        plan, leftovers = deal(self._shapes, assigned)
        if last:
            plan += merge_leftovers(self._shapes, leftovers)
            leftovers = []
        if self._shuffle:
            plan = [plan[i] for i in generator.permutation(len(plan))]
        left = np.sort(np.concatenate([np.zeros(0, np.int64), *leftovers]))
        return [(index, order[members]) for index, members in plan], order[left]

    def _build(
        self, pool: Pool, shape: Shape, members: np.ndarray, chance: np.random.Generator
    ) -> Batch:
        source_ids = self._ids(pool.source, shape.source, shape.rows, members, chance, self._source)
        target_out = self._ids(pool.target, shape.target, shape.rows, members, chance, self._target)
        target_in = np.empty_like(target_out)
        target_in[:, 1:] = target_out[:, :-1]
        target_in[target_in == self._target.eos_id] = self._target.pad_id
        target_in[:, 0] = self._target.pad_id
        target_in[: len(members), 0] = self._start_id
        return Batch(source_ids, target_in, target_out)

    def _ids(
        self,
        side: Side,
        length: int,
        rows: int,
        members: np.ndarray,
        chance: np.random.Generator,
        tokenizer: Tokenizer,
    ) -> np.ndarray:
        """Return [rows, length]: a way to cut each text, with the end id, then padding."""
        ways = side.draw(members, self._alpha, chance)
        ids = side.rows.padded(ways, rows, length, tokenizer.pad_id)
        ids[np.arange(len(members)), side.rows.lengths[ways]] = tokenizer.eos_id
        return ids


def _lengths(pool: Pool) -> tuple[np.ndarray, np.ndarray]:
    """Source and target lengths with the end id, each text cut into the most pieces."""
    return pool.source.longest + 1, pool.target.longest + 1


def _all_overlong(pairs: int) -> str:
    return (
        "pairs must have at least one pair within max_source_length and max_target_length. Raise "
        f'them or use overlong="cut". Received: {pairs} pairs, all longer'
    )


def _check_integers(values: dict[str, int], lowest: int) -> None:
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < lowest:
            raise ValueError(
                f"{name} must be an integer from {lowest}. Change it. Received: {name}={value!r}"
            )
