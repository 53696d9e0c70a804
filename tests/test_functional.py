"""The functional model of a Transformer, and what Keras's summary and drawing make of the two."""

import shutil

import keras
import numpy as np
import pytest
from tiny_models import OPTIONS, assert_close, batch, model_with, tiny_config, tiny_model

from keras_transformer.config import RNNSearchConfig
from keras_transformer.model import Transformer
from keras_transformer.recurrent import RNNSearch

EDGES = {
    ("source_ids", "source_embedding"), ("source_embedding", "source_positions"),
    ("source_positions", "source_dropout"), ("source_dropout", "encoder"),
    ("source_ids", "source_mask"), ("source_mask", "encoder"), ("source_mask", "decoder"),
    ("target_in", "token_embedding"), ("token_embedding", "target_positions"),
    ("target_positions", "target_dropout"), ("target_dropout", "decoder"),
    ("encoder", "decoder"), ("decoder", "logits"),
}  # fmt: skip


def rows(model, **options):
    """What `summary` writes of each layer: (name, output shape, number of weights)."""
    lines = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "200")  # a narrow screen would break names into lines
        model.summary(line_length=190, print_fn=lines.append, **options)
    cells = [line.split("│")[1:4] for line in "\n".join(lines).splitlines() if "│" in line]
    return [
        (name.partition("(")[0].strip(" └"), shape.strip(), int(count.replace(",", "")))
        for name, shape, count in cells
    ]


@pytest.mark.parametrize(
    "option",
    [
        "norm_first", "learned_positions", "shared_embeddings", "separate_embeddings",
        "uneven_stacks", "rotary", "additive", "other_special_ids",
    ],
)  # fmt: skip
def test_the_functional_model_gives_the_same_logits_with_the_same_weights(option):
    model, forward = model_with(option)
    inputs = batch(model)
    graph = model.functional()
    assert_close(graph(inputs), forward(*inputs))
    assert {id(weight) for weight in graph.weights} == {id(weight) for weight in model.weights}
    assert sum(layer.count_params() for layer in graph.layers) == model.count_params()


@pytest.mark.jax
def test_training_the_functional_model_trains_the_model():
    model = tiny_model(dropout=0.1, output_bias=True)
    inputs = batch(model)
    before = np.asarray(model(inputs))
    graph = model.functional()
    graph.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    graph.fit(inputs, inputs[1], epochs=1, verbose=0)
    after = np.asarray(model(inputs))
    assert np.abs(after - before).max() > 1e-4
    assert_close(graph(inputs), after)


def test_the_functional_model_keeps_mixed_precision():
    keras.config.set_dtype_policy("mixed_bfloat16")
    model = Transformer(tiny_config())
    inputs = batch(model)
    np.testing.assert_array_equal(model.functional()(inputs), model(inputs))


def test_making_it_leaves_the_model_as_it_was(tmp_path):
    model = tiny_model()
    inputs = batch(model)
    before, paths = rows(model), [variable.path for variable in model.variables]
    model.functional()
    again = model.functional()
    assert again.get_layer("encoder").output.shape == (None, None, 8)
    assert rows(model) == before
    assert [variable.path for variable in model.variables] == paths
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert_close(loaded(inputs), np.asarray(model(inputs)))


@pytest.mark.parametrize("option", OPTIONS)
def test_a_summary_knows_every_output_shape_and_all_weights(option):
    model, _ = model_with(option)
    found = rows(model, expand_nested=True)
    assert {shape for name, shape, _ in found if name != "output"} == {"(None, None, 8)"}
    bias = model.config.target_vocab_size * model.config.output_bias
    assert sum(count for _, _, count in rows(model)) + bias == model.count_params()


def test_a_summary_of_the_recurrent_model_knows_every_output_shape():
    sizes = {"d_embedding": 4, "hidden_size": 6, "units": 5, "maxout_size": 3}
    model = RNNSearch(RNNSearchConfig(source_vocab_size=9, target_vocab_size=7, **sizes))
    found = rows(model)
    assert ("source_embedding", "(None, None, 4)", 36) in found
    assert all(shape.startswith("(None, ") for _, shape, _ in found)
    assert sum(count for _, _, count in found) == model.count_params()


def test_a_summary_of_the_functional_model_opens_both_stacks():
    model = tiny_model(num_encoder_layers=2, num_decoder_layers=3)
    found = rows(model.functional(), expand_nested=True)
    inside = [name for name, _, _ in found if name.startswith("layer_")]
    assert inside == ["layer_0", "layer_1", "layer_0", "layer_1", "layer_2"]
    assert ("logits", "(None, None, 13)", 0) in found, "tied: counted where it is the embedding"


def named_edges(graph, dot):
    names = {str(id(layer)): layer.name for layer in graph.layers}
    return {(names[edge.get_source()], names[edge.get_destination()]) for edge in dot.get_edges()}


def test_a_drawing_has_every_layer_and_what_is_connected_to_what():
    pytest.importorskip("pydot", reason="pydot is not installed; it is in the extra notebooks")
    model = tiny_model(num_encoder_layers=2)
    graph = model.functional()
    assert named_edges(graph, keras.utils.model_to_dot(graph)) == EDGES
    opened = keras.utils.model_to_dot(graph, expand_nested=True, show_layer_names=True)
    boxes = {cluster.get_label(): cluster.to_string() for cluster in opened.get_subgraphs()}
    assert set(boxes) == {"source_mask", "encoder", "decoder"}
    assert boxes["encoder"].count("(EncoderLayer)") == 2
    assert boxes["decoder"].count("(DecoderLayer)") == 1


def test_a_drawing_is_written_to_a_file(tmp_path):
    pytest.importorskip("pydot", reason="pydot is not installed; it is in the extra notebooks")
    if not shutil.which("dot"):
        pytest.skip("Graphviz's program dot is not installed; Debian: apt install graphviz")
    path = tmp_path / "model.svg"
    keras.utils.plot_model(
        tiny_model().functional(), path, show_shapes=True, show_layer_names=True, expand_nested=True
    )
    drawing = path.read_text(encoding="utf-8")
    for text in ("source_ids", "layer_0", "(None, None, 13)"):
        assert text in drawing
