import math

import numpy as np
import pytest

from keras_transformer.hypothesis import Hypothesis
from keras_transformer.training.quality import assess, cross_entropy, take_examples

READ = ("read", ["R EH D", "R IY D"])
CAT = ("cat", ["K AE T"])


class Speller:
    """Stands in for a `Translator`: knows its answers and how probable each target is."""

    def __init__(self, answers, log_probs=()):
        self.answers = answers
        self.log_probs = dict(log_probs)
        self.target = self

    def translate(self, texts):
        return [[Hypothesis(self.answers[text], -1.0, [], True)] for text in texts]

    def score(self, sources, targets):
        return np.array([self.log_probs.get(target, 0.0) for target in targets], "float32")

    def encode(self, texts):
        return [text.split() for text in texts]


def values(found):
    return {measure.name: measure.value for measure in found.measures}


def test_any_listed_pronunciation_makes_a_word_right_and_the_nearest_counts_for_phonemes():
    translator = Speller({"read": "R IY D", "cat": "K AH T"})
    found = assess(translator, [READ, CAT], "wer")
    assert values(found) == {"wer": 50.0, "per": pytest.approx(100 / 6)}


def test_equal_texts_have_bleu_and_chrf_of_100_with_sacrebleu_signatures():
    text = "the cat sat on the mat"
    found = assess(Speller({"s": text}), [("s", [text])], "bleu", "none")
    assert values(found) == {"bleu": pytest.approx(100), "chrf": pytest.approx(100)}
    assert "tok:none" in found.measures[0].note
    assert all("version:" in measure.note for measure in found.measures)


def test_cross_entropy_is_the_mean_over_tokens_of_all_references_and_their_end_symbols():
    translator = Speller({}, {"R EH D": -2.0, "R IY D": -4.0, "K AE T": -6.0})
    # three targets of three tokens and an end symbol each
    assert cross_entropy(translator, [READ, CAT]) == pytest.approx(12 / 12)


def test_hypotheses_keep_the_order_of_the_examples_and_speed_is_a_rate():
    found = assess(Speller({"read": "a", "cat": "b"}), [READ, CAT], "wer")
    assert [hypothesis.text for hypothesis in found.hypotheses] == ["a", "b"]
    assert 0 < found.words_per_second < math.inf


def test_words_gather_their_pronunciations_and_sentence_pairs_stay_apart():
    pairs = [("read", "R EH D"), ("read", "R IY D"), ("cat", "K AE T")]
    assert take_examples(pairs, "wer") == [READ, CAT]
    assert take_examples(pairs, "wer", limit=1) == [READ]
    assert take_examples(pairs, "bleu", limit=2) == [("read", ["R EH D"]), ("read", ["R IY D"])]


def test_a_limit_reads_no_more_of_a_large_corpus_than_it_needs():
    def endless():
        while True:
            yield "a", "b"

    assert len(take_examples(endless(), "bleu", limit=3)) == 3


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: take_examples([], "blue"), "metric must be one of .* metric='blue'"),
        (lambda: take_examples([], "bleu", 0), "limit must be 1 or more.* limit=0"),
        (lambda: assess(Speller({}), [], "bleu"), "at least one example. Received: none"),
        (lambda: assess(Speller({}), [CAT], "blue"), "metric must be one of"),
    ],
)
def test_bad_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
