"""The loop that every search runs in: sentences that are settled leave it, so they cost little."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import keras
from keras import ops

from keras_transformer.decoding.tokens import FORBIDDEN, lengths


class Sentences(NamedTuple):
    """What a search reads of the b sentences that it still works on; no step changes it."""

    index: Any  # int32 [b]: their places in the batch
    limit: Any  # int32 [b]: the most tokens of each
    prefix: Any  # int32 [b, P + 1]: tokens that must come first, pads behind them; (): none
    memory: Any  # what the model knows of the sources; opaque, one row a sentence


class Found(NamedTuple):
    """What a search found, best first: n hypotheses for each of B sentences."""

    ids: Any  # int32 [B, n, T]: tokens with the end symbol, pads behind it
    scores: Any  # float32 [B, n]: log-probability / length penalty; FORBIDDEN where there is none
    finished: Any  # bool [B, n]: ended by itself, was not cut at the limit


class Search(Protocol):
    """A search as functions of its state, whose `step` counts the positions decoded so far."""

    @property
    def capacity(self) -> int | None:
        """The longest output, where no shape may change."""

    @property
    def num_hypotheses(self) -> Any:
        """How many hypotheses of each sentence are found."""
        ...

    @property
    def pad_id(self) -> int:
        """What stands behind the end of a hypothesis."""
        ...

    def first(self, sentences: Sentences, cache: Any) -> Any:
        """Return the first state."""

    def extend(self, sentences: Sentences) -> Callable[[Any], Any]:
        """Return the function from state to state that decodes one more position."""
        ...

    def is_settled(self, state: Any, sentences: Sentences) -> Any:
        """Return for each sentence whether no more steps can change what is found, bool `[b]`.

        Limits are not looked at: `is_open` does.
        """

    def select(self, state: Any, rows: Any) -> Any:
        """Return the state of some of the sentences, int32 `[r]`."""

    def found(self, state: Any, sentences: Sentences) -> Found:
        """Return what is found when no more steps are made."""
        ...


def run(search: Search, sentences: Sentences, cache: Any) -> Found:
    """Search until all sentences are settled.

    Where the search has no `capacity`, settled sentences leave the loop once they are a quarter
    of it, and at once when one has reached its limit. With a capacity no shape changes: settled
    sentences stay, and `extend` leaves them as they are.

    Args:
        search: a `Search`.
        sentences: `Sentences`, b = B.
        cache: the first cache of the model.
    """
    state = search.first(sentences, cache)
    if search.capacity is not None:
        extend = search.extend(sentences)
        (state,) = ops.while_loop(
            lambda state: ops.any(is_open(search, state, sentences)),
            lambda state: (extend(state),),
            (state,),
        )
        return search.found(state, sentences)

    def remain(sentences, state, found):
        return ops.shape(sentences.index)[0] > 0

    def phase(sentences, state, found):
        state = _until_some_are_settled(search, sentences, state)
        found = _with(found, search.found(state, sentences), sentences.index, search.pad_id)
        still_open = ops.cast(ops.nonzero(is_open(search, state, sentences))[0], "int32")
        return select_rows(sentences, still_open), search.select(state, still_open), found

    first = (sentences, state, _nothing(search, sentences.index))
    found = ops.while_loop(remain, phase, first)[2]
    longest = ops.max(ops.append(lengths(found.ids, search.pad_id), 0.0))
    return found._replace(ids=found.ids[:, :, : ops.cast(longest, "int32")])


def _nothing(search, index):
    rows, count = ops.shape(index)[0], search.num_hypotheses
    return Found(
        ids=ops.full((rows, count, rows * 0), search.pad_id, "int32"),
        scores=ops.full((rows, count), FORBIDDEN, "float32"),
        finished=ops.zeros((rows, count), "bool"),
    )


def _until_some_are_settled(search, sentences, state):
    extend = search.extend(sentences)
    first_limit = ops.min(sentences.limit)
    enough = (ops.shape(sentences.index)[0] + 3) // 4

    def goes_on(state):
        settled = ops.sum(ops.cast(search.is_settled(state, sentences), "int32"))
        return ops.logical_and(settled < enough, state.step < first_limit)

    return ops.while_loop(goes_on, lambda state: (extend(state),), (state,))[0]


def is_open(search, state, sentences):
    """Return for each sentence whether it is neither settled nor at its limit, bool `[b]`."""
    unsettled = ops.logical_not(search.is_settled(state, sentences))
    return ops.logical_and(unsettled, state.step < sentences.limit)


def _with(found, new, index, pad_id):
    """Return `found` with its rows `index` [b] from `new`, whose ids are longer or as long."""
    rows, count, length = (ops.shape(found.ids)[axis] for axis in range(3))
    pads = ops.full((rows, count, ops.shape(new.ids)[2] - length), pad_id, "int32")
    found = found._replace(ids=ops.concatenate([found.ids, pads], axis=2))
    where = ops.expand_dims(index, 1)
    return Found(*(ops.scatter_update(a, where, b) for a, b in zip(found, new, strict=True)))


def select_rows(structure, rows):
    """Return the given rows, int32 `[r]`, of every tensor in a structure."""
    return keras.tree.map_structure(lambda x: ops.take(x, rows, axis=0), structure)
