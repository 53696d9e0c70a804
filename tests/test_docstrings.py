"""The examples in the docstrings of public modules give what they say."""

import doctest
import importlib
import os

import numpy as np
import pytest

MODULES = [
    "config",
    "data.builtin",
    "data.corpus",
    "data.pipeline",
    "evaluation",
    "layers.attention",
    "layers.cross_attention",
    "layers.self_attention",
    "layers.decoder",
    "layers.embedding",
    "layers.encoder",
    "layers.feed_forward",
    "layers.masks",
    "layers.positional",
    "layers.similarity",
    "model",
    "recipe",
    "recurrent",
    "text.graph_tokenizer",
    "text.tokenizer",
    "text.validation",
    "training.averaging",
    "training.best",
    "training.losses",
    "training.metrics",
    "training.quality",
    "training.schedules",
    "training.translation_quality",
    "translator",
    "visualization.alignment",
    "visualization.attention",
    "visualization.beam_search",
    "visualization.explorer",
    "visualization.history",
    "visualization.scores",
]


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.jax if name.startswith("layers.") else ())
        for name in MODULES
    ],
)
def test_examples_of_the_docstrings_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(f"keras_transformer.{name}")
    result = doctest.testmod(module, extraglobs={"np": np}, optionflags=doctest.ELLIPSIS)
    assert result.failed == 0


def test_every_module_with_an_example_is_tried():
    root = os.path.dirname(importlib.import_module("keras_transformer").__file__)
    with_examples = set()
    for folder, _, files in os.walk(root):
        for file in files:
            path = os.path.join(folder, file)
            if file.endswith(".py"):
                with open(path, encoding="utf-8") as source:
                    if ">>> " in source.read():
                        name = os.path.relpath(path, root).removesuffix(".py")
                        with_examples.add(name.replace(os.sep, "."))
    assert with_examples <= set(MODULES)
