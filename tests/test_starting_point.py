"""What training and an export may start from."""

import json

import pytest

from keras_transformer.starting_point import StartingPoint


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (None, "no such folder"),
        ({}, "neither of the two in it"),
        ({"config.json": {"model_type": "bert"}}, "config.json with model_type='bert'"),
        ({"config.json": {}}, "config.json with model_type=None"),
    ],
)
def test_a_folder_that_is_neither_is_refused_with_what_was_looked_for(files, message, tmp_path):
    folder = tmp_path / "it"
    for name, content in (files or {}).items():
        folder.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(content))
    if files == {}:
        folder.mkdir()
    with pytest.raises(
        ValueError, match=rf"it must be the folder of a training run.*Marian.*{message}"
    ):
        StartingPoint.find(folder)


@pytest.mark.parametrize(("name", "content"), [("config.json", "{"), ("config.yaml", "name: [")])
def test_a_damaged_file_is_named(name, content, tmp_path):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=name):
        StartingPoint.find(tmp_path)


def test_a_run_loads_as_its_translator(tiny_run):
    start = StartingPoint.find(tiny_run.path)
    assert start.kind == "run"
    assert str(start) == f"{tiny_run.path}, a training run"
    assert start.load().source == tiny_run.source_tokenizer()
