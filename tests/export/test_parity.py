"""The comparison itself, on stand-ins for a translator."""

from types import SimpleNamespace

import pytest

from keras_transformer.hypothesis import Hypothesis
from keras_transformer_export.parity import (
    BATCH_SIZES,
    MOST_SENTENCES,
    STRANGE_TEXTS,
    ParityError,
    compare,
    proof_sentences,
)

EOS = 3


class FakeTranslator:
    """Answers each text with its letters; the full model scores what `scores` says."""

    held_out = None
    config = SimpleNamespace(eos_id=EOS, longest=None)

    def __init__(self, scores=(0.0, 0.0)):
        self.source = SimpleNamespace(
            encode=lambda texts: [[ord(c) for c in text] for text in texts],
            decode=lambda rows: ["".join(map(chr, row)) for row in rows],
            vocab_size=100, pad_id=0, unk_id=1, bos_id=2, eos_id=3,
        )  # fmt: skip
        self.scores = scores
        self.batches = []

    def translate(self, texts, batch_size):
        assert batch_size == len(texts)
        self.batches.append(len(texts))
        return [[answer(text)] for text in texts]

    def score_ids(self, source_rows, target_rows):
        return self.scores


def answer(source, /, **changes):
    values = {"text": source.upper(), "score": -1.0, "tokens": [ord(c) for c in source]}
    return Hypothesis(**{**values, "finished": True, **changes})


def runtime(**changes_by_text):
    def run(batches):
        return [[answer(t, **changes_by_text.get(t, {})) for t in batch] for batch in batches]

    return run


SENTENCES = [f"text{i}" for i in range(60)]


def test_equal_answers_make_a_report():
    translator = FakeTranslator()
    report = compare(translator, SENTENCES, {"file": runtime(text3={"score": -1.00001})}, {})
    assert report.runtimes["file"].compared == len(SENTENCES)
    assert report.runtimes["file"].max_score_difference == pytest.approx(1e-5)
    assert report.runtimes["file"].ties == []
    assert set(BATCH_SIZES) <= set(translator.batches)
    assert report.examples[0].text == "TEXT0"
    assert report.examples[0].ids[-1] == EOS


@pytest.mark.parametrize(
    "change",
    [{"text": "other"}, {"score": -1.001}, {"score": float("nan")}],
    ids=["text", "score", "nan"],
)
def test_another_text_or_score_is_fatal(change):
    with pytest.raises(ParityError, match="file must give"):
        compare(FakeTranslator(), SENTENCES, {"file": runtime(text7=change)}, {})


@pytest.mark.parametrize("change", [{"tokens": [5]}, {"finished": False}], ids=["ids", "finished"])
def test_other_ids_are_fatal_unless_the_full_model_scores_them_alike(change):
    other = {"file": runtime(text7=change)}
    with pytest.raises(ParityError, match="'TEXT7'"):
        compare(FakeTranslator(scores=(-2.0, -2.0001)), SENTENCES, other, {})
    report = compare(FakeTranslator(scores=(-2.0, -2.000001)), SENTENCES, other, {})
    assert [tie.source for tie in report.runtimes["file"].ties] == ["text7"]
    assert "text7" not in [example.source for example in report.examples]


def test_more_ties_than_chance_gives_are_fatal():
    tied = {"file": runtime(text7={"tokens": [5]}, text8={"tokens": [5]})}
    with pytest.raises(ParityError, match="2 ties in 60"):
        compare(FakeTranslator(), SENTENCES, tied, {})


def test_sentences_are_those_given_then_those_held_out_then_random_ones():
    translator = FakeTranslator()
    random_ones = proof_sentences(translator)
    assert len(random_ones) > 100
    assert random_ones == proof_sentences(translator)
    translator.held_out = [f"held {i}" for i in range(3 * MOST_SENTENCES)]
    held_out = proof_sentences(translator)
    assert len(held_out) == len(STRANGE_TEXTS) + 1 + MOST_SENTENCES
    assert "held 0" in held_out
    assert proof_sentences(translator, ["mine"])[-1] == "mine"


def test_of_many_sentences_500_evenly_spaced_are_used():
    given = [f"mine {i}" for i in range(2 * MOST_SENTENCES)]
    used = proof_sentences(FakeTranslator(), given)
    assert used[-MOST_SENTENCES:] == given[::2]


@pytest.mark.parametrize("given", ["one string", ["a", "b\0"], ["a", 1]])
def test_sentences_that_are_no_texts_are_refused(given):
    with pytest.raises(ValueError, match="sentences"):
        proof_sentences(FakeTranslator(), given)


def test_sentences_fit_learned_positions():
    translator = FakeTranslator()
    translator.config = SimpleNamespace(eos_id=EOS, longest=6)
    assert proof_sentences(translator, ["12345", "123456"])[-1] == "12345"
