"""Greedy search: the paper's prediction loop, one position at a time, with a cache."""

from collections.abc import Callable
from typing import Any, NamedTuple

from keras import ops

from keras_transformer.decoding.phases import Found, is_open, select_rows
from keras_transformer.decoding.scoring import length_penalty
from keras_transformer.decoding.tokens import (
    TokenRules,
    append,
    first_tokens,
    lengths,
    prefix_at,
)


class GreedyState(NamedTuple):
    """The loop state of greedy search for b sentences."""

    step: Any  # int32 scalar: positions decoded so far, t
    last: Any  # int32 [b]: the newest token of each row
    ids: Any  # int32 [b, t] or [b, L]: tokens, the end symbol included, pads behind it
    log_probs: Any  # float32 [b]: sum over the tokens
    finished: Any  # bool [b]: the end symbol was output
    cache: Any  # opaque, rows b


def best(scores, step=None, index=None):
    """Return the id with the best of the scores `[b, V]`, int32 `[b]`; of ties the lower id."""
    return ops.cast(ops.argmax(scores, axis=-1), "int32")


class GreedySearch(NamedTuple):
    """Chooses the most probable token again and again until every row has ended; n = 1."""

    step: Callable[..., Any]  # (ids [b], step, cache, memory) -> (logits [b, V], cache)
    rules: TokenRules
    start_id: int  # stands before the first token
    alpha: Any = 0.0  # of the length penalty
    # None: ids grow with each step. L: a buffer, for compilers that want fixed shapes; no limit
    # may be above it.
    capacity: int | None = None
    choose: Callable[..., Any] = best  # (scores [b, V], step, index [b]) -> ids [b]
    num_hypotheses: int = 1

    @property
    def pad_id(self):
        return self.rules.pad_id

    def first(self, sentences, cache):
        rows = ops.shape(sentences.index)[0]
        return GreedyState(
            step=ops.cast(0, "int32"),
            last=ops.full((rows,), self.start_id, "int32"),
            ids=first_tokens(rows, rows * 0, self.capacity, self.pad_id),
            log_probs=ops.zeros((rows,), "float32"),
            finished=ops.zeros((rows,), "bool"),
            cache=cache,
        )

    def is_settled(self, state, sentences):
        return state.finished

    def extend(self, sentences):
        rows = ops.shape(sentences.index)[0]
        offsets = ops.arange(rows) * self.rules.vocab_size
        forbidden = self.rules.forbidden(rows)

        def extended(state):
            logits, cache = self.step(state.last, state.step, state.cache, sentences.memory)
            log_probs = ops.reshape(ops.log_softmax(logits, axis=-1), (-1,))
            log_probs = self.rules.forbid(log_probs, state.step, forbidden)
            chosen = self._chosen(log_probs, state.step, sentences)
            log_prob = ops.take(log_probs, offsets + chosen)
            closed = self._closed(state, sentences)
            chosen = ops.where(closed, ops.cast(self.pad_id, "int32"), chosen)
            return GreedyState(
                step=state.step + 1,
                last=chosen,
                ids=append(state.ids, chosen, state.step, self.capacity),
                log_probs=state.log_probs + ops.where(closed, 0.0, log_prob),
                finished=ops.logical_or(state.finished, ops.equal(chosen, self.rules.eos_id)),
                cache=cache,
            )

        return extended

    def _chosen(self, log_probs, step, sentences):
        rows = ops.reshape(log_probs, (-1, self.rules.vocab_size))
        chosen = self.choose(rows, step, sentences.index)
        if isinstance(sentences.prefix, tuple):
            return chosen
        forced = prefix_at(sentences.prefix, step)
        return ops.where(ops.equal(forced, self.pad_id), chosen, forced)

    def _closed(self, state, sentences):
        """Rows that are not extended: one that was cut has left a loop in which shapes change."""
        if self.capacity is None:
            return state.finished
        return ops.logical_not(is_open(self, state, sentences))

    def select(self, state, rows):
        return GreedyState(state.step, *select_rows(tuple(state[1:]), rows))

    def found(self, state, sentences):
        scores = state.log_probs / length_penalty(lengths(state.ids, self.pad_id), self.alpha)
        return Found(*(ops.expand_dims(x, 1) for x in (state.ids, scores, state.finished)))
