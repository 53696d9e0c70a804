import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from numpy_transformer import (
    cross_attention_maps,
    multi_head,
    self_attention_maps,
    separate_maps,
)
from tiny_models import disturb

from keras_transformer.layers import (
    CausalSelfAttention,
    CrossAttention,
    MultiHeadAttention,
    SelfAttention,
)
from keras_transformer.layers.attention import attention_weights


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def identity_attention(size):
    """One head whose projections change nothing."""
    layer = MultiHeadAttention(num_heads=1)
    layer.build((None, None, size))
    layer.set_weights([np.eye(size), np.zeros(size)] * 4)
    return layer


def test_attention_of_worked_numbers():
    # Head size 4, so scores are divided by 2. The query is [2 ln 3, 0, 0, 0]: its score with the
    # key [1, 0, 0, 0] is ln 3 and with the others 0, the weights are 3/5, 1/5, 1/5.
    query = np.array([[[2 * math.log(3), 0, 0, 0]]], "float32")
    key = np.array([[[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]]], "float32")
    value = np.array([[[10, 0, 0, 1], [0, 20, 0, 1], [0, 0, 30, 1]]], "float32")
    layer = identity_attention(4)
    np.testing.assert_allclose(layer(query, key, value), [[[6, 4, 6, 1]]], rtol=1e-5)
    scores = np.asarray(layer.return_scores(query, key, value))
    np.testing.assert_allclose(scores, [[[[0.6, 0.2, 0.2]]]], rtol=1e-6)


def test_a_masked_position_gives_its_weight_to_the_others():
    query = np.array([[[2 * math.log(3), 0, 0, 0]]], "float32")
    key = np.array([[[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]]], "float32")
    mask = np.array([[[True, True, False]]])
    scores = np.asarray(identity_attention(4).return_scores(query, key, attention_mask=mask))
    np.testing.assert_allclose(scores, [[[[0.75, 0.25, 0]]]], rtol=1e-6)
    assert scores[0, 0, 0, 2] == 0


@pytest.mark.parametrize("sizes", [{}, {"key_dim": 5, "value_dim": 2}, {"value_dim": 7}])
def test_multi_head_attention_equals_the_papers_equations(sizes):
    query, key, value = normal(3, 4, 6), normal(3, 5, 6, seed=1), normal(3, 5, 6, seed=2)
    mask = np.random.default_rng(3).random((3, 4, 5)) < 0.6
    mask[..., 0] = True
    layer = MultiHeadAttention(num_heads=3, **sizes)
    layer.build(query.shape)
    disturb(layer)
    result = np.asarray(layer(query, key, value, mask))
    assert result.shape == (3, 4, 6)
    # The reference has one input for key and value, as the paper uses it.
    same = np.asarray(layer(query, key, attention_mask=mask))
    for row in range(3):
        expected = multi_head(layer, query[row], key[row], mask[row], separate_maps(layer))
        np.testing.assert_allclose(same[row], expected, atol=1e-5)
    assert not np.allclose(result, same, atol=1e-3)


def test_inputs_may_have_sizes_of_their_own():
    layer = MultiHeadAttention(num_heads=2)
    assert layer(normal(2, 3, 8), normal(2, 5, 6), normal(2, 5, 4)).shape == (2, 3, 8)
    assert layer.key_projection.kernel.shape == (6, 8)
    assert layer.value_projection.kernel.shape == (4, 8)


def test_self_attention_with_one_matrix_product_equals_the_papers_three():
    x = normal(2, 5, 8)
    mask = np.array([[[True] * 5], [[True] * 3 + [False] * 2]])
    layer = SelfAttention(num_heads=2, key_dim=3, value_dim=5)
    layer.build(x.shape)
    disturb(layer)
    result = np.asarray(layer(x, mask))
    for row in range(2):
        expected = multi_head(layer, x[row], x[row], mask[row], self_attention_maps(layer))
        np.testing.assert_allclose(result[row], expected, atol=1e-5)


def test_cross_attention_equals_the_papers_equations():
    x, memory = normal(2, 3, 8), normal(2, 5, 6, seed=1)
    mask = np.array([[[True] * 5], [[False, True, True, False, False]]])
    layer = CrossAttention(num_heads=2, key_dim=3, value_dim=5)
    layer.build(x.shape, memory.shape)
    disturb(layer)
    result = np.asarray(layer(x, memory, mask))
    for row in range(2):
        expected = multi_head(layer, x[row], memory[row], mask[row], cross_attention_maps(layer))
        np.testing.assert_allclose(result[row], expected, atol=1e-5)


