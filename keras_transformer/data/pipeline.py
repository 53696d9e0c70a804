"""Batches of token ids as a `tf.data.Dataset` for `model.fit`."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from keras_transformer import backend
from keras_transformer.data.batching import Batch, BatchStream
from keras_transformer.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    import tensorflow as tf

_AHEAD = 8


def make_dataset(
    pairs: Iterable[Any],
    source: Tokenizer,
    target: Tokenizer,
    batch_tokens: int = 4096,
    seed: int = 0,
    *,
    shuffle: bool = True,
    repeat: bool = False,
    start_step: int = 0,
    max_source_length: int = 256,
    max_target_length: int = 256,
    overlong: Literal["skip", "cut"] = "skip",
    num_shapes: int = 16,
    decoder_start_id: int | None = None,
    shard: tuple[int, int] = (0, 1),
    devices: int = 1,
    cache: str | os.PathLike[str] | None = None,
    subword_nbest: int = 1,
    subword_alpha: float = 0.1,
) -> tf.data.Dataset:
    """Returns batches of ids in few static shapes, with little padding.

    With `source_ids` = pieces + end id, `target_in` = start id + pieces and `target_out` =
    pieces + end id, padded on the right, each element is
    `((source_ids [B, S], target_in [B, T]), target_out [B, T])`, int32. B, S and T take at most
    `num_shapes` values together; a last short batch is filled with rows that are all padding. The
    first 131,072 pairs are tokenized at once, so that errors in them come here; a corpus of no
    more pairs stays in memory as ids, a larger one is streamed in constant memory.

    Args:
        pairs: a corpus that can be iterated more than once: (source, target) texts, or lists of
            ids as `Tokenizer.encode` returns them.
        source: `Tokenizer` of the sources.
        target: `Tokenizer` of the targets; the same object for a joint vocabulary.
        batch_tokens: the most positions, padding included, of a batch on either side.
        seed: the order is a function of (seed, epoch, step) alone.
        shuffle: False keeps one order at every pass, for validation.
        repeat: False: a pass is one epoch, and each fresh iteration takes the next epoch's order.
            True: one endless stream of epochs, the same at every fresh iteration; `fit` then wants
            `steps_per_epoch`. Take it for a streamed corpus: where Keras finds the end of one only
            by reaching it, it warns, and counts one optimizer step too many in each epoch.
        start_step: the first batch, counted from the start of epoch 0; for resuming. The batches
            from there on are the ones an uninterrupted run would have seen. Without `repeat` each
            iteration goes on where the last one ended, and is as many steps as a whole epoch.
        max_source_length: the most source ids of a pair, end id included.
        max_target_length: the most target ids of a pair, end id included.
        overlong: "skip" pairs above a limit or "cut" them to it; counted in the statistics.
        num_shapes: the most shapes. Fewer mean fewer compilations and more padding.
        decoder_start_id: what `target_in` begins with; None: the target tokenizer's begin id.
        shard: (index, count): of each batch, the rows of one of `count` processes, a block of
            equal size; together the blocks are the batch of a single process. Every process reads
            the whole corpus.
        devices: of each process, which share its rows. Rows of padding make a batch divisible.
        cache: a folder where this corpus is kept as ids (2 to 4 bytes a token), so that each pair
            is tokenized once, and not in every epoch of a large corpus and at every start. For
            corpora with a method `identity`, as those of this package; files that have changed
            are tokenized anew. Each dataset wants a folder of its own: it removes what is not its
            corpus.
        subword_nbest: above 1, each epoch cuts a text in one of so many of the most probable ways
            (subword regularisation, Kudo 2018, https://arxiv.org/abs/1804.10959), and shapes have
            room for the longest of them. Wants unigram tokenizers.
        subword_alpha: they are drawn by probability to this power; 0: all alike.

    Returns:
        A `tf.data.Dataset`. `stream_of(dataset).statistics()` tells its size and padding. Its
        cardinality is set where it is known without reading a streamed corpus to its end.

    Raises:
        ValueError: for an argument out of range, an iterator in place of a corpus, a corpus
            without a usable pair, text with U+0000, and ids outside the vocabulary.
        ImportError: when TensorFlow is not installed.

    Example:
        >>> train = make_dataset(pairs, source, target)                 # doctest: +SKIP
        >>> model.fit(train, epochs=20, shuffle=False)                  # doctest: +SKIP
    """
    if not _is_integer(start_step) or start_step < 0:
        raise ValueError(
            "start_step must be an integer from 0. Give the number of batches already seen. "
            f"Received: start_step={start_step!r}"
        )
    _check_shard(shard, devices)
    stream = BatchStream(
        pairs,
        source,
        target,
        batch_tokens=batch_tokens,
        seed=seed,
        shuffle=shuffle,
        max_source_length=max_source_length,
        max_target_length=max_target_length,
        overlong=overlong,
        num_shapes=num_shapes,
        decoder_start_id=decoder_start_id,
        cache=None if cache is None else Path(cache),
        subword_nbest=subword_nbest,
        subword_alpha=subword_alpha,
        divisible_by=shard[1] * devices,
    )
    pads = (source.pad_id, target.pad_id, target.pad_id)

    def share(batch: Batch) -> Batch:
        blocks = (_block(ids, pad, shard, devices) for ids, pad in zip(batch, pads, strict=True))
        return Batch(*blocks)

    return _as_dataset(stream, repeat, start_step, share)


def _check_shard(shard: tuple[int, int], devices: int) -> None:
    if len(shard) != 2 or not all(map(_is_integer, shard)) or not 0 <= shard[0] < shard[1]:
        raise ValueError(
            "shard must be (index, count), integers with 0 <= index < count. Give the number of "
            f"this process and that of all. Received: shard={shard!r}"
        )
    if not _is_integer(devices) or devices < 1:
        raise ValueError(
            "devices must be an integer from 1. Give the number of devices that share the rows. "
            f"Received: devices={devices!r}"
        )


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _block(ids: np.ndarray, pad_id: int, shard: tuple[int, int], devices: int) -> np.ndarray:
    """Returns the rows of one process, `[B / count, T]` of ids `[B, T]`, filled up with padding."""
    index, count = shard
    missing = -len(ids) % (count * devices)
    filled = np.pad(ids, ((0, missing), (0, 0)), constant_values=pad_id)
    rows = len(filled) // count
    return filled[index * rows : (index + 1) * rows]


def _as_dataset(
    stream: BatchStream,
    repeat: bool,
    start_step: int,
    share: Callable[[Batch], Batch] | None = None,
) -> tf.data.Dataset:
    tf = backend.import_tensorflow()
    if start_step and not repeat:
        stream.locate(start_step)  # from now on the number of steps is known
    steps = stream.steps_per_epoch
    iterations = itertools.count()

    def generate() -> Iterator[tuple[tuple[np.ndarray, np.ndarray], np.ndarray]]:
        iteration = next(iterations)
        batches: Iterator[Batch]
        if repeat:
            batches = stream.stream(start_step)
        elif steps:
            batches = itertools.islice(stream.stream(start_step + iteration * steps), steps)
        else:
            batches = stream.batches(iteration)
        for batch in batches if share is None else map(share, batches):
            yield (batch.source_ids, batch.target_in), batch.target_out

    ids = tf.TensorSpec([None, None], tf.int32)
    dataset = tf.data.Dataset.from_generator(generate, output_signature=((ids, ids), ids))
    if repeat:
        dataset = dataset.apply(
            tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY)
        )
    elif steps:
        dataset = dataset.apply(tf.data.experimental.assert_cardinality(steps))
    dataset = dataset.prefetch(_AHEAD)
    setattr(dataset, _STREAM, stream)
    return dataset


_STREAM = "_keras_transformer_stream"


def stream_of(dataset: tf.data.Dataset) -> BatchStream:
    """Returns the `BatchStream` of a dataset that `make_dataset` returned: statistics, shapes.

    Its `failure` is the plain error of a bad pair, where `model.fit` shows TensorFlow's.

    Raises:
        ValueError: for another dataset, also one made from it by `map` or `take`.
    """
    stream = getattr(dataset, _STREAM, None)
    if stream is None:
        raise ValueError(
            "dataset must be what make_dataset returned. Keep that object before mapping it. "
            f"Received: {type(dataset).__name__}"
        )
    return stream


def one_of_each_shape(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Returns one batch of each shape that a dataset of `make_dataset` has, all ids 1.

    Its elements have the same specification, so that what Keras has traced and XLA has compiled
    for one serves the other.
    """
    tf = backend.import_tensorflow()

    def generate() -> Iterator[tuple[tuple[np.ndarray, np.ndarray], np.ndarray]]:
        for shape in stream_of(dataset).shapes:
            source, target = (
                np.ones((shape.rows, length), np.int32) for length in (shape.source, shape.target)
            )
            yield (source, target), target

    batches = tf.data.Dataset.from_generator(generate, output_signature=dataset.element_spec)
    count = tf.data.experimental.assert_cardinality(len(stream_of(dataset).shapes))
    return batches.apply(count).prefetch(1)


def padding_waste(dataset: Iterable[Any], batches: int | None = None, pad_id: int = 0) -> float:
    """Measures the share of padding among all source and target positions.

    Args:
        dataset: elements `((source_ids, target_in), target_out)`, as of `make_dataset`.
        batches: how many to read; None: all of them, for a dataset that ends.
        pad_id: the id that fills rows.

    Raises:
        ValueError: when there is no batch.
    """
    positions = padding = 0
    for (source_ids, _), target_out in itertools.islice(dataset, batches):
        for ids in (np.asarray(source_ids), np.asarray(target_out)):
            positions += ids.size
            padding += int((ids == pad_id).sum())
    if not positions:
        raise ValueError(
            "dataset must have at least one batch. Check it, and that batches is above 0. "
            f"Received: no batch, batches={batches!r}"
        )
    return padding / positions
