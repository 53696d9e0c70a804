import math

import numpy as np
import pytest

from keras_transformer.layers import TokenEmbedding


def test_vectors_are_the_rows_of_the_matrix_times_the_square_root_of_d_model():
    layer = TokenEmbedding(vocab_size=5, d_model=4)
    layer.build()
    table = np.arange(20, dtype="float32").reshape(5, 4)
    layer.embeddings.assign(table)
    vectors = np.asarray(layer(np.array([[3, 0], [4, 4]])))
    np.testing.assert_allclose(vectors, 2 * table[[[3, 0], [4, 4]]], rtol=1e-6)


def test_scaling_can_be_left_out():
    layer = TokenEmbedding(vocab_size=5, d_model=4, scale=False)
    vector = np.asarray(layer(np.array([2])))
    np.testing.assert_array_equal(vector[0], np.asarray(layer.embeddings)[2])


def test_projection_is_the_same_matrix_transposed_without_the_scale():
    layer = TokenEmbedding(vocab_size=3, d_model=2)
    layer.build()
    layer.embeddings.assign([[1, 0], [0, 1], [2, 3]])
    logits = layer.project(np.array([[5.0, 7.0]], "float32"))
    np.testing.assert_allclose(logits, [[5, 7, 31]])


def test_scaled_vectors_start_as_large_as_positions():
    layer = TokenEmbedding(vocab_size=2000, d_model=64)
    vectors = np.asarray(layer(np.arange(2000)))
    assert math.isclose(vectors.std(), 1.0, abs_tol=0.05)


@pytest.mark.parametrize("shape", [(3,), (2, 3), (2, 3, 4)])
def test_ids_of_any_shape(shape):
    assert TokenEmbedding(vocab_size=5, d_model=6)(np.zeros(shape, "int32")).shape == (*shape, 6)