def test_weights_sum_to_one_and_are_zero_where_masked():
    x = normal(2, 6, 8)
    mask = np.random.default_rng(0).random((2, 6, 6)) < 0.5
    mask |= np.eye(6, dtype=bool)
    layer = SelfAttention(num_heads=2)
    layer.build(x.shape)
    scores = np.asarray(layer.return_scores(x, mask))
    assert scores.shape == (2, 2, 6, 6)
    np.testing.assert_allclose(scores.sum(axis=-1), 1, rtol=1e-6)
    assert (scores[np.broadcast_to(~mask[:, None], scores.shape)] == 0).all()


@pytest.mark.tensorflow
@pytest.mark.parametrize("length", [1, 4])
def test_a_row_that_may_attend_to_nothing_gives_zeros_and_finite_gradients(length):
    layer = identity_attention(8)
    x = tf.Variable(normal(2, length, 8))
    mask = np.ones((2, length, length), bool)
    mask[1, 0] = False
    with tf.GradientTape() as tape:
        result = layer(x, attention_mask=mask)
        loss = tf.reduce_sum(result**2)
    np.testing.assert_array_equal(result[1, 0], np.zeros(8))
    assert np.abs(result[0]).min() > 0
    # With one position the weights are 1 whatever the scores: query and key get no gradient.
    weights = [x, *(weight.value for weight in layer.trainable_weights)]
    gradients = tape.gradient(loss, weights, unconnected_gradients="zero")
    assert all(np.isfinite(tf.convert_to_tensor(gradient)).all() for gradient in gradients)
    assert np.abs(gradients[0]).max() > 0


def test_huge_scores_do_not_overflow():
    scores = np.array([[[[3e38, -3e38, 0.0]]]], "float32")
    np.testing.assert_array_equal(attention_weights(scores), [[[[1, 0, 0]]]])
    mask = np.array([[[False, True, True]]])
    np.testing.assert_array_equal(attention_weights(scores, mask), [[[[0, 0, 1]]]])


def test_softmax_is_in_float32_under_mixed_precision():
    # Near 16 half precision cannot tell these from each other to better than 0.01.
    keras.config.set_dtype_policy("mixed_float16")
    layer = SelfAttention(num_heads=2)
    x = normal(2, 6, 8)
    result, scores = layer(x), layer.return_scores(x)
    assert keras.backend.standardize_dtype(result.dtype) == "float16"
    assert keras.backend.standardize_dtype(scores.dtype) == "float32"
    np.testing.assert_allclose(np.asarray(scores).sum(axis=-1), 1, rtol=1e-6)
    half = np.array([[[[16.0, 16.016, 15.984]]]], "float16")
    exponentials = np.exp(half.astype("float64") - 16)
    np.testing.assert_allclose(
        attention_weights(half), exponentials / exponentials.sum(), rtol=1e-6
    )


def test_the_future_does_not_leak():
    layer = CausalSelfAttention(num_heads=2)
    x = normal(2, 6, 8)
    before = np.asarray(layer(x))
    for step in range(1, 6):
        changed = x.copy()
        changed[:, step:] = 1e3 * normal(2, 6 - step, 8, seed=step)
        np.testing.assert_allclose(
            np.asarray(layer(changed))[:, :step], before[:, :step], atol=1e-6
        )
    assert np.abs(np.triu(layer.return_scores(x), k=1)).max() == 0


@pytest.mark.parametrize("sizes", [{}, {"key_dim": 3, "value_dim": 5}])
def test_causal_attention_step_by_step_equals_the_full_pass(sizes):
    layer = CausalSelfAttention(num_heads=2, **sizes)
    x = normal(3, 6, 8)
    full = np.asarray(layer(x))
    cache = layer.init_cache(3)
    for step in range(6):
        rows, cache = layer.step(x[:, step], step, cache)
        np.testing.assert_allclose(rows, full[:, step], atol=1e-6)
    assert [tuple(part.shape) for part in cache] == [
        (3, 2, layer.key_size, 6),
        (3, 2, 6, layer.value_size),
    ]


def test_cross_attention_step_by_step_equals_the_full_pass():
    layer = CrossAttention(num_heads=2, key_dim=3, value_dim=5)
    x, memory = normal(3, 4, 8), normal(3, 5, 8, seed=1)
    mask = np.arange(5)[None, None] < np.array([5, 2, 0])[:, None, None]
    full = np.asarray(layer(x, memory, mask))
    projected = layer.project_memory(memory, mask)
    for step in range(4):
        np.testing.assert_allclose(
            layer.step(x[:, step], projected, mask), full[:, step], atol=1e-6
        )


