"""The recipe's `precision`: a run in mixed precision, and the float32 model that it leaves."""

import csv
import io

import pytest
from rich.console import Console

from keras_transformer.recipe import RunConfig
from keras_transformer.training import trainer
from keras_transformer.training.compilation import compiled_model


def run(recipe, folder, **training):
    values = recipe.model_dump()
    values["training"] |= training
    return trainer.train(RunConfig(**values), folder, Console(file=io.StringIO()))


def losses(result):
    with open(result.run.path / "metrics.csv", newline="") as file:
        return [(float(row["loss"]), float(row["val_loss"])) for row in csv.DictReader(file)]


@pytest.mark.slow
def test_a_run_in_mixed_precision_learns_and_leaves_a_float32_model(tiny_recipe, tmp_path):
    result = run(tiny_recipe, tmp_path, precision="mixed_float16")
    first, *_, last = losses(result)
    assert last[0] < first[0]
    assert last[1] < first[1]
    model = result.run.load_best_model()
    assert model.dtype_policy.name == "float32"
    assert {layer.compute_dtype for layer in model._flatten_layers()} == {"float32"}
    assert {weight.dtype for weight in model.weights} == {"float32"}


def test_the_model_is_made_with_the_policy_and_float16_scales_its_loss(tiny_run, tiny_recipe):
    config = tiny_run.load_best_model().config
    for precision in ("mixed_float16", "mixed_bfloat16", "float32"):
        training = tiny_recipe.training.model_copy(update={"precision": precision})
        model = compiled_model(config, training)
        assert model.dtype_policy.name == model.encoder.dtype_policy.name == precision
        assert hasattr(model.optimizer, "dynamic_scale") == (precision == "mixed_float16")


def test_another_precision_is_another_run(tiny_run, tiny_recipe):
    with pytest.raises(ValueError, match="training.precision was 'float32', is 'mixed_bfloat16'"):
        run(tiny_recipe, tiny_run.path, precision="mixed_bfloat16")
