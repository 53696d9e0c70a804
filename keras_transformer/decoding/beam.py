"""Beam search: the best few hypotheses, alive and finished ones apart, extended together."""

from collections.abc import Callable
from typing import Any, NamedTuple

from keras import ops

from keras_transformer.decoding.phases import Found, is_open, select_rows
from keras_transformer.decoding.scoring import length_penalty
from keras_transformer.decoding.tokens import (
    FORBIDDEN,
    TokenRules,
    append,
    first_tokens,
    lengths,
    prefix_at,
)
from keras_transformer.hypothesis import LOWEST_SCORE


class BeamState(NamedTuple):
    """The loop state of beam search for b sentences with K beams each."""

    step: Any  # int32 scalar: positions decoded so far, t
    last: Any  # int32 [b * K]: the newest token of each alive hypothesis
    alive: Any  # float32 [b, K]: sums of log-probabilities, best first; FORBIDDEN once settled
    finished: Any  # float32 [b, K]: scores, best first; FORBIDDEN where there is none
    ids: Any  # int32 [b * 2K, t] or [b * 2K, L]: a sentence's K alive rows, then its K finished
    cache: Any  # opaque, rows b * K


class Candidates(NamedTuple):
    """The best 2K continuations of the alive hypotheses of each sentence, best first."""

    log_probs: Any  # float32 [b, 2K]: of the whole hypothesis
    parents: Any  # int32 [b, 2K]: which of the K it continues
    tokens: Any  # int32 [b, 2K]


class Choice(NamedTuple):
    """Which K hypotheses go on: each is one of the rows before, and a token."""

    scores: Any  # float32 [b, K]
    rows: Any  # int32 [b, K]: of the sentence's 2K rows of ids
    tokens: Any  # int32 [b, K]


class Tables(NamedTuple):
    """What no step changes. The last five are where in a flattened matrix each row begins."""

    width: Any  # C, how many continuations of each hypothesis are looked at
    parents: Any  # int32 [K * C]: which hypothesis a continuation is of
    finished: Any  # int32 [b, K]: the rows of the finished hypotheses, K to 2K
    pads: Any  # int32 [b, K]
    prefix: Any  # int32 [b * K, P + 1], or ()
    is_first: Any  # bool [C]
    forbidden: Any  # of b * K rows
    of_beams: Any  # int32 [b, 1]: of K columns each
    of_two_beams: Any  # int32 [b, 1]
    of_three_beams: Any  # int32 [b, 1]
    of_candidates: Any  # int32 [b, 1]: of K * C columns
    of_vocabulary: Any  # int32 [b * K]: of V columns


