import math

import numpy as np
import pytest

from keras_transformer.decoding.scoring import decoding_limits, length_penalty


@pytest.mark.parametrize(
    ("length", "alpha", "expected"),
    [(1, 0.6, 1.0), (7, 1.0, 2.0), (13, 0.5, math.sqrt(3)), (9, 0.0, 1.0), (25, 0.6, 5**0.6)],
)
def test_length_penalty_of_worked_numbers(length, alpha, expected):
    assert float(length_penalty(length, alpha)) == pytest.approx(expected, rel=1e-6)


def test_length_penalty_of_a_whole_batch():
    found = np.asarray(length_penalty(np.array([1, 7, 19]), 1.0))
    np.testing.assert_allclose(found, [1, 2, 4], rtol=1e-6)


def test_the_default_limit_is_the_source_length_plus_fifty():
    lengths = np.array([1, 7, 300], "int32")
    assert np.asarray(decoding_limits(lengths, 0)).tolist() == [51, 57, 350]


def test_a_limit_that_is_given_holds_for_every_row():
    lengths = np.array([1, 7, 300], "int32")
    assert np.asarray(decoding_limits(lengths, 5)).tolist() == [5, 5, 5]
