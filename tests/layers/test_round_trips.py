"""Promise 1: every public layer goes through its config and through a `.keras` file."""

import inspect
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from layer_cases import CASES, IDS, PUBLIC_LAYERS, as_model, make, subject
from tiny_models import tiny_model

from keras_transformer import layers

pytestmark = pytest.mark.jax

# What no loss can move: scores that are the same for every key of a query cancel in the softmax.
# A bias of the keys does that where a score is linear in the key, and everything about the query
# where the score is a sum of one part for each.
KEY_BIAS = ("key/bias",)
WITHOUT_GRADIENT = {
    "Cosine": (),
    "Additive": (),
    "LinearConcat": (*KEY_BIAS, "query/kernel", "query/bias", "query_vector"),
}


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
    arguments = CASES[name][0]
    told = subject(name, layer).get_config()
    assert {name: told[name] for name in arguments} == arguments


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
        assert not CASES[name][0], "a layer without weights here has no arguments either"
        return
    model = as_model(layer, inputs)
    # TensorFlow is quicker without a graph, JAX with one program than with one an operation.
    eager = keras.backend.backend() == "tensorflow"
    model.compile(keras.optimizers.SGD(1.0), "mse", run_eagerly=eager)
    before = model.get_weights()
    model.train_on_batch(
        list(inputs), 10 * np.random.default_rng(5).normal(size=layer(*inputs).shape)
    )
    still = WITHOUT_GRADIENT.get(name, KEY_BIAS)
    for old, weight in zip(before, model.weights, strict=True):
        moved = np.abs(np.asarray(weight) - old).max()
        assert weight.path.endswith(still) if moved <= 1e-7 else True, weight.path


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
    # what one backend has written the other reads, with the same answers
    other = {"tensorflow": "jax", "jax": "tensorflow"}[keras.backend.backend()]
    result = run_in_fresh_process(RELOAD, tmp_path, other)
    assert result.stdout.split() == [*PUBLIC_LAYERS, "Transformer"], result.stderr[-2000:]


RELOAD = """
import sys
from pathlib import Path
from keras_transformer import backend
backend.start()
import keras, numpy as np
import keras_transformer.model
folder = Path(sys.argv[1])
for name, expected in np.load(folder / "expected.npz").items():
    model = keras.saving.load_model(folder / f"{name}.keras")
    inputs = list(np.load(folder / f"{name}.npz").values())
    np.testing.assert_allclose(model(inputs), expected, rtol=1e-5, atol=1e-5)
    print(name)
"""


def run_in_fresh_process(code, folder, backend):
    root = Path(__file__).parents[2]
    path = os.pathsep.join([str(root), str(root / "export")])
    return subprocess.run(
        [sys.executable, "-c", code, str(folder)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path, "KERAS_BACKEND": backend},
        timeout=240,
    )
