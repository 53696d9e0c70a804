import math

import keras
import numpy as np
import pytest

from keras_transformer.layers import MultiHeadAttention, ScaledDot, scaled_dot
from keras_transformer.layers import similarity as similarities


def test_scaled_dot_of_worked_numbers():
    query = np.array([[[[1.0, 2.0, 0.0, 2.0], [0.0, 1.0, 0.0, 0.0]]]], "float32")  # [1, 1, 2, 4]
    keys = np.array([[[[3.0, 1.0, 5.0, 0.5], [0.0, 0.0, 1.0, 0.0]]]], "float32")
    scores = scaled_dot(query, np.swapaxes(keys, 2, 3))
    # (3 + 2 + 0 + 1) / 2 = 3; the second key is orthogonal to both queries
    np.testing.assert_allclose(np.asarray(scores), [[[[3.0, 0.0], [0.5, 0.0]]]], rtol=1e-6)


def test_scores_keep_variance_one_for_any_head_size():
    generator = np.random.default_rng(0)
    for size in (2, 64, 512):
        query, key = generator.normal(size=(2, 1, 1, 200, size)).astype("float32")
        scores = ScaledDot()(query, ScaledDot().prepare_key(key))
        assert math.isclose(np.asarray(scores).var(), 1.0, abs_tol=0.1)


def test_prepare_key_of_a_part_is_a_part_of_prepare_key():
    layer = ScaledDot()
    key = np.random.default_rng(0).normal(size=(2, 3, 5, 4)).astype("float32")
    parts = [np.asarray(layer.prepare_key(key[:, :, i : i + 1])) for i in range(5)]
    grown = np.concatenate(parts, axis=layer.length_axis)
    np.testing.assert_array_equal(grown, layer.prepare_key(key))


@keras.saving.register_keras_serializable(package="tests")
class Negated(ScaledDot):
    """What a user might write: a similarity with a weight of its own."""

    def build(self, query_shape=None, prepared_shape=None):
        self.factor = self.add_weight(shape=(), initializer="ones", name="factor")
        super().build(query_shape, prepared_shape)

    def call(self, query, prepared):
        return -self.factor * super().call(query, prepared)


def test_a_layer_of_your_own_is_accepted_trained_and_saved(tmp_path):
    x = keras.Input((None, 4))
    layer = MultiHeadAttention(num_heads=2, similarity=Negated())
    model = keras.Model(x, layer(x))
    assert any(weight.path.endswith("factor") for weight in model.trainable_weights)
    data = np.random.default_rng(0).normal(size=(2, 3, 4)).astype("float32")
    plain = MultiHeadAttention(num_heads=2)
    plain.build(data.shape)
    plain.set_weights([w.numpy() for w in layer.weights if not w.path.endswith("factor")])
    assert not np.allclose(layer.return_scores(data), plain.return_scores(data))
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again(data), model(data))


def test_an_unknown_similarity_is_refused_with_the_known_names():
    with pytest.raises(ValueError, match=r"must be one of scaled_dot.*similarity='cosin'"):
        similarities.get("cosin")


def test_an_object_without_prepare_key_is_refused():
    with pytest.raises(ValueError, match=r"prepare_key"):
        MultiHeadAttention(num_heads=2, similarity=keras.layers.Dense(3))
