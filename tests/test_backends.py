"""What is trained on one Keras backend gives the same answers on the other."""

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cheap_xla import CHEAP
from numpy_search import Rules, beam_search, by_recomputing
from tiny_models import OPTIONS, model_with, source_ids, tiny_model

from keras_transformer.decoding.compiled_search import CompiledSearch
from keras_transformer.decoding.generation import generate
from keras_transformer.search_options import SearchOptions
from keras_transformer.translator import Translator

ROOT = Path(__file__).parents[1]
TEXTS = ["1 2 3", "", "3", "0 9 0 9", "2 2", "7 1 5 3"]
ANSWERS = """
import json, sys
import numpy as np
import keras_transformer as kt
sources, targets = np.array([[4, 5, 3, 0], [6, 7, 8, 3]]), np.array([[2, 4, 5], [2, 6, 0]])
translator = kt.Translator.load(sys.argv[1])
import keras
texts = json.loads(sys.argv[2])
found = [h[0] for h in translator.translate(texts)]
beams = translator.translate(texts, beam_size=3, num_hypotheses=2, max_decoding_length=7)
beams = [h for hypotheses in beams for h in hypotheses]
print(json.dumps({
    "backend": keras.backend.backend(),
    "ids": [h.tokens for h in found],
    "scores": [h.score for h in found],
    "beam_ids": [h.tokens for h in beams],
    "beam_scores": [h.score for h in beams],
    "log_probs": translator.score(texts, texts).tolist(),
    "logits": np.asarray(translator.model((sources, targets))).tolist(),
}))
"""


def on(keras_backend, *command):
    path = os.pathsep.join([str(ROOT), str(ROOT / "export")])
    result = subprocess.run(
        [sys.executable, *map(str, command)],
        capture_output=True,
        text=True,
        env={
            "XLA_FLAGS": CHEAP,
            **os.environ,
            "PYTHONPATH": path,
            "KERAS_BACKEND": keras_backend,
        },
        timeout=400,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    assert result.stderr == "", "nothing but answers on the screen"
    return result.stdout


def answers(keras_backend, run_folder):
    found = json.loads(on(keras_backend, "-c", ANSWERS, run_folder, json.dumps(TEXTS)))
    assert found["backend"] == keras_backend
    return found


def answers_here(run_folder, capsys):
    """What `answers("tensorflow", run_folder)` gives, without the start of another process."""
    capsys.readouterr()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["-c", str(run_folder), json.dumps(TEXTS)])
        exec(ANSWERS, {})
    found = json.loads(capsys.readouterr().out)
    assert found["backend"] == "tensorflow"
    return found


def assert_same(found, expected):
    assert found["ids"] == expected["ids"]
    assert found["beam_ids"] == expected["beam_ids"]
    for name in ("scores", "beam_scores", "log_probs", "logits"):
        np.testing.assert_allclose(found[name], expected[name], atol=1e-5)


def test_a_run_trained_on_tensorflow_gives_the_same_on_jax(tiny_run, capsys):
    assert_same(answers("jax", tiny_run.path), answers_here(tiny_run.path, capsys))


TRAIN = """
import sys
from keras_transformer.cli import app
for steps in ("4", "8"):
    app(["train", *sys.argv[3:], "--max-steps", steps], standalone_mode=False)
"""


@pytest.mark.slow
def test_a_run_trained_on_jax_resumes_and_exports_with_one_command(tiny_recipe, tmp_path, capsys):
    recipe, run = tmp_path / "tiny.yaml", tmp_path / "run"
    values = tiny_recipe.model_dump()
    values["training"] |= {"num_shapes": 1}  # which has to be compiled
    recipe.write_text(type(tiny_recipe)(**values).to_yaml(), encoding="utf-8")
    texts = json.dumps(TEXTS)
    said = on("jax", "-c", TRAIN + ANSWERS, run, texts, recipe, "--run-folder", run)
    assert "Resuming at step 4" in said
    found = json.loads(said.splitlines()[-1])
    assert found["backend"] == "jax"
    assert_same(answers_here(run, capsys), found)
    # the environment still says jax: the command starts TensorFlow by itself
    bundle = tmp_path / "bundle"
    command = ["-m", "keras_transformer.cli", "export", run, bundle, "--format", "saved_model"]
    assert "Parity" in on("jax", *command)
    assert (bundle / "saved_model").is_dir()


@pytest.mark.jax
@pytest.mark.parametrize("option", ["rotary", "additive"])
def test_promise_2_a_fixed_cache_gives_the_ids_of_a_grown_one(option):
    model = tiny_model(seed=3, **OPTIONS[option])
    sources = source_ids(model.config, [5, 3, 1, 8])
    found = _without_tokenizers(model).search(sources, SearchOptions(max_decoding_length=7))
    plain = _grown_in_python(model, sources, 7)
    np.testing.assert_array_equal(found.ids[:, 0], plain)


