"""Training compiled by XLA, from a recipe."""

import io
import warnings

import numpy as np
import pytest
from rich.console import Console

from keras_transformer import backend
from keras_transformer.array_files import read_arrays
from keras_transformer.data.pipeline import make_dataset, stream_of
from keras_transformer.recipe import RunConfig
from keras_transformer.training import trainer
from keras_transformer.training.checkpoints import state_variables
from keras_transformer.training.compilation import compile_shapes, compiled_model

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


@pytest.mark.slow
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
        assert compiled_model(model.config, training).jit_compile is jit_compile


def test_every_shape_is_compiled_before_training_and_nothing_is_changed_by_it(tiny_run):
    source, target = tiny_run.source_tokenizer(), tiny_run.target_tokenizer()
    model = compiled_model(tiny_run.load_best_model().config, tiny_run.recipe.training.model_copy())
    traced = []
    step = model.train_step
    model.train_step = lambda data: traced.append("train") or step(data)
    pairs = [(f"{i} " * n + "1", "1 2") for i in range(10) for n in range(4)]
    batches = make_dataset(pairs, source, target, batch_tokens=16, num_shapes=3, repeat=True)
    validation = make_dataset(pairs[:9], source, target, batch_tokens=16, num_shapes=2)
    before = {v.path: np.array(v) for v in state_variables(model)}
    seconds, shapes = compile_shapes(model, batches, validation)
    changed = [v.path for v in state_variables(model) if (np.array(v) != before[v.path]).any()]
    assert changed == []
    assert seconds > 0
    assert shapes == sum(len(stream_of(data).shapes) for data in (batches, validation)) >= 4
    model.fit(batches, steps_per_epoch=6, validation_data=validation, shuffle=False, verbose=0)
    assert traced == ["train"] * len(traced[:2])  # Keras traces once, or twice at the first call
