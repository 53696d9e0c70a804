import math

import keras
import numpy as np
import pytest
import yaml
from tiny_models import Negated, tiny_config

from keras_transformer.config import SIMILARITY_NAMES, TransformerConfig
from keras_transformer.layers import (
    Additive,
    Cosine,
    Dot,
    Encoder,
    General,
    LinearConcat,
    MultiHeadAttention,
    ScaledDot,
    scaled_dot,
)
from keras_transformer.layers import similarity as similarities
from keras_transformer.model import Transformer

pytestmark = pytest.mark.jax

NAMES = [*SIMILARITY_NAMES, "tests>Negated"]


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


ONE_HEAD = (None, 1, None, 2)
QUERY, KEYS = [1.0, 2.0], [[3.0, -1.0], [0.0, 4.0]]


def scores_of(layer, query, keys):
    """Scores of one query and some keys in one head."""
    if not layer.built:
        layer.build((None, 1, None, len(query)), (None, 1, None, len(query)))
    prepared = layer.prepare_key(np.array([[keys]], "float32"))
    return np.asarray(layer(np.array([[[query]]], "float32"), prepared))[0, 0, 0]


def with_weights(layer, **weights):
    layer.build(ONE_HEAD, ONE_HEAD)
    for name, value in weights.items():
        weight = getattr(layer, name)
        weight.assign(np.reshape(np.array(value, "float32"), weight.shape))
    return layer


def test_dot_of_worked_numbers():
    np.testing.assert_allclose(scores_of(Dot(), QUERY, KEYS), [1.0, 8.0])


def test_general_of_worked_numbers():
    # W = [[1, 2], [0, 3]]: W [3, -1] = [1, -3], W [0, 4] = [8, 12]
    layer = with_weights(General(), kernel=[[1, 2], [0, 3]])
    np.testing.assert_allclose(scores_of(layer, QUERY, KEYS), [1 - 6, 8 + 24])


def test_additive_of_worked_numbers():
    # one hidden unit: 2 tanh(0.1 q1 + 0.2 q2 + 0.3 k1 - 0.1 k2)
    layer = with_weights(
        Additive(units=1), query_kernel=[0.1, 0.2], key_kernel=[0.3, -0.1], vector=2
    )
    expected = [2 * math.tanh(0.5 + 1.0), 2 * math.tanh(0.5 - 0.4)]
    np.testing.assert_allclose(scores_of(layer, QUERY, KEYS), expected, rtol=1e-6)


def test_linear_concat_of_worked_numbers():
    layer = with_weights(LinearConcat(), query_vector=[1, -1], key_vector=[2, 0.5])
    np.testing.assert_allclose(scores_of(layer, QUERY, KEYS), [-1 + 5.5, -1 + 2.0])


def test_cosine_of_worked_numbers():
    # |[3, 4]| = 5, |[4, 3]| = 5, their product 24: cos = 24 / 25, divided by t = 1 / 2
    layer = with_weights(Cosine(temperature=0.5))
    np.testing.assert_allclose(
        scores_of(layer, [3.0, 4.0], [[4.0, 3.0], [-3.0, -4.0], [0.0, 0.0]]),
        [2 * 24 / 25, -2.0, 0.0],
        rtol=1e-6,
    )


def test_luongs_concat_is_bahdanaus_perceptron():
    generator = np.random.default_rng(0)
    both, vector = generator.normal(size=(5, 8)), generator.normal(size=5)  # W' [5, 4 + 4], v
    query, key = generator.normal(size=(3, 4)), generator.normal(size=(6, 4))
    expected = [[vector @ np.tanh(both @ np.concatenate([q, k])) for k in key] for q in query]
    layer = similarities.get("concat", units=5)
    heads = (None, 1, None, 4)
    layer.build(heads, heads)
    layer.set_weights([both[:, :4].T[None], both[:, 4:].T[None], vector.reshape(1, 1, 1, 5)])
    prepared = layer.prepare_key(key[None, None].astype("float32"))
    found = layer(query[None, None].astype("float32"), prepared)
    np.testing.assert_allclose(np.asarray(found)[0, 0], expected, atol=1e-5)


