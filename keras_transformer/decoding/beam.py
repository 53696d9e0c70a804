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
    alive: Any  # float32 [b, K]: sums of log-probabilities, best first
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
        best_alive = state.alive[:, 0]
        worst_wanted = ops.take(state.finished, self.num_hypotheses - 1, axis=1)
        length = ops.where(self.early_stopping, state.step + 1, sentences.limit)
        best_possible = best_alive / length_penalty(length, self.alpha)
        return ops.logical_or(best_possible <= worst_wanted, best_alive <= LOWEST_SCORE)

    def extend(self, sentences):
        count = ops.shape(sentences.index)[0]
        place = ops.expand_dims(ops.cast(ops.arange(count), "int32"), 1)  # [b, 1]

        def extended(state):
            logits, cache = self.step(state.last, state.step, state.cache, sentences.memory)
            candidates = self._candidates(logits, state, sentences.prefix, place)
            ended = ops.equal(candidates.tokens, self.rules.eos_id)
            alive = self._stay_alive(candidates, ended, place)
            finished = self._finish(candidates, ended, state, place)
            if self.capacity is not None:
                goes_on = ops.expand_dims(is_open(self, state, sentences), 1)
                alive = self._where(goes_on, alive, state.alive, 0)
                finished = self._where(goes_on, finished, state.finished, self.beam_size)
            rows = _flat([alive.rows, finished.rows], place * (2 * self.beam_size))
            ids = append(
                ops.take(state.ids, rows, axis=0),
                _flat([alive.tokens, finished.tokens], 0),
                state.step,
                self.capacity,
            )
            going_on = _flat([alive.rows], place * self.beam_size)
            return BeamState(
                step=state.step + 1,
                last=_flat([alive.tokens], 0),
                alive=alive.scores,
                finished=finished.scores,
                ids=ids,
                cache=select_rows(cache, going_on),
            )

        return extended

    def _candidates(self, logits, state, prefix, place):
        """First the best of each row, then the best of these: two small searches for one large."""
        size, vocab_size = self.beam_size, self.rules.vocab_size
        least = min if isinstance(size, int) else ops.minimum
        width = least(2 * size, vocab_size)
        log_probs = ops.log_softmax(logits, axis=-1)
        best, tokens = ops.top_k(log_probs + self.rules.bias(state.step), width)
        tokens = ops.cast(tokens, "int32")
        if prefix is not None:
            best, tokens = self._forced(log_probs, best, tokens, prefix_at(prefix, state.step))
        totals = ops.reshape(state.alive, (-1, 1)) + best
        log_probs, index = ops.top_k(ops.reshape(totals, (-1, size * width)), 2 * size)
        index = ops.cast(index, "int32")
        parents = ops.broadcast_to(ops.expand_dims(self._beams(), 1), (size, width))
        return Candidates(
            log_probs,
            ops.take(ops.reshape(parents, (-1,)), index, axis=0),
            _pick(tokens, index, place * (size * width)),
        )

    def _forced(self, log_probs, best, tokens, forced):
        """Let `forced` [b] be the only token of each row, but where it is the pad."""
        repeated = ops.broadcast_to(
            ops.expand_dims(forced, 1), (ops.shape(forced)[0], self.beam_size)
        )
        forced = ops.reshape(repeated, (-1,))
        offsets = ops.arange(ops.shape(forced)[0]) * self.rules.vocab_size
        log_prob = ops.take(ops.reshape(log_probs, (-1,)), offsets + forced)
        is_first = ops.equal(ops.arange(ops.shape(best)[1]), 0)
        only = ops.where(is_first, ops.expand_dims(log_prob, 1), FORBIDDEN)
        is_free = ops.expand_dims(ops.equal(forced, self.pad_id), 1)
        return (
            ops.where(is_free, best, only),
            ops.where(is_free, tokens, ops.expand_dims(forced, 1)),
        )

    def _stay_alive(self, candidates, ended, place):
        open_ones = ops.where(ended, FORBIDDEN, candidates.log_probs)
        scores, index = ops.top_k(open_ones, self.beam_size)
        offset = place * (2 * self.beam_size)
        return Choice(
            scores,
            _pick(candidates.parents, index, offset),
            _pick(candidates.tokens, index, offset),
        )

    def _finish(self, candidates, ended, state, place):
        size = self.beam_size
        scores = candidates.log_probs / length_penalty(state.step + 1, self.alpha)
        exists = ops.logical_and(ended, candidates.log_probs > LOWEST_SCORE)
        scores = ops.where(exists, scores, FORBIDDEN)
        # those that finished before keep their places where scores are equal
        scores, index = ops.top_k(ops.concatenate([state.finished, scores], axis=1), size)
        before = ops.broadcast_to(self._beams() + size, ops.shape(state.finished))
        pads = ops.full_like(before, self.pad_id)
        return Choice(
            scores,
            _pick(ops.concatenate([before, candidates.parents], axis=1), index, place * (3 * size)),
            _pick(ops.concatenate([pads, candidates.tokens], axis=1), index, place * (3 * size)),
        )

    def _where(self, goes_on, choice, scores, first_row):
        """The choice; where a sentence does not go on, that its K rows from `first_row` stay."""
        return Choice(
            ops.where(goes_on, choice.scores, scores),
            ops.where(goes_on, choice.rows, self._beams() + first_row),
            ops.where(goes_on, choice.tokens, ops.cast(self.pad_id, "int32")),
        )

    def select(self, state, rows):
        rows = ops.expand_dims(rows, 1)
        beams = _flat([self._beams()], rows * self.beam_size)
        both = ops.cast(ops.arange(2 * self.beam_size), "int32")
        return BeamState(
            step=state.step,
            last=ops.take(state.last, beams, axis=0),
            alive=ops.take(state.alive, rows[:, 0], axis=0),
            finished=ops.take(state.finished, rows[:, 0], axis=0),
            ids=ops.take(state.ids, _flat([both], rows * (2 * self.beam_size)), axis=0),
            cache=select_rows(state.cache, beams),
        )

    def found(self, state, sentences):
        size = self.beam_size
        count = ops.shape(sentences.index)[0]
        place = ops.expand_dims(ops.cast(ops.arange(count), "int32"), 1)  # [b, 1]
        rank = ops.expand_dims(ops.cast(ops.arange(self.num_hypotheses), "int32"), 0)  # [1, n]
        finished = ops.sum(ops.cast(state.finished > LOWEST_SCORE, "int32"), axis=1, keepdims=True)
        is_cut = rank >= finished  # [b, n]
        cut_rank = ops.maximum(rank - finished, 0)
        ids = ops.take(
            state.ids, ops.where(is_cut, cut_rank, rank + size) + place * (2 * size), axis=0
        )
        log_probs = _pick(state.alive, cut_rank, place * size)
        cut_scores = log_probs / length_penalty(lengths(ids, self.pad_id), self.alpha)
        cut_scores = ops.where(log_probs > LOWEST_SCORE, cut_scores, FORBIDDEN)
        finished_scores = _pick(state.finished, rank, place * size)
        scores = ops.where(is_cut, cut_scores, finished_scores)
        exists = ops.expand_dims(scores > LOWEST_SCORE, 2)
        ids = ops.where(exists, ids, ops.cast(self.pad_id, "int32"))
        return Found(ids, scores, ops.logical_not(is_cut))


def _flat(parts, offset):
    """Join `[b, x]` side by side, add `[b, 1]` and return all in one row."""
    joined = parts[0] if len(parts) == 1 else ops.concatenate(parts, axis=1)
    return ops.reshape(joined + offset, (-1,))


def _pick(values, index, offset):
    """Read `[b, x]` at the places `index` of each row; `offset` [b, 1] is where its row begins."""
    return ops.take(ops.reshape(values, (-1,)), index + offset, axis=0)
