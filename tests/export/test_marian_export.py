"""A Marian checkpoint to one file, with text in and text out."""

import json

import make_marian_goldens as goldens
import pytest

from keras_transformer.bridges import from_marian
from keras_transformer_export.bundle import Bundle
from keras_transformer_export.exporter import _without_folders, export
from keras_transformer_export.parity import verify_bundle

SENTENCES = [*goldens.TEXTS, "☃ 日本語 東日本 x", "где я?", "the dog sat at the 京"]


@pytest.mark.slow
def test_promise_4_a_marian_model_is_equal_in_keras_saved_model_and_onnx(golden_folder, tmp_path):
    translator = from_marian(golden_folder)
    bundle = export(translator, tmp_path / "bundle", sentences=SENTENCES)
    report = json.loads((tmp_path / "bundle" / "parity.json").read_text(encoding="utf-8"))
    assert set(report["runtimes"]) == {"saved_model", "model.onnx", "model.ids.onnx"}
    print(f"logits within {report['max_logit_difference']:.1e} of the largest")
    special = bundle.manifest.special_ids
    last = translator.config.target_vocab_size - 1
    assert (special.eos, special.unk, special.pad, special.start) == (0, 1, last, last)
    assert bundle.manifest.target_vocab_size == last + 1
    assert verify_bundle(tmp_path / "bundle").sentences > 0
    rows = translator.source.encode(goldens.TEXTS)
    unknown = {t for t, row in zip(goldens.TEXTS, rows, strict=True) if special.unk in row}
    assert unknown & {example["source"] for example in report["examples"]}
    assert Bundle.open(tmp_path / "bundle").validate()


@pytest.fixture
def golden_folder(tmp_path):
    return goldens.write_folder(goldens.load(), tmp_path / "opus-mt")


def test_a_card_does_not_tell_where_training_started_on_the_machine():
    from keras_transformer.recipe import RunConfig

    recipe = RunConfig(
        name="mine", data={"kind": "reverse"}, model={"start_from": "/home/me/opus-mt-en-de"}
    )
    assert _without_folders(recipe.model_dump())["model"]["start_from"] == "opus-mt-en-de"