def test_the_query_cancels_in_the_linear_one():
    layer = MultiHeadAttention(2, similarity="linear_concat")
    generator = np.random.default_rng(0)
    query, key = (generator.normal(size=(2, n, 8)).astype("float32") for n in (5, 7))
    weights = np.asarray(layer.return_scores(query, key))
    np.testing.assert_allclose(
        weights, np.broadcast_to(weights[:, :, :1], weights.shape), atol=1e-6
    )
    assert weights.std(axis=-1).min() > 1e-3, "it attends to some keys more than to others"


def test_cosine_does_not_depend_on_the_length_of_a_vector():
    layer = with_weights(Cosine())
    plain = scores_of(layer, QUERY, KEYS)
    longer = scores_of(layer, [100 * x for x in QUERY], [[0.01 * x for x in k] for k in KEYS])
    np.testing.assert_allclose(longer, plain, rtol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_prepare_key_of_a_part_is_a_part_of_prepare_key(name):
    layer = similarities.get(name)
    layer.build((None, 3, None, 4), (None, 3, None, 4))
    key = np.random.default_rng(0).normal(size=(2, 3, 5, 4)).astype("float32")
    parts = [np.asarray(layer.prepare_key(key[:, :, i : i + 1])) for i in range(5)]
    grown = np.concatenate(parts, axis=layer.length_axis)
    np.testing.assert_allclose(grown, layer.prepare_key(key), atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_heads_have_weights_of_their_own(name):
    layer = similarities.get(name)
    layer.build((None, 3, None, 4), (None, 3, None, 4))
    assert all(weight.shape[0] == 3 for weight in layer.weights)


def test_the_config_knows_every_name():
    assert tuple(similarities.SIMILARITIES) == SIMILARITY_NAMES


def test_a_layer_gives_each_attention_of_a_model_a_copy_of_its_own(tmp_path):
    encoder = Encoder(2, 2, 16, similarity=Cosine(temperature=0.3))
    x = np.random.default_rng(0).normal(size=(2, 3, 8)).astype("float32")
    before = np.asarray(encoder(x))
    own = [layer.self_attention.similarity for layer in encoder.layers]
    assert own[0] is not own[1]
    assert [similarity.temperature for similarity in own] == [0.3, 0.3]
    again = Encoder.from_config(encoder.get_config())
    again(x)
    again.set_weights(encoder.get_weights())
    np.testing.assert_array_equal(again(x), before)


def test_a_config_takes_a_layer_and_keeps_it_through_yaml():
    config = tiny_config(similarity=Additive(units=3))
    again = TransformerConfig(**yaml.safe_load(yaml.safe_dump(config.model_dump())))
    assert again == config
    similarity = Transformer(again).decoder.layers[0].cross_attention.similarity
    assert (type(similarity), similarity.units) == (Additive, 3)


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


def test_queries_and_keys_of_different_sizes_are_refused():
    query, key = np.ones((1, 2, 3, 4), "float32"), np.ones((1, 2, 5, 6), "float32")
    with pytest.raises(ValueError, match=r"with the H of query.*\(1, 2, 3, 4\).*\(1, 2, 6, 5\)"):
        scaled_dot(query, np.swapaxes(key, 2, 3))
    layer = ScaledDot()
    with pytest.raises(ValueError, match="with the H of query"):
        layer(query, layer.prepare_key(key))


def test_an_object_without_prepare_key_is_refused():
    with pytest.raises(ValueError, match=r"prepare_key"):
        MultiHeadAttention(num_heads=2, similarity=keras.layers.Dense(3))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Additive(units=0), "units must be an integer from 1, or None.*units=0"),
        (lambda: Additive(units=1.5), "units must be an integer from 1.*units=1.5"),
        (lambda: Cosine(temperature=0.0), "temperature must be above 0.*temperature=0.0"),
        (lambda: similarities.get("tests>Nobody"), "must be one of scaled_dot.*'tests>Nobody'"),
        (lambda: similarities.get(keras.layers.Dense(3)), "prepare_key"),
    ],
)
def test_bad_arguments_are_refused(make, message):
    with pytest.raises((ValueError, TypeError), match=message):
        make()
