"""Several devices and several processes train as one device does."""

import contextlib
import csv
import io
import os
import socket
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from cheap_xla import CHEAP
from rich.console import Console

from keras_transformer.cluster import ADDRESSES, PROCESS, PROCESSES
from keras_transformer.recipe import RunConfig, TrainingConfig
from keras_transformer.run_folder import RunFolder
from keras_transformer.training.distribution import ONE, find_place
from keras_transformer.training.trainer import train

ROOT = Path(__file__).parents[2]
PATIENCE = 900  # seconds, for a machine that others use too
STEPS = 12
COMMAND_LINE = ("-m", "keras_transformer.cli")
TWO_LOGICAL_DEVICES = """
from keras_transformer import backend
tf = backend.import_tensorflow()
cpu, two = tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
tf.config.set_logical_device_configuration(cpu, two)
from keras_transformer.cli import main
main()
"""


@contextlib.contextmanager
def started(python, recipe, folder, options=(), **environment):
    """A process that trains; it is ended with the block."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "export")])
    command = [sys.executable, *python, "train", recipe, "--run-folder", folder, *options]
    process = subprocess.Popen(
        list(map(str, command)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={"XLA_FLAGS": CHEAP, **os.environ, "PYTHONPATH": path, **environment},
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def output(process):
    """What a process printed; it must end well."""
    screen, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, errors[-3000:]
    return screen


def alone(python, *arguments, **environment):
    with started(python, *arguments, **environment) as process:
        return output(process)


def together(recipe, folder, *options):
    """Train in two processes; what each of them printed."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    names = {"KERAS_BACKEND": "jax", ADDRESSES: address, PROCESSES: "2"}
    options = ("--distribution", "data_parallel", *options)
    with (
        started(COMMAND_LINE, recipe, folder, options, **names, **{PROCESS: "0"}) as first,
        started(COMMAND_LINE, recipe, folder, options, **names, **{PROCESS: "1"}) as second,
    ):
        return output(first), output(second)


def curve(folder):
    """Step, loss and validation loss of each evaluation."""
    with open(folder / "metrics.csv", newline="") as file:
        rows = csv.DictReader(file)
        return [[float(row[name]) for name in ("step", "loss", "val_loss")] for row in rows]


def assert_same_training(folder, expected):
    """The same losses, and models that answer alike.

    Weights are not compared: the bias of a key changes no attention weight, so that its gradient is
    rounding alone, which Adam makes a step of.
    """
    np.testing.assert_allclose(curve(folder), curve(expected), rtol=0, atol=1e-4)
    one, other = (RunFolder.open(path).load_best_model() for path in (folder, expected))
    chance = np.random.default_rng(0)
    ids = [chance.integers(4, one.config.source_vocab_size, (8, length)) for length in (7, 5)]
    logits = [keras.ops.convert_to_numpy(model(ids)) for model in (one, other)]
    np.testing.assert_allclose(*logits, rtol=0, atol=1e-3)
    assert np.ptp(logits[0]) > 0.1  # they say something


def written(tiny_recipe, folder, dropout, **training):
    """A recipe whose batches hold other numbers of tokens on each half."""
    values = tiny_recipe.model_dump()
    values["model"]["overrides"]["dropout"] = dropout
    # one shape, which every process has to compile
    values["training"] |= {"max_steps": STEPS, "evaluate_every": 4, "num_shapes": 1}
    values["training"] |= training
    (folder / "recipe.yaml").write_text(RunConfig(**values).to_yaml(), encoding="utf-8")
    return folder / "recipe.yaml"


@pytest.mark.slow
@pytest.mark.tensorflow
def test_two_mirrored_devices_train_as_one(tiny_recipe, tmp_path):
    recipe = written(tiny_recipe, tmp_path, dropout=0.0, average_last=2)
    train(RunConfig.load(recipe), tmp_path / "one", Console(file=io.StringIO()))
    alone(("-c", TWO_LOGICAL_DEVICES), recipe, tmp_path / "two", ("--distribution", "mirrored"))
    assert_same_training(tmp_path / "two", tmp_path / "one")


@pytest.mark.slow
@pytest.mark.tensorflow
@pytest.mark.parametrize("resumed", [False, pytest.param(True, marks=pytest.mark.prove)])
def test_two_processes_train_as_one(resumed, tiny_recipe, tmp_path):
    recipe = written(tiny_recipe, tmp_path, dropout=0.1)
    alone(COMMAND_LINE, recipe, tmp_path / "one", KERAS_BACKEND="jax")
    if resumed:
        together(recipe, tmp_path / "two", "--max-steps", "8")
    first, second = together(recipe, tmp_path / "two")
    assert ("Resuming at step 8" in first) == resumed
    assert "loss" in first
    assert "loss" not in second
    assert_same_training(tmp_path / "two", tmp_path / "one")


@pytest.mark.tensorflow
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"distribution": "mirrored"}, "mirrored needs at least two devices. Set it to one"),
        ({"distribution": "mirrored", "devices": 99}, "devices must be at most .*devices=99"),
        ({"distribution": "mirrored", "jit_compile": True}, "jit_compile must be false"),
        ({"distribution": "mirrored", "clip_norm": 1.0}, "clip_norm must be left out.*=1.0"),
        ({"distribution": "data_parallel"}, "needs the Keras backend jax. Set KERAS_BACKEND=jax"),
    ],
)
def test_a_place_that_is_not_there_is_refused_with_advice(settings, message):
    import tensorflow as tf

    if len(tf.config.list_physical_devices("GPU")) > 1:
        pytest.skip("this machine has the devices")
    with pytest.raises(ValueError, match=message):
        find_place(TrainingConfig(**settings))


@pytest.mark.jax
def test_on_jax_what_is_missing_is_named(monkeypatch):
    if keras.backend.backend() != "jax":
        pytest.skip("it is about the JAX backend")
    for name in (ADDRESSES, PROCESSES, PROCESS):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ValueError, match="needs the Keras backend tensorflow"):
        find_place(TrainingConfig(distribution="mirrored"))
    with pytest.raises(ValueError, match=f"at least two devices.*{ADDRESSES}"):
        find_place(TrainingConfig(distribution="data_parallel"))
    monkeypatch.setenv(PROCESSES, "2")
    with pytest.raises(ValueError, match=f"{ADDRESSES} and {PROCESS} must be set"):
        find_place(TrainingConfig(distribution="data_parallel"))


def test_one_device_is_the_default():
    assert find_place(TrainingConfig()) == ONE
    with pytest.raises(ValueError, match="devices must be left out"):
        TrainingConfig(devices=2)


@pytest.mark.gpu
@pytest.mark.tensorflow
def test_mirrored_takes_every_gpu():
    import tensorflow as tf

    gpus = len(tf.config.list_physical_devices("GPU"))
    if gpus < 2:
        pytest.skip("needs two CUDA devices")
    assert find_place(TrainingConfig(distribution="mirrored")).devices == gpus
