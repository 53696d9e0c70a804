"""Keras, SavedModel and ONNX: one signature, one answer, for every option of the search."""

import inspect
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from keras_transformer.translator import Translator
from keras_transformer_export.bundle import Bundle, BundleError, Description, write_manifest
from keras_transformer_export.runtime import OnnxTranslator, SavedModelTranslator
from keras_transformer_export.runtime.text_translator import TextTranslator

LONGEST = "abcdef" * 7


@pytest.fixture(scope="module")
def exported(bundle_folder):
    """The translators of exported files, by name."""
    with (
        OnnxTranslator(bundle_folder / "model.onnx", threads=1) as onnx_translator,
        SavedModelTranslator(bundle_folder) as saved_model,
    ):
        yield {"onnx": onnx_translator, "saved_model": saved_model}


@pytest.fixture(params=["onnx", "saved_model"])
def translates(request, exported):
    return exported[request.param]


@pytest.fixture(scope="module")
def texts(words):
    """Of every length from none to the longest, out of order."""
    return [words[0], LONGEST, "", *words[:24], "xyz", "a", "漢字", " ", words[0]]


OPTIONS = [
    *({"beam_size": size} for size in (1, 2, 4, 5, 8)),
    *({"beam_size": size, "num_hypotheses": size} for size in (2, 4, 5, 8, 10)),
    {"beam_size": 8, "num_hypotheses": 3, "length_penalty": 0.0},
    {"beam_size": 4, "length_penalty": 2.5},
    {"beam_size": 1, "length_penalty": 0.0},
    {"beam_size": 4, "num_hypotheses": 4, "early_stopping": False},
    {"beam_size": 5, "early_stopping": False, "length_penalty": 1.0},
    *({"beam_size": size, "max_decoding_length": 1} for size in (1, 4)),
    *({"beam_size": size, "max_decoding_length": 3} for size in (1, 4)),
    *({"beam_size": size, "min_decoding_length": 8} for size in (1, 4)),
    {
        "beam_size": 5,
        "num_hypotheses": 2,
        "min_decoding_length": 5,
        "max_decoding_length": 12,
    },
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_promise_4_every_option_gives_what_keras_gives(
    translates, translator, texts, assert_same, options
):
    expected = translator.translate(texts, **options)
    found = translates.translate(texts, **options)
    assert_same(expected, found)
    assert {len(row) for row in found} == {options.get("num_hypotheses", 1)}
    longest = max(len(h.tokens) for row in found for h in row)
    assert longest <= options.get("max_decoding_length", len(LONGEST) + 51)


@pytest.mark.parametrize("beam_size", [1, 4])
@pytest.mark.parametrize("count", [1, 2, 7, 32, 64])
def test_promise_4_every_batch_size_gives_what_keras_gives(
    translates, translator, words, assert_same, count, beam_size
):
    mixed = [LONGEST, "", *words][:count]
    expected = translator.translate(mixed, beam_size)
    assert_same(expected, translates.translate(mixed, beam_size))


@pytest.mark.parametrize("batch_size", [1, 3])
def test_small_batches_give_what_a_large_one_gives(translates, texts, assert_same, batch_size):
    expected = translates.translate(texts[:10], 4)
    assert_same(expected, translates.translate(texts[:10], 4, batch_size=batch_size))


@pytest.mark.parametrize("beam_size", [1, 4])
def test_outputs_begin_with_what_is_given(translates, translator, words, assert_same, beam_size):
    given = ["", "A", "F A C E", "", "B", "D D D D D D D D D D D D"]
    prefixes = translator.target.encode(given)
    options = {"beam_size": beam_size, "target_prefix": prefixes, "num_hypotheses": beam_size}
    expected = translator.translate(words[:6], **options)
    found = translates.translate(words[:6], **options)
    assert_same(expected, found)
    for prefix, row in zip(prefixes, found, strict=True):
        assert all(h.tokens[: len(prefix)] == prefix for h in row)
    free = translates.translate(words[:6], beam_size, beam_size)
    assert_same([free[i] for i in (0, 3)], [found[i] for i in (0, 3)])


def test_a_prefix_follows_its_text_when_batches_are_made_by_length(
    translates, translator, words, assert_same
):
    prefixes = translator.target.encode([text[0].upper() for text in words[:20]])
    found = translates.translate(words[:20], 2, target_prefix=prefixes, batch_size=3)
    assert [row[0].tokens[:1] for row in found] == prefixes
    assert_same(translator.translate(words[:20], 2, target_prefix=prefixes), found)


def test_the_score_of_a_beam_is_the_full_models(translates, translator, words):
    """Promise 3: without a penalty it is log p(target | source)."""
    found = translates.translate(words[:16], 4, 2, length_penalty=0.0)
    rows = [
        ([*source, 3], [*h.tokens, 3], h.score)
        for source, hypotheses in zip(translator.source.encode(words[:16]), found, strict=True)
        for h in hypotheses
        if h.finished
    ]
    assert len(rows) >= 16
    sources, targets, scores = zip(*rows, strict=True)
    assert scores == pytest.approx(translator.score_ids(sources, targets), abs=1e-4)


def test_a_stream_with_beams_keeps_the_order(translates, words):
    expected = translates.translate(words[:40], 4, 2)
    found = translates.translate_iter(iter(words[:40]), chunk_size=9, beam_size=4, num_hypotheses=2)
    for ours, theirs in zip(expected, found, strict=True):
        assert [h.tokens for h in theirs] == [h.tokens for h in ours]


def test_eight_threads_with_beams_give_what_one_gives(translates, words):
    parts = [(words[i : i + 10], 1 + i // 10, 1 + i // 20) for i in range(0, 80, 10)]
    serial = [translates.translate(*part) for part in parts]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(3):
            assert list(pool.map(lambda part: translates.translate(*part), parts)) == serial


def test_all_translators_have_one_signature():
    def asked(method):
        return [
            (p.name, p.default, p.kind, p.annotation)
            for p in inspect.signature(method).parameters.values()
        ]

    assert SavedModelTranslator.translate is OnnxTranslator.translate is TextTranslator.translate
    assert asked(TextTranslator.translate) == asked(Translator.translate)
    assert asked(TextTranslator.translate_iter) == asked(Translator.translate_iter)


def test_texts_no_runtime_can_carry_are_refused_by_a_saved_model_too(exported):
    for text in ("a\0b", "a\ud800b"):
        with pytest.raises(ValueError, match=r"texts\[1\] must .* position 1"):
            exported["saved_model"].translate(["a", text])


# SavedModelTranslator


def test_a_saved_model_opens_by_its_own_folder_as_well(bundle_folder, exported, words):
    expected = exported["saved_model"].translate(words[:3])
    with SavedModelTranslator(bundle_folder / "saved_model") as translator:
        assert translator.translate(words[:3]) == expected
        assert translator.translate([]) == []


def test_a_closed_saved_model_says_so(bundle_folder, exported, monkeypatch):
    from keras_transformer_export import saved_model

    loaded = exported["saved_model"]._loaded
    monkeypatch.setattr(saved_model, "load", lambda folder: loaded)
    translator = SavedModelTranslator(bundle_folder)
    translator.close()
    translator.close()
    with pytest.raises(ValueError, match="this one was closed"):
        translator.translate(["a"])


def test_a_bundle_without_a_saved_model_is_refused_with_advice(bundle_folder, tmp_path):
    values = Bundle.open(bundle_folder).manifest.model_dump(exclude={"files", "digest"})
    del values["signatures"]["saved_model"]
    (tmp_path / "model.onnx").write_bytes((bundle_folder / "model.onnx").read_bytes())
    write_manifest(tmp_path, Description(**values))
    with pytest.raises(ValueError, match=r"must be a bundle with a SavedModel\. .*model\.onnx"):
        SavedModelTranslator(tmp_path)
    with pytest.raises(BundleError, match=r"no manifest\.json in it"):
        SavedModelTranslator(tmp_path / "nowhere")


def test_a_changed_file_of_a_saved_model_is_refused(bundle_folder, tmp_path):
    folder = tmp_path / "bundle"
    shutil.copytree(bundle_folder, folder)
    weights = next((folder / "saved_model" / "variables").glob("variables.data-*"))
    contents = bytearray(weights.read_bytes())
    contents[len(contents) // 2] ^= 1
    weights.write_bytes(contents)
    with pytest.raises(BundleError, match=r"variables\.data-\S+ must be the file that was"):
        SavedModelTranslator(folder)
    weights.unlink()
    with pytest.raises(BundleError, match="must be a readable file"):
        SavedModelTranslator(folder)


def test_the_loaded_object_has_the_defaults_of_the_options(exported, translator, words):
    """As in plain TensorFlow: nothing of ours is called."""
    import tensorflow as tf

    translate = exported["saved_model"]._loaded.translate
    texts = tf.constant(words[:5])
    for options in ({}, {"beam_size": 4, "num_hypotheses": 2, "length_penalty": 1.0}):
        outputs = translate(texts, **options)
        expected = translator.translate(words[:5], **options)
        found = [[text.decode() for text in row] for row in outputs["texts"].numpy()]
        assert found == [[h.text for h in row] for row in expected]
        assert outputs["ids"].dtype == tf.int32
        scores = np.array([[h.score for h in row] for row in expected])
        np.testing.assert_allclose(outputs["scores"], scores, atol=1e-4)


def test_a_saved_model_is_not_traced_again_for_other_options(exported, words):
    import tensorflow as tf

    translate = exported["saved_model"]._loaded.translate
    assert len(translate.concrete_functions) == 1
    translate(tf.constant(words[:3]), beam_size=3)
    translate(tf.constant(words[:9]), beam_size=2, max_decoding_length=7)
    assert len(translate.concrete_functions) == 1
