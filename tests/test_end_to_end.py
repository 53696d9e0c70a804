"""The whole road once: a recipe, `model.fit`, export, proof, and a process of its own."""

import io
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

import keras_transformer as kt
from keras_transformer.data.splits import open_splits
from keras_transformer.recipe import RunConfig, find_recipe
from keras_transformer.training.quality import assess, take_examples
from keras_transformer.training.trainer import train

# Fewer digits and steps, and a smaller model.
SMALL = {
    "data": {"max_digits": 5, "num_examples": 4000},
    "model": {"d_model": 32, "d_ff": 64},
    "training": {
        "batch_tokens": 512,
        "num_shapes": 2,
        "max_steps": 200,
        "evaluate_every": 200,
        "peak_learning_rate": 0.01,
        "warmup_steps": 30,
    },
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "limit"),
    [
        pytest.param(SMALL, 10.0, id="small"),
        pytest.param({}, 1.0, id="whole", marks=pytest.mark.prove),
    ],
)
def test_the_reverse_recipe_learns_its_task_and_answers_from_one_onnx_file(
    settings, limit, tmp_path
):
    values = find_recipe("reverse").model_dump()
    values["data"] |= settings.get("data", {})
    values["model"]["overrides"] |= settings.get("model", {})
    values["training"] |= settings.get("training", {})
    recipe = RunConfig(**values)
    result = train(recipe, tmp_path / "run", Console(file=io.StringIO()))
    translator = kt.Translator.load(result.run.path)
    examples = take_examples(open_splits(recipe.data).validation, "wer")
    [wrong] = [m.value for m in assess(translator, examples, "wer").measures if m.name == "wer"]
    assert wrong <= limit, "few unseen digit strings are not reversed exactly"

    texts = [source for source, _ in examples[:20]]
    bundle = kt.export(translator, tmp_path / "bundle", formats=("onnx",), sentences=texts)
    bundle.validate()
    command = Path(sys.executable).with_name("keras-transformer")
    answer = subprocess.run(
        [command, "translate", tmp_path / "bundle" / "model.onnx"],
        input="3 1 4 1 5\n7\n",
        capture_output=True,
        text=True,
        check=True,
    )
    assert answer.stdout == "5 1 4 1 3\n7\n"
    assert answer.stderr == ""
