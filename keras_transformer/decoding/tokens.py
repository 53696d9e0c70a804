"""Which tokens may come and which must, and the growing table of those that came."""

from typing import Any, NamedTuple

import numpy as np
from keras import ops

FORBIDDEN = -1e9


class Forbidden(NamedTuple):
    """What may not come, as places in a flattened table of scores."""

    early: Any  # int32 [n, 1]: while the output is too short to end
    later: Any  # int32 [n, 1]: afterwards
    values: Any  # float32 [n]: FORBIDDEN


class TokenRules(NamedTuple):
    """What a search must know of the vocabulary."""

    vocab_size: int  # V
    eos_id: int  # ends a hypothesis
    pad_id: int  # stands behind the end, and is never output
    banned_ids: tuple[int, ...] = ()  # are never output either
    min_length: Any = None  # fewest tokens, the end symbol included: integer scalar; None: any

    def forbidden(self, rows):
        """Return where in a flattened table `[rows, V]` the tokens stand that may not come."""
        never = np.unique([self.pad_id, *self.banned_ids])
        first = ops.expand_dims(ops.cast(ops.arange(rows), "int32") * self.vocab_size, 1)
        early, later = (
            ops.reshape(first + np.append(never, more).astype("int32"), (-1, 1))
            for more in (self.eos_id, self.pad_id)
        )
        return Forbidden(early, later, ops.full((rows * (len(never) + 1),), FORBIDDEN, "float32"))

    def forbid(self, scores, step, forbidden):
        """Return a flattened table of scores in which what may not come at `step` is FORBIDDEN.

        A few tokens of each row are overwritten: adding to all of them takes far longer.

        Args:
            scores: float32 `[rows * V]`.
            step: integer scalar, the position, from 0.
            forbidden: `forbidden(rows)`, made outside the loop.
        """
        early, later, values = forbidden
        if self.min_length is not None:
            later = ops.where(step + 1 < self.min_length, early, later)
        return ops.scatter_update(scores, later, values)


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
