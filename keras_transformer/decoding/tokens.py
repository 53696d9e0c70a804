"""Which tokens may come and which must, and the growing table of those that came."""

from typing import Any, NamedTuple

import numpy as np
from keras import ops

FORBIDDEN = -1e9


class TokenRules(NamedTuple):
    """What a search must know of the vocabulary."""

    vocab_size: int  # V
    eos_id: int  # ends a hypothesis
    pad_id: int  # stands behind the end, and is never output
    banned_ids: tuple[int, ...] = ()  # are never output either
    min_length: Any = None  # fewest tokens, the end symbol included: integer scalar; None: any

    def bias(self, step):
        """Float32 `[V]` to add to the log-probabilities of position `step`, from 0."""
        bias = np.zeros(self.vocab_size, "float32")
        bias[[self.pad_id, *self.banned_ids]] = FORBIDDEN
        if self.min_length is None:
            return bias
        without_end = bias.copy()
        without_end[self.eos_id] = FORBIDDEN
        return ops.where(step + 1 < self.min_length, without_end, bias)


def prefix_at(prefix, step):
    """Return what must come at position `step`, `[b]` of prefixes `[b, P + 1]`; pad: anything."""
    return ops.take(prefix, ops.minimum(step, ops.shape(prefix)[1] - 1), axis=1)


def first_tokens(rows, length, capacity, pad_id):
    """Return a table of no tokens yet: int32 `[rows, 0]`, or `[rows, L]` of pads.

    Args:
        rows: number of rows, an int or a scalar tensor.
        length: 0 as a scalar tensor where `rows` is one, so that a compiled loop lets it grow.
        capacity: L, for compilers that want fixed shapes; None: the table grows.
        pad_id: fills the table.
    """
    return ops.full((rows, length if capacity is None else capacity), pad_id, "int32")


def append(table, tokens, step, capacity):
    """Return the table `[R, t]` with one more column `[R]`, or `[R, L]` with it at `step`."""
    column = ops.expand_dims(tokens, 1)
    if capacity is None:
        return ops.concatenate([table, column], axis=1)
    return ops.slice_update(table, (0, step), column)


def lengths(ids, pad_id):
    """Return how many tokens stand before the pads, float32: `[..., t]` -> `[...]`."""
    return ops.sum(ops.cast(ops.not_equal(ids, pad_id), "float32"), axis=-1)
