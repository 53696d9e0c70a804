import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from tiny_models import source_ids, target_ids, tiny_model

from keras_transformer.training.losses import SmoothedCrossEntropy, token_cross_entropy


def reference(targets, logits, smoothing):
    """-sum_k q(k) log p(k) in float64, with the target distribution q written out."""
    logits = np.asarray(logits, "float64")
    size = logits.shape[-1]
    log_p = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    q = (1 - smoothing) * np.eye(size)[targets] + smoothing / size
    return -(q * log_p).sum(axis=-1)


def example(rows=3, length=5, size=7, seed=0):
    generator = np.random.default_rng(seed)
    targets = generator.integers(1, size, (rows, length)).astype("int32")
    return targets, generator.normal(0, 2, (rows, length, size)).astype("float32")


def test_worked_numbers():
    # p = (1/2, 1/4, 1/4). Without smoothing: ln 2. With 0.3: q = (0.8, 0.1, 0.1) and
    # 0.8 ln 2 + 0.2 ln 4 = 1.2 ln 2.
    logits = np.log(np.array([[[0.5, 0.25, 0.25]]], "float32"))
    targets = np.array([[0]])
    assert float(token_cross_entropy(targets, logits)[0, 0]) == pytest.approx(math.log(2))
    assert float(token_cross_entropy(targets, logits, 0.3)[0, 0]) == pytest.approx(
        1.2 * math.log(2)
    )


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
@pytest.mark.parametrize("dtype", ["int32", "int64"])
def test_each_position_equals_the_formula_with_a_one_hot_target(smoothing, dtype):
    targets, logits = example()
    found = token_cross_entropy(targets.astype(dtype), logits, smoothing)
    np.testing.assert_allclose(found, reference(targets, logits, smoothing), rtol=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_the_mean_over_real_positions(smoothing):
    targets, logits = example()
    targets[0, 3:], targets[2, :] = 0, 0  # the last row is all padding
    real = targets != 0
    expected = reference(targets, logits, smoothing)[real].mean()
    assert float(SmoothedCrossEntropy(smoothing)(targets, logits)) == pytest.approx(
        expected, rel=1e-5
    )


def test_more_padding_and_empty_rows_change_neither_loss_nor_gradient():
    targets, logits = example()
    loss = SmoothedCrossEntropy(0.1)

    def loss_and_gradient(targets, logits):
        x = tf.Variable(logits)
        with tf.GradientTape() as tape:
            value = loss(targets, tf.identity(x))
        return float(value), tape.gradient(value, x).numpy()

    value, gradient = loss_and_gradient(targets, logits)
    wider = np.pad(targets, ((0, 2), (0, 3)))
    garbage = np.pad(logits, ((0, 2), (0, 3), (0, 0)), constant_values=77.0)
    padded_value, padded_gradient = loss_and_gradient(wider, garbage)
    assert padded_value == pytest.approx(value, rel=1e-6)
    np.testing.assert_allclose(padded_gradient[:3, :5], gradient, rtol=1e-5, atol=1e-8)
    assert np.abs(padded_gradient[3:]).max() == np.abs(padded_gradient[:, 5:]).max() == 0


def test_a_batch_of_padding_alone_costs_nothing():
    targets, logits = example()
    assert float(SmoothedCrossEntropy(0.1)(0 * targets, logits)) == 0


def test_another_pad_id():
    targets, logits = example()
    real = targets != 4
    assert not real.all()
    expected = reference(targets, logits, 0.1)[real].mean()
    assert float(SmoothedCrossEntropy(0.1, pad_id=4)(targets, logits)) == pytest.approx(
        expected, rel=1e-5
    )


def test_the_perfect_answer_of_a_smoothed_loss_is_the_entropy():
    size, smoothing = 5, 0.2
    q = np.full(size, smoothing / size)
    q[2] += 1 - smoothing
    found = float(SmoothedCrossEntropy(smoothing)(np.array([[2]]), np.log(q)[None, None]))
    assert found == pytest.approx(-(q * np.log(q)).sum(), rel=1e-5)


def test_half_precision_logits_are_read_in_float32():
    targets, logits = example()
    half = logits.astype("float16")
    found = token_cross_entropy(targets, tf.constant(half), 0.1)
    assert found.dtype == tf.float32
    np.testing.assert_allclose(found, reference(targets, half, 0.1), rtol=1e-5)


@pytest.mark.parametrize("shape", ["rows", "positions"])
def test_sample_weights_of_rows_or_of_positions(shape):
    targets, logits = example(rows=5, length=5)  # square, where a wrong broadcast is silent
    targets[1, 2:] = 0
    weights = np.random.default_rng(1).random(5 if shape == "rows" else (5, 5)).astype("float32")
    every = np.broadcast_to(weights[:, None] if shape == "rows" else weights, (5, 5)) * (
        targets != 0
    )
    expected = (reference(targets, logits, 0.1) * every).sum() / every.sum()
    loss = SmoothedCrossEntropy(0.1)
    assert float(loss(targets, logits, sample_weight=weights)) == pytest.approx(expected, rel=1e-5)


def test_round_trip():
    loss = SmoothedCrossEntropy(0.2, pad_id=3, name="mine")
    again = keras.losses.deserialize(keras.losses.serialize(loss))
    assert again.get_config() == loss.get_config()
    targets, logits = example()
    assert float(again(targets, logits)) == float(loss(targets, logits))


@pytest.mark.parametrize("smoothing", [-0.1, 1.0])
def test_smoothing_out_of_range_is_refused(smoothing):
    with pytest.raises(ValueError, match=f"label_smoothing must be from 0.*={smoothing}"):
        SmoothedCrossEntropy(smoothing)


def test_logged_loss_of_fit_and_evaluate_is_weighted_by_tokens():
    model = tiny_model()
    model.compile(keras.optimizers.SGD(0.0), SmoothedCrossEntropy(0.1), run_eagerly=True)
    config = model.config
    sizes = [((3, 2), (5, 4)), ((7,), (1,)), ((2, 2, 2, 4), (9, 1, 3, 2))]
    batches, losses = [], []
    for seed, (source_lengths, target_lengths) in enumerate(sizes):
        inputs = source_ids(config, source_lengths, seed), target_ids(config, target_lengths, seed)
        outputs = np.where(inputs[1] == config.pad_id, config.pad_id, 5)
        batches.append((inputs, outputs))
        losses += list(reference(outputs, model(inputs), 0.1)[outputs != config.pad_id])
    expected = np.mean(losses)

    signature = tuple(tf.TensorSpec((None, None), "int32") for _ in range(3))
    data = tf.data.Dataset.from_generator(
        lambda: iter(batches),
        output_signature=(signature[:2], signature[2]),
    )
    history = model.fit(data, validation_data=data, epochs=1, verbose=0).history
    assert history["loss"] == pytest.approx([expected], rel=1e-5)
    assert history["val_loss"] == pytest.approx([expected], rel=1e-5)
    assert model.evaluate(data, verbose=0) == pytest.approx(expected, rel=1e-5)


def test_logged_loss_counts_sample_weights():
    model = tiny_model()
    model.compile("sgd", SmoothedCrossEntropy(0.1), run_eagerly=True)
    inputs = source_ids(model.config, (3, 2)), target_ids(model.config, (4, 2))
    outputs = np.where(inputs[1] == 0, 0, 5)
    weights = np.array([1.0, 0.0], "float32")
    found = model.evaluate(inputs, outputs, sample_weight=weights, batch_size=1, verbose=0)
    assert found == pytest.approx(reference(outputs, model(inputs), 0.1)[0].mean(), rel=1e-5)


@pytest.mark.jax
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_a_target_outside_the_vocabulary_is_not_a_number(label_smoothing):
    logits = np.random.default_rng(0).normal(size=(1, 4, 5)).astype("float32")
    losses = np.asarray(token_cross_entropy(np.array([[1, 4, 5, -1]]), logits, label_smoothing))
    assert np.isnan(losses).tolist() == [[False, False, True, True]]
