"""Greedy search: the paper's prediction loop, one position at a time, with a cache."""

from typing import Any, NamedTuple

from keras import ops

from keras_transformer.decoding.scoring import token_bias


class GreedyState(NamedTuple):
    """The loop state of `greedy`, and its result."""

    step: Any  # int32 scalar: positions decoded so far, t
    last: Any  # int32 [R]: the newest token of each row
    ids: Any  # int32 [R, t] or [R, L]: tokens, the end symbol included, pads behind it
    lengths: Any  # int32 [R]: tokens of each row, the end symbol included
    log_probs: Any  # float32 [R]: sum over the tokens
    finished: Any  # bool [R]: the end symbol was output
    cache: Any  # opaque, rows R


def greedy(
    step,
    start_ids,
    limits,
    cache,
    *,
    vocab_size,
    eos_id,
    pad_id,
    banned_ids=(),
    capacity=None,
):
    """Choose the most probable token again and again until every row has ended.

    Args:
        step: function `(ids [R], step, cache) -> (logits [R, V], cache)`.
        start_ids: int32 `[R]`, what stands before the first token.
        limits: int32 `[R]`, the most tokens of each row.
        cache: the first cache, opaque to the search.
        vocab_size: V.
        eos_id: ends a row.
        pad_id: fills a row behind its end.
        banned_ids: tokens that are never output.
        capacity: None: the ids grow with each step, as a grown cache does. A Python int L, no
            limit above it: they are a buffer of L, for compilers that want fixed shapes.

    Returns:
        `GreedyState`. Ties go to the lower id. A row without end symbol was cut at its limit.
    """
    bias = token_bias(vocab_size, banned_ids)

    def is_open(state):
        return ops.logical_not(ops.logical_or(state.finished, state.lengths >= limits))

    def proceed(state):
        return ops.any(is_open(state))

    def extend(state):
        logits, cache = step(state.last, state.step, state.cache)
        allowed = logits + bias
        open_rows = is_open(state)
        chosen = ops.cast(ops.argmax(allowed, axis=-1), "int32")
        chosen = ops.where(open_rows, chosen, ops.cast(pad_id, "int32"))
        highest = ops.max(logits, axis=-1)
        total = ops.sum(ops.exp(logits - ops.expand_dims(highest, 1)), axis=-1)
        log_prob = ops.max(allowed, axis=-1) - highest - ops.log(total)
        return (
            GreedyState(
                step=state.step + 1,
                last=chosen,
                ids=_with(state.ids, ops.expand_dims(chosen, 1), state.step, capacity),
                lengths=state.lengths + ops.cast(open_rows, "int32"),
                log_probs=state.log_probs + ops.where(open_rows, log_prob, 0.0),
                finished=ops.logical_or(state.finished, ops.equal(chosen, eos_id)),
                cache=cache,
            ),
        )

    rows = ops.shape(start_ids)[0]
    first = GreedyState(
        step=ops.cast(0, "int32"),
        last=start_ids,
        ids=ops.full((rows, rows * 0 if capacity is None else capacity), pad_id, "int32"),
        lengths=ops.zeros((rows,), "int32"),
        log_probs=ops.zeros((rows,), "float32"),
        finished=ops.zeros((rows,), "bool"),
        cache=cache,
    )
    return ops.while_loop(proceed, extend, (first,))[0]


def _with(ids, column, step, capacity):
    """Ids `[R, t]` with one more column `[R, 1]`, or `[R, L]` with it at `step`."""
    if capacity is None:
        return ops.concatenate([ids, column], axis=1)
    return ops.slice_update(ids, (0, step), column)
