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


def test_the_bias_forbids_exactly_the_banned_ids_and_the_pad():
    bias = TokenRules(5, eos_id=3, pad_id=0, banned_ids=(0, 2)).bias(0)
    assert bias.dtype == np.float32
    assert (bias == FORBIDDEN).tolist() == [True, False, True, False, False]
    assert bias[[1, 3, 4]].tolist() == [0, 0, 0]
    assert FORBIDDEN < LOWEST_SCORE
    without_banned = TokenRules(5, eos_id=3, pad_id=0).bias(0)
    assert (without_banned == FORBIDDEN).tolist() == [True, False, False, False, False]


@pytest.mark.parametrize("shortest", [np.int32(3), ops.convert_to_tensor(3)])
def test_the_end_is_forbidden_before_the_shortest_length(shortest):
    rules = TokenRules(4, eos_id=3, pad_id=0, min_length=shortest)
    forbidden = [bool(np.asarray(rules.bias(step))[3] < LOWEST_SCORE) for step in range(4)]
    assert forbidden == [True, True, False, False], "the third token may be the end"
    assert all(np.asarray(rules.bias(step))[1:3].tolist() == [0, 0] for step in range(4))


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