def test_dropout_is_for_training_only_and_keeps_the_mean():
    layer = MultiHeadAttention(num_heads=2, dropout=0.5)
    x = np.repeat(normal(1, 6, 8), 2000, axis=0)
    plain = np.asarray(layer(x))
    np.testing.assert_array_equal(layer(x, training=False), plain)
    dropped = np.asarray(layer(x, training=True))
    assert not np.allclose(dropped, plain, atol=1e-3)
    np.testing.assert_allclose(dropped.mean(axis=0), plain[0], atol=0.05)


def test_an_input_size_that_heads_do_not_divide_is_refused():
    with pytest.raises(ValueError, match=r"multiple of num_heads.*input size=8, num_heads=3"):
        MultiHeadAttention(num_heads=3).build((None, None, 8))
    with pytest.raises(ValueError, match=r"num_heads must be an integer from 1.*num_heads=0"):
        MultiHeadAttention(num_heads=0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda a, x: a(x[0]), r"query must have three axes.*shape \(5, 8\)"),
        (lambda a, x: a(x, x[..., :6], x), r"key must have vectors of size 8.*\(2, 5, 6\)"),
        (lambda a, x: a(x, x, x[..., :3]), r"value must have vectors of size 8.*\(2, 5, 3\)"),
        (
            lambda a, x: a(x, attention_mask=np.ones((5, 5), bool)),
            r"attention_mask must be broadcastable to \[B, T, S\].*shape \(5, 5\)",
        ),
        (
            lambda a, x: a(x, attention_mask=np.ones((2, 1, 4), bool)),
            r"attention_mask must be broadcastable .*\[2, 5, 5\].*shape \(2, 1, 4\)",
        ),
        (
            lambda a, x: a(x, attention_mask=np.ones((2, 5, 5), "float32")),
            r"attention_mask must be boolean.*type float32",
        ),
    ],
)
def test_inputs_that_do_not_fit_are_named(call, message):
    attention, x = MultiHeadAttention(num_heads=2), normal(2, 5, 8)
    attention(x)
    with pytest.raises(ValueError, match=message):
        call(attention, x)


@pytest.mark.parametrize("layer", [SelfAttention, CausalSelfAttention])
def test_self_attention_names_inputs_that_do_not_fit(layer):
    attention = layer(num_heads=2)
    attention(normal(2, 5, 8))
    with pytest.raises(ValueError, match=r"x must have vectors of size 8.*\(2, 5, 6\)"):
        attention(normal(2, 5, 6))
    with pytest.raises(ValueError, match=r"rotary_layout must be None or one of.*'sines'"):
        layer(num_heads=2, rotary_layout="sines")


def test_cross_attention_names_a_memory_that_does_not_fit():
    attention = CrossAttention(num_heads=2)
    attention(normal(2, 3, 8), normal(2, 5, 6))
    with pytest.raises(ValueError, match=r"memory must have vectors of size 6.*\(2, 5, 8\)"):
        attention(normal(2, 3, 8), normal(2, 5, 8))
    with pytest.raises(ValueError, match=r"memory must have three axes"):
        CrossAttention(num_heads=2)(normal(2, 3, 8), normal(5, 6))


def test_inputs_that_do_not_fit_each_other_are_named():
    attention = MultiHeadAttention(num_heads=2)
    with pytest.raises(ValueError, match=r"query and key and value must have one batch size"):
        attention(normal(2, 5, 8), normal(3, 5, 8))
    with pytest.raises(ValueError, match=r"key and value must have one number of positions"):
        attention(normal(2, 5, 8), normal(2, 4, 8), normal(2, 3, 8))
    with pytest.raises(ValueError, match=r"query must have at least one position"):
        attention(normal(2, 0, 8), normal(2, 4, 8))
    with pytest.raises(ValueError, match=r"attention_mask must be a boolean array.*list"):
        attention(normal(2, 5, 8), attention_mask=[[True]])


def test_a_step_behind_a_full_buffer_is_refused():
    attention = CausalSelfAttention(num_heads=2)
    attention(normal(1, 3, 8))
    with pytest.raises(ValueError, match=r"step must be below the capacity of the cache, 2"):
        attention.step(normal(1, 8), 2, attention.init_cache(1, 2))
