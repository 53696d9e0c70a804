import numpy as np
import pytest
from numpy_transformer import activate

from keras_transformer.layers import FeedForward


def test_worked_numbers():
    layer = FeedForward(d_ff=2)
    layer.build((None, None, 2))
    layer.inner.set_weights([np.array([[1, -1], [2, 1]]), np.array([0, 1])])
    layer.outer.set_weights([np.array([[1, 10], [100, 1000]]), np.array([0.5, 0])])
    # x = [1, 2]: inner = relu([5, 2]); x = [-1, 0]: inner = relu([-1, 2]) = [0, 2]
    result = layer(np.array([[[1, 2], [-1, 0]]], "float32"))
    np.testing.assert_allclose(result, [[[205.5, 2050], [200.5, 2000]]])


@pytest.mark.parametrize("activation", ["relu", "gelu", "silu"])
def test_activations_are_the_exact_functions(activation):
    layer = FeedForward(d_ff=3, activation=activation)
    layer.build((None, 3))
    layer.inner.set_weights([np.eye(3), np.zeros(3)])
    layer.outer.set_weights([np.eye(3), np.zeros(3)])
    x = np.linspace(-3, 3, 12).reshape(4, 3).astype("float32")
    np.testing.assert_allclose(layer(x), activate(activation, x.astype("float64")), atol=1e-6)


def test_every_position_is_treated_alike_and_alone():
    layer = FeedForward(d_ff=7)
    x = np.random.default_rng(0).normal(size=(2, 5, 4)).astype("float32")
    whole = np.asarray(layer(x))
    alone = np.stack([np.asarray(layer(x[:, i : i + 1]))[:, 0] for i in range(5)], axis=1)
    np.testing.assert_allclose(whole, alone, atol=1e-6)
    np.testing.assert_allclose(layer(x.reshape(10, 4)), whole.reshape(10, 4), atol=1e-6)


def test_dropout_is_for_training_only():
    layer = FeedForward(d_ff=32, dropout=0.5)
    x = np.ones((1, 2, 4), "float32")
    np.testing.assert_array_equal(layer(x), layer(x, training=False))
    assert not np.allclose(layer(x, training=True), layer(x))


def test_vectors_of_another_size_are_refused():
    layer = FeedForward(3)
    layer(np.ones((2, 3, 4), "float32"))
    with pytest.raises(ValueError, match=r"x must have vectors of size 4.*\(2, 3, 8\)"):
        layer(np.ones((2, 3, 8), "float32"))


@pytest.mark.parametrize("d_ff", [0, -1, 2.5, "8", None])
def test_an_inner_size_that_is_none_is_refused(d_ff):
    with pytest.raises(ValueError, match=f"d_ff must be an integer from 1.*d_ff={d_ff!r}"):
        FeedForward(d_ff)
