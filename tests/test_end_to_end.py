"""The whole road once: a recipe, `model.fit`, export, proof, and a process of its own."""

import io
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

import keras_transformer as kt
from keras_transformer.data.splits import open_splits
from keras_transformer.recipe import find_recipe
from keras_transformer.training.quality import assess, take_examples
from keras_transformer.training.trainer import train


@pytest.mark.slow
def test_the_reverse_recipe_learns_its_task_and_answers_from_one_onnx_file(tmp_path):
    recipe = find_recipe("reverse")
    result = train(recipe, tmp_path / "run", Console(file=io.StringIO()))
    translator = kt.Translator.load(result.run.path)
    examples = take_examples(open_splits(recipe.data).validation, "wer")
    [wrong] = [m.value for m in assess(translator, examples, "wer").measures if m.name == "wer"]
    assert wrong <= 1.0, "99 % of unseen digit strings are reversed exactly"

    texts = [source for source, _ in examples[:40]]
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
