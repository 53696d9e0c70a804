import numpy as np
import pytest
from keras import ops

from keras_transformer.decoding.tokens import (
    FORBIDDEN,
    TokenRules,
    append,
    first_tokens,
    lengths,
    prefix_at,
)
from keras_transformer.hypothesis import LOWEST_SCORE


def allowed(rules, step, rows=2):
    """Scores of 1 after `forbid`, `[rows, V]`: the ids of each row that may come."""
    table = ops.ones((rows * rules.vocab_size,), "float32")
    scores = np.asarray(rules.forbid(table, step, rules.forbidden(rows)))
    assert scores.dtype == np.float32
    scores = scores.reshape(rows, rules.vocab_size)
    assert set(scores.ravel().tolist()) == {1.0, FORBIDDEN}
    return [np.flatnonzero(row == 1.0).tolist() for row in scores]


@pytest.mark.jax
def test_exactly_the_banned_ids_and_the_pad_are_forbidden_in_every_row():
    assert FORBIDDEN < LOWEST_SCORE
    assert allowed(TokenRules(5, eos_id=3, pad_id=0, banned_ids=(0, 2)), 0) == [[1, 3, 4]] * 2
    assert allowed(TokenRules(5, eos_id=3, pad_id=4, banned_ids=(1,)), 0) == [[0, 2, 3]] * 2
    assert allowed(TokenRules(5, eos_id=3, pad_id=0), 0, rows=3) == [[1, 2, 3, 4]] * 3


@pytest.mark.jax
def test_what_may_come_keeps_its_score():
    rules = TokenRules(4, eos_id=3, pad_id=0)
    scores = np.arange(8, dtype="float32")
    found = rules.forbid(ops.convert_to_tensor(scores), 0, rules.forbidden(2))
    assert np.asarray(found).tolist() == [FORBIDDEN, 1, 2, 3, FORBIDDEN, 5, 6, 7]


@pytest.mark.jax
@pytest.mark.parametrize("as_scalar", [np.int32, ops.convert_to_tensor])
def test_the_end_is_forbidden_before_the_shortest_length(as_scalar):
    rules = TokenRules(4, eos_id=3, pad_id=0, min_length=as_scalar(3))
    assert [allowed(rules, step) for step in range(4)] == [
        [[1, 2]] * 2,
        [[1, 2]] * 2,
        [[1, 2, 3]] * 2,  # the third token may be the end
        [[1, 2, 3]] * 2,
    ]


def test_behind_a_prefix_anything_may_come():
    prefix = np.array([[5, 6, 0], [7, 0, 0]])
    found = [np.asarray(prefix_at(prefix, step)).tolist() for step in range(5)]
    assert found == [[5, 7], [6, 0], [0, 0], [0, 0], [0, 0]]


@pytest.mark.jax
@pytest.mark.parametrize("capacity", [None, 4])
def test_a_table_of_tokens_takes_a_column_a_step(capacity):
    table = first_tokens(2, 0, capacity, 9)
    assert tuple(table.shape) == (2, capacity or 0)
    for step, column in enumerate(([1, 2], [3, 9])):
        table = append(table, np.array(column, "int32"), step, capacity)
    table = np.asarray(table)
    assert table[:, :2].tolist() == [[1, 3], [2, 9]]
    assert (table[:, 2:] == 9).all()
    assert np.asarray(lengths(table, 9)).tolist() == [2, 1]
