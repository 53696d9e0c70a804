"""Scores, computed by hand."""

import math
import sys

import pytest

from keras_transformer import evaluation
from keras_transformer.evaluation import Score


def test_bleu_of_hand_counted_ngrams():
    # 6 tokens; unigrams 5/6, bigrams 3/5, trigrams 2/4, 4-grams 1/3, lengths equal.
    score = evaluation.bleu(["a b c d x f"], [["a b c d e f"]], tokenize="none")
    expected = 100 * math.exp(sum(map(math.log, (5 / 6, 3 / 5, 2 / 4, 1 / 3))) / 4)
    assert score.value == pytest.approx(expected)


def test_bleu_brevity_penalty_and_corpus_sums():
    # Together: 9 tokens against 10, all n-grams right.
    score = evaluation.bleu(
        ["a b c d e", "f g h i"], [["a b c d e"], ["f g h i j"]], tokenize="none"
    )
    assert score.value == pytest.approx(100 * math.exp(1 - 10 / 9))


def test_bleu_counts_any_of_a_varying_number_of_references():
    score = evaluation.bleu(["a b c d", "x y z w"], [["q", "a b c d"], ["x y z w"]])
    assert score.value == pytest.approx(100)


def test_bleu_signature_tells_tokenization_case_and_version():
    score = evaluation.bleu(["A b c d"], [["a b c d"]], tokenize="none", lowercase=True)
    assert isinstance(score, Score)
    assert score.value == pytest.approx(100)
    assert "case:lc" in score.signature
    assert "tok:none" in score.signature
    assert "version:" in score.signature
    plain = evaluation.bleu(["a b c d."], [["a b c d ."]])
    assert "tok:13a" in plain.signature
    assert plain.value == pytest.approx(100)


def test_bleu_of_empty_outputs_is_zero_and_prints_nothing(capfd):
    assert evaluation.bleu(["", ""], [["a b ."], ["c d ."]]).value == 0
    tokenized = ["a b c ."] * 200
    evaluation.bleu(tokenized, [[text] for text in tokenized])
    assert capfd.readouterr() == ("", "")


def test_chrf_of_equal_and_of_foreign_texts():
    assert evaluation.chrf(["abc def"], [["abc def"]]).value == pytest.approx(100)
    assert evaluation.chrf(["xyz"], [["abc"]]).value == 0
    assert "nc:6" in evaluation.chrf(["abc"], [["abc"]]).signature


def test_chrf_of_hand_counted_ngrams():
    # Characters: 3 of 4; bigrams: 2 of 3; trigrams: 1 of 2; 4-grams: 0 of 1. Orders 5 and 6 are
    # longer than the texts and do not count. Precision equals recall, so F equals their mean.
    expected = 100 * (3 / 4 + 2 / 3 + 1 / 2 + 0) / 4
    assert evaluation.chrf(["abcx"], [["abcd"]]).value == pytest.approx(expected)


def test_word_error_rate_accepts_any_listed_pronunciation():
    hypotheses = ["R EH D", "K AE T", "D AO", ""]
    references = [["R IY D", "R EH D"], ["K AE T"], ["D AO G"], ["X"]]
    assert evaluation.exact_match(hypotheses, references) == 50.0
    assert evaluation.word_error_rate(hypotheses, references) == 50.0


def test_phoneme_error_rate_sums_edits_to_the_nearest_reference():
    hypotheses = ["R EH T", "K AE T S", "", "A B"]
    references = [["R IY D", "R EH D"], ["K AE T"], ["D AO G"], ["A B"]]
    # 1 of 3 (the second reference), 1 insertion on 3, 3 deletions of 3, 0 of 2.
    assert evaluation.phoneme_error_rate(hypotheses, references) == pytest.approx(100 * 5 / 11)


def test_nearest_means_distance_over_length():
    # 1 edit on 2 tokens is farther than 2 edits on 5.
    rate = evaluation.phoneme_error_rate(["A X C D Y"], [["A B C D E", "A X C D"]])
    assert rate == pytest.approx(100 * 1 / 4)
    rate = evaluation.phoneme_error_rate(["A B"], [["A", "A B C D E"]])
    assert rate == pytest.approx(100 * 3 / 5)


def test_a_token_is_what_spaces_separate():
    assert evaluation.phoneme_error_rate(["AA  B"], [["AA B"]]) == 0
    assert evaluation.phoneme_error_rate(["AB"], [["AA"]]) == 100


def test_an_error_rate_may_exceed_100():
    assert evaluation.phoneme_error_rate(["A B C"], [["X"]]) == 300


METRICS = [
    evaluation.bleu,
    evaluation.chrf,
    evaluation.exact_match,
    evaluation.word_error_rate,
    evaluation.phoneme_error_rate,
]


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(
    ("hypotheses", "references", "message"),
    [
        ([], [], "0 hypotheses"),
        (["a"], [["a"], ["b"]], "1 hypotheses, 2 lists"),
        (["a", "b"], [["a"], []], r"references\[1\]=\[\]"),
        (["a"], ["a"], "Put a single reference in a list"),
    ],
)
def test_what_cannot_be_compared_is_refused(metric, hypotheses, references, message):
    with pytest.raises(ValueError, match=message):
        metric(hypotheses, references)


def test_empty_references_have_no_rate():
    with pytest.raises(ValueError, match="must not all be empty"):
        evaluation.phoneme_error_rate(["a"], [[""]])


def test_an_unknown_tokenization_is_refused():
    with pytest.raises(ValueError, match="tokenize must be"):
        evaluation.bleu(["a"], [["a"]], tokenize="intl")


@pytest.mark.parametrize(
    ("package", "metric"),
    [("sacrebleu.metrics", evaluation.bleu), ("rapidfuzz.distance", evaluation.phoneme_error_rate)],
)
def test_a_missing_package_says_what_to_install(monkeypatch, package, metric):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=r'pip install "\.\[train\]"'):
        metric(["a"], [["a"]])
