"""Training compiled by XLA, from a recipe."""

import io
import warnings

import pytest
from rich.console import Console

from keras_transformer import backend
from keras_transformer.array_files import read_arrays
from keras_transformer.recipe import RunConfig
from keras_transformer.training import trainer

pytestmark = pytest.mark.tensorflow


@pytest.fixture
def jit_recipe(tiny_recipe):
    values = tiny_recipe.model_dump()
    values["training"] |= {"jit_compile": True, "num_shapes": 1, "evaluate_every": 2}
    values["model"]["overrides"]["dropout"] = 0.3
    return RunConfig(**values)


def state_after(recipe, folder, steps):
    """Train up to a step; returns all that the last checkpoint holds."""
    values = recipe.model_dump()
    values["training"]["max_steps"] = steps
    result = trainer.train(RunConfig(**values), folder, Console(file=io.StringIO()))
    return read_arrays(max((result.run.path / "checkpoints").iterdir()))[0]


def test_promises_5_and_9_hold_for_what_xla_compiles(jit_recipe, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # Keras warns where it does not compile
        whole = state_after(jit_recipe, tmp_path / "whole", 4)
        state_after(jit_recipe, tmp_path / "halves", 2)
        halves = state_after(jit_recipe, tmp_path / "halves", 4)
    assert whole.keys() == halves.keys()
    assert all((whole[name] == halves[name]).all() for name in whole)


def test_the_model_is_compiled_also_after_a_training_without(tiny_run, jit_recipe):
    model = tiny_run.load_best_model()
    for jit_compile in (False, True, False):
        backend.make_deterministic(0, jit_compile)
        training = jit_recipe.training.model_copy(update={"jit_compile": jit_compile})
        assert trainer.compiled_model(model.config, training).jit_compile is jit_compile
