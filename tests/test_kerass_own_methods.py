"""What Keras users try first: predict, evaluate, fit, save and export."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from tiny_models import (
    assert_close,
    batch,
    tiny_model,
)

from keras_transformer.model import Transformer
from keras_transformer.training.losses import SmoothedCrossEntropy
from keras_transformer.training.metrics import Perplexity, TokenAccuracy


@pytest.fixture(scope="module")
def compiled():
    model = tiny_model()
    metrics = [TokenAccuracy(), Perplexity()]
    model.compile("adam", SmoothedCrossEntropy(0.1), metrics=metrics, run_eagerly=True)
    return model


def test_predict_takes_arrays_in_a_tuple_or_a_list_and_a_batch_size(compiled):
    sources, targets = batch(compiled)
    expected = np.asarray(compiled((sources, targets)))
    for inputs, size in (((sources, targets), None), ([sources, targets], 3)):
        found = compiled.predict(inputs, batch_size=size, verbose=0)
        assert_close(found, expected)
    found = compiled.predict_on_batch((sources, targets))
    assert_close(found, expected)


def test_evaluate_gives_the_same_for_every_batch_size(compiled):
    sources, targets = batch(compiled)
    outputs = np.roll(targets, -1, axis=1)
    results = [
        compiled.evaluate((sources, targets), outputs, batch_size=n, verbose=0, return_dict=True)
        for n in (3, 4)
    ]
    assert set(results[0]) == {"loss", "token_accuracy", "perplexity"}
    assert results[1] == pytest.approx(results[0], rel=1e-5)


def test_training_and_saving_by_kerass_own_methods(tmp_path):
    model = tiny_model()
    sources, targets = batch(model)
    outputs = np.roll(targets, -1, axis=1)
    model.compile(keras.optimizers.Adam(0.03), SmoothedCrossEntropy(0.0), metrics=[TokenAccuracy()])
    losses = model.fit((sources, targets), outputs, epochs=20, verbose=0).history["loss"]
    assert losses[-1] < losses[0] / 2
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert int(again.optimizer.iterations) == 20
    before = model.evaluate((sources, targets), outputs, verbose=0)
    assert again.evaluate((sources, targets), outputs, verbose=0) == pytest.approx(before)
    model.summary(print_fn=lambda text, **_: None)
    model.save_weights(tmp_path / "model.weights.h5")
    fresh = Transformer(model.config)
    fresh.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_array_equal(fresh((sources, targets)), model((sources, targets)))


def test_kerass_own_losses_and_metrics_train_it_too():
    model = tiny_model()
    sources, targets = batch(model)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss, metrics=["accuracy"], run_eagerly=True)
    history = model.fit((sources, targets), targets, epochs=2, verbose=0).history
    assert set(history) == {"loss", "accuracy"}
    assert history["loss"][1] < history["loss"][0]
    expected = float(loss(targets, model((sources, targets))))
    found = model.evaluate((sources, targets), targets, verbose=0, return_dict=True)
    assert found["loss"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.tensorflow
def test_kerass_own_export_writes_a_saved_model_for_any_size(tmp_path):
    model = tiny_model()
    model.export(tmp_path / "saved", verbose=False)
    serve = tf.saved_model.load(str(tmp_path / "saved")).signatures["serving_default"]
    for lengths in ([(5, 2), (4, 6)], [(1,), (1,)], [(9, 9, 3), (2, 1, 2)]):
        sources, targets = batch(model, *lengths)
        found = serve(source_ids=sources, target_in=targets)
        expected = model((sources, targets))
        assert_close(*found.values(), expected)


@pytest.mark.tensorflow
def test_kerass_own_export_writes_an_onnx_file_for_any_size(tmp_path):
    import onnxruntime

    model = tiny_model()
    model.export(tmp_path / "model.onnx", format="onnx", verbose=False)
    session = onnxruntime.InferenceSession(
        tmp_path / "model.onnx", providers=["CPUExecutionProvider"]
    )
    for lengths in ([(5, 2), (4, 6)], [(1,), (1,)]):
        sources, targets = batch(model, *lengths)
        found = session.run(None, {"source_ids": sources, "target_in": targets})[0]
        assert_close(found, model((sources, targets)))
