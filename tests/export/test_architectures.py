"""Every similarity and kind of positions goes through both exports with equal answers."""

import numpy as np
import onnxruntime
import pytest
import tensorflow as tf
from tiny_models import OPTIONS, source_ids, tiny_model

from keras_transformer.decoding.generation import generate
from keras_transformer_export.onnx_model import convert_search

EXPORTED = ["rotary", "rotary_halves", "dot", "general", "additive", "cosine", "linear_concat",
            "own_similarity"]  # fmt: skip


def saved_search(model, folder):
    """The search of a model, and the SavedModel of it: (ids, beam_size, num_hypotheses) -> Found.

    The loaded object has to be kept: its function does not hold the weights.
    """
    module = tf.Module()
    module.weights = [weight.value for weight in model.weights]
    integer = tf.TensorSpec([], tf.int32)
    module.search = tf.function(
        lambda ids, size, count: generate(model, ids, beam_size=size, num_hypotheses=count),
        input_signature=[tf.TensorSpec([None, None], tf.int32), integer, integer],
        autograph=False,
    )
    tf.saved_model.save(module, str(folder))
    return module.search, tf.saved_model.load(str(folder))


@pytest.mark.parametrize("option", EXPORTED)
def test_promise_4_keras_onnx_and_saved_model_give_the_same(option, tmp_path):
    model = tiny_model(seed=3, **OPTIONS[option])
    search, loaded = saved_search(model, tmp_path)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(convert_search(model).model.SerializeToString(), options)
    for lengths in ([1], [5, 3, 1, 8], [2, 11, 7]):
        sources = source_ids(model.config, lengths, seed=len(lengths))
        for size, count in ((1, 1), (4, 3)):
            expected_ids, expected_scores, _ = map(np.asarray, search(sources, size, count))
            feeds = {
                "source_ids": sources.astype("int64"),
                "beam_size": np.array(size),
                "num_hypotheses": np.array(count),
            }
            ids, scores = session.run(["ids", "scores"], feeds)
            np.testing.assert_array_equal(ids, expected_ids)
            np.testing.assert_allclose(scores, expected_scores, atol=1e-4)
            saved_ids, saved_scores, _ = loaded.search(sources, size, count)
            np.testing.assert_array_equal(saved_ids, expected_ids)
            np.testing.assert_allclose(saved_scores, expected_scores, atol=1e-5)
