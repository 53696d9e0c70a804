"""The search for the best of a vocabulary in two stages."""

import numpy as np
import pytest

from keras_transformer_export.graph_passes.argmax import split_long_searches


def search(rewrite, rows, size, attributes="axis = 1, keepdims = 0"):
    """Apply the pass to ArgMax over rows `[R, size]`, which come flat; results must be equal."""
    return rewrite(
        f"g (float[F] x) => (int64[R] y) {{ m = Reshape (x, s) y = ArgMax <{attributes}> (m) }}",
        split_long_searches,
        *({"x": values.astype("float32").reshape(-1)} for values in rows),
        constants={"s": np.array([-1, size])},
    )


@pytest.mark.parametrize("size", [1024, 2000, 10_000, 58_100])
def test_the_best_is_found_in_two_stages(rewrite, size):
    generator = np.random.default_rng(size)
    rows = [generator.normal(size=(count, size)) for count in (1, 2, 7)]
    result = search(rewrite, rows, size)
    assert (result.changes, result.count("ArgMax"), result.count("ReduceMax")) == (1, 2, 1)


def test_of_equal_ones_the_first_counts(rewrite):
    few = np.random.default_rng(0).integers(0, 3, size=(9, 2000))  # the largest stands many times
    last = np.zeros((2, 2000))
    last[0, -1] = last[1, 0] = 1
    result = search(rewrite, [few, -few, np.zeros((3, 2000)), last], 2000)
    assert result.changes == 1


def test_forbidden_tokens_and_infinities(rewrite):
    rows = np.full((3, 1024), -1e9)
    rows[0, 700] = -50
    rows[1, 31:33] = -np.inf
    rows[2] = -np.inf
    assert search(rewrite, [rows], 1024).changes == 1


def test_no_rows_at_all(rewrite):
    search(rewrite, [np.zeros((0, 2000))], 2000)


@pytest.mark.parametrize(
    ("size", "attributes"),
    [
        (1023, "axis = 1, keepdims = 0"),  # short
        (10_007, "axis = 1, keepdims = 0"),  # a prime number
        (2 * 5_003, "axis = 1, keepdims = 0"),  # chunks of two or of thousands
        (2000, "axis = 1, keepdims = 0, select_last_index = 1"),
    ],
)
def test_what_two_stages_cannot_serve_stays(rewrite, size, attributes):
    rows = np.random.default_rng(0).normal(size=(2, size))
    assert search(rewrite, [rows], size, attributes).changes == 0
