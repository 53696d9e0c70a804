"""Every similarity and kind of positions goes through both exports with equal answers.

Greedy search, and one beam search alone: that of a bundle, with the choice between the two, is
several times the work for the converter and needs to be tried for one architecture only
(test_translators.py).
"""

import numpy as np
import onnxruntime
import pytest
import tensorflow as tf
from keras import ops
from tiny_models import OPTIONS, source_ids, tiny_config, tiny_model

from keras_transformer.config import SIMILARITY_NAMES
from keras_transformer.decoding.generation import generate
from keras_transformer_export.onnx_model import OUTPUTS, Value, convert

# The first has the other layout of rotary positions, "cosine" has the usual one.
EXPORTED = {
    "dot": OPTIONS["dot"] | OPTIONS["rotary_halves"],
    **{name: OPTIONS[name] for name in ("general", "additive", "cosine", "linear_concat")},
    "own_similarity": OPTIONS["own_similarity"],
}


def found_by(model, source_ids, size):
    """A search with sizes that are numbers: (ids, scores, finished)."""
    return generate(model, source_ids, beam_size=size, num_hypotheses=max(1, size - 1))


def saved_search(model, size, folder):
    """The search of a model, and the SavedModel of it: ids -> Found.

    The loaded object has to be kept: its function does not hold the weights.
    """
    module = tf.Module()
    module.weights = [weight.value for weight in model.weights]
    module.search = tf.function(
        lambda ids: found_by(model, ids, size),
        input_signature=[tf.TensorSpec([None, None], tf.int32)],
        autograph=False,
    )
    tf.saved_model.save(module, str(folder))
    return module.search, tf.saved_model.load(str(folder))


def onnx_search(model, size):
    """The search of a model in ONNX Runtime: (output names, feeds) -> arrays."""

    def search(source_ids):
        found = found_by(model, ops.cast(source_ids, "int32"), size)
        return {"ids": ops.cast(found.ids, "int64"), "scores": found.scores}

    converted = convert(search, [Value("source_ids", "int64", ("B", "S"))], OUTPUTS).model
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(converted.SerializeToString(), options).run


def test_every_similarity_and_both_rotary_layouts_are_exported():
    configs = [tiny_config(**fields) for fields in EXPORTED.values()]
    # "concat" is "additive" by its other name; the bundle of the other tests is "scaled_dot"
    others = {"scaled_dot", "concat"}
    assert {c.similarity for c in configs} >= set(SIMILARITY_NAMES) - others
    rotary = [c.position_layout for c in configs if c.positions == "rotary"]
    assert sorted(rotary) == ["halves", "interleaved"]


@pytest.mark.parametrize("option", EXPORTED)
def test_promise_4_keras_onnx_and_saved_model_give_the_same(option, tmp_path):
    model = tiny_model(seed=3, **EXPORTED[option])
    size = 4 if option == "own_similarity" else 1
    search, loaded = saved_search(model, size, tmp_path)
    run = onnx_search(model, size)
    for lengths in ([1], [5, 3, 1, 8], [2, 11, 7]):
        sources = source_ids(model.config, lengths, seed=len(lengths))
        expected_ids, expected_scores, _ = map(np.asarray, search(sources))
        ids, scores = run(["ids", "scores"], {"source_ids": sources.astype("int64")})
        np.testing.assert_array_equal(ids, expected_ids)
        np.testing.assert_allclose(scores, expected_scores, atol=1e-4)
        saved_ids, saved_scores, _ = loaded.search(sources)
        np.testing.assert_array_equal(saved_ids, expected_ids)
        np.testing.assert_allclose(saved_scores, expected_scores, atol=1e-5)
