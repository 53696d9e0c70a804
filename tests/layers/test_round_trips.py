"""Promise 1: every public layer goes through its config and through a `.keras` file."""

import inspect
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from tiny_models import disturb, tiny_model

from keras_transformer import layers

SIZES = {"num_heads": 2, "key_dim": 3, "value_dim": 5}
OPTIONS = {
    **SIZES,
    "d_ff": 16,
    "activation": "gelu",
    "dropout": 0.2,
    "attention_dropout": 0.1,
    "feed_forward_dropout": 0.3,
    "norm_first": True,
    "layer_norm_epsilon": 0.01,
}
X, MEMORY = (
    np.random.default_rng(i).normal(size=(2, length, 8)).astype("float32")
    for i, length in enumerate((5, 4))
)
MASK, MEMORY_MASK = (np.arange(n)[None, None] < np.array([n, 2])[:, None, None] for n in (5, 4))
IDS = np.array([[1, 2, 0], [8, 3, 3]], "int32")

# No default among the arguments, or a setting that get_config forgets would not be noticed.
CASES = {
    "CausalSelfAttention": ({**SIZES, "dropout": 0.1}, (X,)),
    "CrossAttention": ({**SIZES, "dropout": 0.1}, (X, MEMORY, MEMORY_MASK)),
    "Decoder": ({**OPTIONS, "num_layers": 2, "final_norm": False}, (X, MEMORY, MEMORY_MASK)),
    "DecoderLayer": (OPTIONS, (X, MEMORY, MEMORY_MASK)),
    "Encoder": ({**OPTIONS, "num_layers": 2, "final_norm": False}, (X, MASK)),
    "EncoderLayer": (OPTIONS, (X, MASK)),
    "FeedForward": ({"d_ff": 16, "activation": "silu", "dropout": 0.1}, (X,)),
    "MultiHeadAttention": ({**SIZES, "dropout": 0.1}, (X, MEMORY, MEMORY, MEMORY_MASK)),
    "PositionalEmbedding": (
        {"positions": "learned", "position_layout": "halves", "max_positions": 7},
        (X,),
    ),
    "ScaledDot": ({}, (X[:, None], np.swapaxes(MEMORY, 1, 2)[:, None])),
    "SelfAttention": ({**SIZES, "dropout": 0.1}, (X, MASK)),
    "TokenEmbedding": ({"vocab_size": 9, "d_model": 8, "scale": False}, (IDS,)),
}
PUBLIC_LAYERS = [name for name in layers.__all__ if inspect.isclass(getattr(layers, name))]


def make(name):
    arguments, inputs = CASES[name]
    layer = getattr(layers, name)(**arguments)
    layer(*inputs)
    disturb(layer)
    return layer, inputs


def as_model(layer, inputs):
    """What a Keras user does with a layer: a functional model of it."""
    symbolic = [keras.Input(i.shape[1:], batch_size=None, dtype=str(i.dtype)) for i in inputs]
    return keras.Model(symbolic, layer(*symbolic))


def test_every_public_layer_has_a_case():
    assert sorted(PUBLIC_LAYERS) == sorted(CASES)


@pytest.mark.parametrize("name", PUBLIC_LAYERS)
def test_config_round_trip(name):
    layer, inputs = make(name)
    config = layer.get_config()
    again = type(layer).from_config(config)
    again(*inputs)
    assert again.get_config() == config
    again.set_weights(layer.get_weights())
    np.testing.assert_array_equal(again(*inputs), layer(*inputs))
    assert {name: config[name] for name in CASES[name][0]} == CASES[name][0]


@pytest.mark.parametrize("name", PUBLIC_LAYERS)
def test_a_case_sets_every_constructor_argument_away_from_its_default(name):
    arguments, _ = CASES[name]
    unset = []
    for owner in getattr(layers, name).__mro__:
        if "__init__" in vars(owner) and owner.__module__.startswith("keras_transformer."):
            for parameter in inspect.signature(owner.__init__).parameters.values():
                usual = parameter.name in ("self", "kwargs", "options", "similarity")
                if not usual and arguments.get(parameter.name) in (None, parameter.default):
                    unset.append(parameter.name)
    assert unset == []


@pytest.mark.parametrize("name", PUBLIC_LAYERS)
def test_keras_file_round_trip_inside_a_functional_model(name, tmp_path):
    layer, inputs = make(name)
    model = as_model(layer, inputs)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again(list(inputs)), layer(*inputs))


@pytest.mark.parametrize("name", PUBLIC_LAYERS)
def test_symbolic_shape_is_the_real_shape(name):
    layer, inputs = make(name)
    symbolic = as_model(layer, inputs).outputs[0]
    result = layer(*inputs)
    assert symbolic.shape == (None, *result.shape[1:])
    assert keras.backend.standardize_dtype(result.dtype) == symbolic.dtype


@pytest.mark.parametrize("name", PUBLIC_LAYERS)
def test_every_weight_learns(name):
    layer, inputs = make(name)
    if not layer.trainable_weights:
        assert name == "ScaledDot"
        return
    model = as_model(layer, inputs)
    model.compile(keras.optimizers.SGD(1.0), "mse", run_eagerly=True)
    before = model.get_weights()
    model.train_on_batch(
        list(inputs), 10 * np.random.default_rng(5).normal(size=layer(*inputs).shape)
    )
    for old, weight in zip(before, model.weights, strict=True):
        # A bias of every key adds the same to all scores of a query, which a softmax ignores.
        if not weight.path.endswith("key/bias"):
            assert np.abs(weight.numpy() - old).max() > 1e-7, weight.path


def test_all_layers_and_the_model_reload_in_a_fresh_process(tmp_path):
    expected = {}
    for name in PUBLIC_LAYERS:
        layer, inputs = make(name)
        as_model(layer, inputs).save(tmp_path / f"{name}.keras")
        expected[name] = np.asarray(layer(*inputs))
        np.savez(tmp_path / f"{name}.npz", *inputs)
    model = tiny_model()
    model.save(tmp_path / "Transformer.keras")
    expected["Transformer"] = np.asarray(model((IDS, IDS)))
    np.savez(tmp_path / "Transformer.npz", IDS, IDS)
    np.savez(tmp_path / "expected.npz", **expected)
    code = """
import sys
from pathlib import Path
from keras_transformer import backend
backend.import_tensorflow()
import keras, numpy as np
import keras_transformer.model
folder = Path(sys.argv[1])
for name, expected in np.load(folder / "expected.npz").items():
    model = keras.saving.load_model(folder / f"{name}.keras")
    inputs = list(np.load(folder / f"{name}.npz").values())
    np.testing.assert_allclose(model(inputs), expected, rtol=1e-6, atol=1e-6)
    print(name)
"""
    root = Path(__file__).parents[2]
    result = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(root), str(root / "export")])},
        timeout=120,
    )
    assert result.stdout.split() == [*PUBLIC_LAYERS, "Transformer"], result.stderr[-2000:]
