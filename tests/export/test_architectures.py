"""Every similarity and kind of positions goes through both exports with equal answers."""

import numpy as np
import onnxruntime
import pytest
import tensorflow as tf
from tiny_models import OPTIONS, source_ids, tiny_model

from keras_transformer.translator import generate
from keras_transformer_export.onnx_model import convert_search

EXPORTED = ["rotary", "rotary_halves", "dot", "general", "additive", "cosine", "linear_concat",
            "own_similarity"]  # fmt: skip


@pytest.mark.parametrize("option", EXPORTED)
def test_promise_4_keras_onnx_and_saved_model_give_the_same(option, tmp_path):
    model = tiny_model(seed=3, **OPTIONS[option])
    module = tf.Module()
    module.weights = [weight.value for weight in model.weights]
    ids = tf.TensorSpec([None, None], tf.int32)
    module.search = tf.function(lambda ids: generate(model, ids), input_signature=[ids])
    tf.saved_model.save(module, str(tmp_path))
    loaded = tf.saved_model.load(str(tmp_path))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(convert_search(model).model.SerializeToString(), options)
    for lengths in ([1], [5, 3, 1, 8], [2, 11, 7]):
        sources = source_ids(model.config, lengths, seed=len(lengths))
        expected_ids, expected_scores, _ = map(np.asarray, module.search(sources))
        found = dict(
            zip(
                ["ids", "scores"],
                session.run(["ids", "scores"], {"source_ids": sources.astype("int64")}),
                strict=True,
            )
        )
        np.testing.assert_array_equal(found["ids"], expected_ids)
        np.testing.assert_allclose(found["scores"], expected_scores, atol=1e-4)
        saved_ids, saved_scores, _ = loaded.search(sources)
        np.testing.assert_array_equal(saved_ids, expected_ids)
        np.testing.assert_allclose(saved_scores, expected_scores, atol=1e-5)