@pytest.mark.tensorflow
@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("option", ["post_norm", "rotary", "additive", "learned_positions"])
def test_promise_2_a_search_with_a_fixed_cache_gives_that_with_a_grown_one(option, size):
    model = tiny_model(seed=3, **OPTIONS[option])
    sources = source_ids(model.config, [5, 3, 1, 8])
    options = {"beam_size": size, "num_hypotheses": size, "max_decoding_length": 9}
    grown = generate(model, sources, **options)
    length = grown.ids.shape[2]
    for capacity in (9, 16):
        fixed = generate(model, sources, **options, capacity=capacity)
        np.testing.assert_array_equal(np.asarray(fixed.ids)[:, :, :length], grown.ids)
        assert (np.asarray(fixed.ids)[:, :, length:] == model.config.pad_id).all()
        np.testing.assert_allclose(fixed.scores, grown.scores, atol=1e-5)
        np.testing.assert_array_equal(fixed.finished, grown.finished)


@pytest.mark.tensorflow
@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 3])
def test_promise_2_the_fixed_cache_compiles_under_xla(size):
    import tensorflow as tf

    model = tiny_model(seed=3, **OPTIONS["rotary"])
    sources = source_ids(model.config, [5, 3, 1, 8])
    options = {"beam_size": size, "num_hypotheses": size, "max_decoding_length": 12}
    search = functools.partial(generate, model, **options, capacity=16)
    compiled = tf.function(search, jit_compile=True)
    expected = generate(model, sources, **options)
    found = compiled(sources)
    length = expected.ids.shape[2]
    np.testing.assert_array_equal(found.ids[:, :, :length], expected.ids)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-5)


@pytest.mark.jax
@pytest.mark.parametrize("sizes", [(1, 1), (4, 3)])
def test_search_of_any_size_gives_each_row_what_it_gets_alone(sizes):
    model = tiny_model(seed=5)
    translator = _without_tokenizers(model)
    sources = source_ids(model.config, [5, 3, 9])
    options = SearchOptions(*sizes, max_decoding_length=7)
    together = translator.search(sources, options)
    assert together.ids.shape[:2] == (3, sizes[1])
    for row, length in enumerate([5, 3, 9]):
        alone = translator.search(sources[row : row + 1, :length], options)
        steps = alone.ids.shape[2]
        np.testing.assert_array_equal(alone.ids[0], together.ids[row, :, :steps])
        assert (together.ids[row, :, steps:] == model.config.pad_id).all()
        np.testing.assert_array_equal(alone.finished[0], together.finished[row])
        np.testing.assert_allclose(alone.scores[0], together.scores[row], atol=1e-5)
    assert translator.search(sources[:0], options).ids.shape == (0, sizes[1], 0)


@pytest.mark.jax
def test_all_options_of_a_search_are_those_of_the_rules_in_plain_numpy():
    model, forward = model_with("separate_embeddings")
    translator, config = _without_tokenizers(model), model.config
    lengths, prefix = [5, 3, 1], [[], [7, 5], [9]]
    sources = source_ids(config, lengths)
    for least, most, alpha, early in ((None, 6, 1.0, True), (4, 5, 0.0, False)):
        options = SearchOptions(3, 3, alpha, most, least, early)
        found = translator.search(sources, options, prefix)
        for row in range(len(lengths)):
            log_probs_of = by_recomputing(forward, config, sources[row], 6)
            never = (config.pad_id, *config.banned_ids)
            rules = Rules(config.eos_id, never, most, alpha, least or 0, tuple(prefix[row]))
            expected, _ = beam_search(log_probs_of, rules, 3, 3, early)
            ids = [[int(i) for i in ids if i != config.pad_id] for ids in found.ids[row]]
            assert ids == [list(output.ids) for output in expected]
            scores = [output.score for output in expected]
            np.testing.assert_allclose(found.scores[row], scores, rtol=1e-4, atol=1e-5)


@pytest.mark.jax
def test_options_may_be_numpy_integers():
    model, _ = model_with("post_norm")
    translator, sources = _without_tokenizers(model), source_ids(model.config, [3, 2])
    expected = translator.search(sources, SearchOptions(3, 2, max_decoding_length=4))
    options = SearchOptions(np.int64(3), np.int32(2), np.float64(0.6), np.int64(4), np.uint8(1))
    found = translator.search(sources, options)
    np.testing.assert_array_equal(found.ids, expected.ids)
    np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-6)


def _without_tokenizers(model):
    translator = object.__new__(Translator)
    translator.model, translator.config = model, model.config
    translator._search = CompiledSearch(model)
    return translator


def _grown_in_python(model, sources, limit):
    """The same search as a loop in Python, over the cache that grows."""
    config = model.config
    memory = model.project_memory(sources)
    cache, last = model.init_cache(memory), np.full(len(sources), config.start_id)
    finished, columns = np.zeros(len(sources), bool), []
    for step in range(limit):
        logits, cache = model.decode_step(last, step, cache, memory)
        logits = np.array(logits)
        logits[:, list(config.banned_ids)] = -np.inf
        last = np.where(finished, config.pad_id, logits.argmax(axis=-1))
        columns.append(last)
        finished |= last == config.eos_id
        if finished.all():
            break
    return np.stack(columns, axis=1)