class BeamSearch(NamedTuple):
    """Searches for the output with the best score, log-probability / length penalty.

    Each step extends the K alive hypotheses by every token and looks at the best 2K of the
    results: those that end here compete for K finished places, the best K others stay alive. A
    sentence is settled when no alive hypothesis can become better than the worst finished one
    that is asked for, or at its limit; hypotheses that are cut there come after finished ones.
    Ties go to the better parent, then to the lower id.

    How good can an alive hypothesis become? Its log-probability only falls, but a longer output
    is divided by more. With `early_stopping` it is taken to end with its next token. Without, it
    may get as long as the limit allows and lose nothing on the way: then no better output within
    the beam is ever missed, and many more steps are made.
    """

    step: Callable[..., Any]  # (ids [b * K], step, cache, memory) -> (logits [b * K, V], cache)
    rules: TokenRules
    start_id: int  # stands before the first token
    beam_size: Any  # K, an int; an integer scalar tensor where shapes may change
    num_hypotheses: Any = 1  # n, at most K, of the same kind
    alpha: Any = 0.6  # of the length penalty, from 0
    # None: ids grow with each step. L: a buffer, for compilers that want fixed shapes; no limit
    # may be above it.
    capacity: int | None = None
    early_stopping: Any = True  # a bool or a boolean scalar tensor

    @property
    def pad_id(self):
        return self.rules.pad_id

    def first(self, sentences, cache):
        count, size = ops.shape(sentences.index)[0], self.beam_size
        only_one = ops.where(ops.equal(self._beams(), 0), 0.0, FORBIDDEN)  # all are equal as yet
        return BeamState(
            step=ops.cast(0, "int32"),
            last=ops.full((count * size,), self.start_id, "int32"),
            alive=ops.broadcast_to(only_one, (count, size)),
            finished=ops.full((count, size), FORBIDDEN, "float32"),
            ids=first_tokens(count * size * 2, count * 0, self.capacity, self.pad_id),
            cache=cache,
        )

    def _beams(self):
        return ops.cast(ops.arange(self.beam_size), "int32")

    def is_settled(self, state, sentences):
        return state.alive[:, 0] <= LOWEST_SCORE

    def extend(self, sentences):
        tables = self._tables(sentences)
        limit = ops.expand_dims(sentences.limit, 1)

        def extended(state):
            logits, cache = self.step(state.last, state.step, state.cache, sentences.memory)
            candidates = self._candidates(logits, state, tables)
            ended = ops.equal(candidates.tokens, self.rules.eos_id)
            alive = self._stay_alive(candidates, ended, tables)
            finished = self._finish(candidates, ended, state, tables)
            if self.capacity is not None:
                goes_on = ops.expand_dims(is_open(self, state, sentences), 1)
                alive = self._where(goes_on, alive, state.alive, 0)
                finished = self._where(goes_on, finished, state.finished, self.beam_size)
            rows = ops.concatenate([alive.rows, finished.rows], axis=1) + tables.of_two_beams
            tokens = ops.concatenate([alive.tokens, finished.tokens], axis=1)
            ids = ops.take(state.ids, _flat(rows), axis=0)
            return BeamState(
                step=state.step + 1,
                last=_flat(alive.tokens),
                alive=self._without_hopeless(alive.scores, finished.scores, state.step + 1, limit),
                finished=finished.scores,
                ids=append(ids, _flat(tokens), state.step, self.capacity),
                cache=select_rows(cache, _flat(alive.rows + tables.of_beams)),
            )

        return extended

    def _without_hopeless(self, alive, finished, step, limit):
        """Return the alive scores; FORBIDDEN where none of a sentence can become good enough.

        So a settled sentence has nothing left to extend, and what it has found stays as it is
        while others go on.
        """
        worst_wanted = ops.expand_dims(ops.take(finished, self.num_hypotheses - 1, axis=1), 1)
        length = ops.where(self.early_stopping, step + 1, limit)
        best_possible = alive[:, :1] / length_penalty(length, self.alpha)
        return ops.where(best_possible <= worst_wanted, FORBIDDEN, alive)

    def _tables(self, sentences):
        size, vocab_size = self.beam_size, self.rules.vocab_size
        count = ops.shape(sentences.index)[0]
        least = min if isinstance(size, int) else ops.minimum
        width = least(2 * size, vocab_size)
        place = ops.expand_dims(ops.cast(ops.arange(count), "int32"), 1)
        parents = ops.broadcast_to(ops.expand_dims(self._beams(), 1), (size, width))
        finished = ops.broadcast_to(self._beams() + size, (count, size))
        prefix = sentences.prefix
        if not isinstance(prefix, tuple):
            shape = (count, size, ops.shape(prefix)[1])
            repeated = ops.broadcast_to(ops.expand_dims(prefix, 1), shape)
            prefix = ops.reshape(repeated, (count * size, shape[2]))
        return Tables(
            width=width,
            parents=_flat(parents),
            finished=finished,
            pads=ops.full_like(finished, self.pad_id),
            prefix=prefix,
            is_first=ops.equal(ops.arange(width), 0),
            forbidden=self.rules.forbidden(count * size),
            of_beams=place * size,
            of_two_beams=place * (2 * size),
            of_three_beams=place * (3 * size),
            of_candidates=place * (size * width),
            of_vocabulary=ops.cast(ops.arange(count * size), "int32") * vocab_size,
        )

    def _candidates(self, logits, state, tables):
        """First the best of each row, then the best of these: two small searches for one large."""
        log_probs = ops.reshape(ops.log_softmax(logits, axis=-1), (-1,))
        log_probs = self.rules.forbid(log_probs, state.step, tables.forbidden)
        rows = ops.reshape(log_probs, (-1, self.rules.vocab_size))
        best, tokens = ops.top_k(rows, tables.width)
        tokens = ops.cast(tokens, "int32")
        if not isinstance(tables.prefix, tuple):
            best, tokens = self._forced(log_probs, best, tokens, state.step, tables)
        totals = ops.reshape(state.alive, (-1, 1)) + best
        totals = ops.reshape(totals, (-1, self.beam_size * tables.width))
        log_probs, index = ops.top_k(totals, 2 * self.beam_size)
        index = ops.cast(index, "int32")
        return Candidates(
            log_probs,
            ops.take(tables.parents, index, axis=0),
            _pick(tokens, index + tables.of_candidates),
        )

    def _forced(self, log_probs, best, tokens, step, tables):
        """Let what must come be the only token of its row."""
        forced = prefix_at(tables.prefix, step)
        log_prob = ops.take(log_probs, tables.of_vocabulary + forced)
        only = ops.where(tables.is_first, ops.expand_dims(log_prob, 1), FORBIDDEN)
        forced = ops.expand_dims(forced, 1)
        is_free = ops.equal(forced, self.pad_id)
        return ops.where(is_free, best, only), ops.where(is_free, tokens, forced)

    def _stay_alive(self, candidates, ended, tables):
        open_ones = ops.where(ended, FORBIDDEN, candidates.log_probs)
        scores, index = ops.top_k(open_ones, self.beam_size)
        index = ops.cast(index, "int32") + tables.of_two_beams
        return Choice(scores, _pick(candidates.parents, index), _pick(candidates.tokens, index))

    def _finish(self, candidates, ended, state, tables):
        scores = candidates.log_probs / length_penalty(state.step + 1, self.alpha)
        exists = ops.logical_and(ended, candidates.log_probs > LOWEST_SCORE)
        scores = ops.where(exists, scores, FORBIDDEN)
        # those that finished before keep their places where scores are equal
        scores = ops.concatenate([state.finished, scores], axis=1)
        scores, index = ops.top_k(scores, self.beam_size)
        index = ops.cast(index, "int32") + tables.of_three_beams
        rows = ops.concatenate([tables.finished, candidates.parents], axis=1)
        tokens = ops.concatenate([tables.pads, candidates.tokens], axis=1)
        return Choice(scores, _pick(rows, index), _pick(tokens, index))

    def _where(self, goes_on, choice, scores, first_row):
        """The choice; where a sentence does not go on, that its K rows from `first_row` stay."""
        return Choice(
            ops.where(goes_on, choice.scores, scores),
            ops.where(goes_on, choice.rows, self._beams() + first_row),
            ops.where(goes_on, choice.tokens, ops.cast(self.pad_id, "int32")),
        )

    def select(self, state, rows):
        first = ops.expand_dims(rows, 1)
        beams = _flat(first * self.beam_size + self._beams())
        both = ops.cast(ops.arange(2 * self.beam_size), "int32")
        return BeamState(
            step=state.step,
            last=ops.take(state.last, beams, axis=0),
            alive=ops.take(state.alive, rows, axis=0),
            finished=ops.take(state.finished, rows, axis=0),
            ids=ops.take(state.ids, _flat(first * (2 * self.beam_size) + both), axis=0),
            cache=select_rows(state.cache, beams),
        )

    def found(self, state, sentences):
        tables = self._tables(sentences)
        rank = ops.expand_dims(ops.cast(ops.arange(self.num_hypotheses), "int32"), 0)  # [1, n]
        finished = ops.cast(state.finished > LOWEST_SCORE, "int32")
        is_cut = rank >= ops.sum(finished, axis=1, keepdims=True)  # [b, n]
        cut_rank = ops.maximum(rank - ops.sum(finished, axis=1, keepdims=True), 0)
        row = ops.where(is_cut, cut_rank, rank + self.beam_size)
        ids = ops.take(state.ids, row + tables.of_two_beams, axis=0)
        log_probs = _pick(state.alive, cut_rank + tables.of_beams)
        cut_scores = log_probs / length_penalty(lengths(ids, self.pad_id), self.alpha)
        cut_scores = ops.where(log_probs > LOWEST_SCORE, cut_scores, FORBIDDEN)
        finished_scores = _pick(state.finished, rank + tables.of_beams)
        scores = ops.where(is_cut, cut_scores, finished_scores)
        exists = ops.expand_dims(scores > LOWEST_SCORE, 2)
        ids = ops.where(exists, ids, ops.cast(self.pad_id, "int32"))
        return Found(ids, scores, ops.logical_not(is_cut))


def _flat(values):
    return ops.reshape(values, (-1,))


def _pick(values, places):
    """Read a matrix at places that count through all of it, row by row."""
    return ops.take(_flat(values), places, axis=0)
