"""The comparison itself, on stand-ins for a translator."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from keras_transformer.hypothesis import Hypothesis
from keras_transformer.search_options import SearchOptions
from keras_transformer_export.parity import (
    BATCH_SIZES,
    BEAMS,
    GREEDY,
    MOST_SENTENCES,
    STRANGE_TEXTS,
    ParityError,
    compare,
    proof_sentences,
)

EOS = 3


class FakeTranslator:
    """Answers each text with its letters; the full model scores what `scores` says.

    Of n hypotheses each is one lower than the one before.
    """

    held_out = None
    config = SimpleNamespace(eos_id=EOS, longest=None)

    def __init__(self, scores=(0.0, 0.0)):
        self.source = SimpleNamespace(
            encode=lambda texts: [[ord(c) for c in text] for text in texts],
            decode=lambda rows: ["".join(map(chr, row)) for row in rows],
            vocab_size=100, pad_id=0, unk_id=1, bos_id=2, eos_id=3,
        )  # fmt: skip
        self.target = SimpleNamespace(
            decode=lambda rows: ["".join(map(chr, row)).upper() for row in rows]
        )
        self.scores = scores
        self.batches = []
        self.asked = []

    def translate(self, texts, batch_size, **options):
        assert batch_size == len(texts)
        self.batches.append(len(texts))
        self.asked.append(SearchOptions(**options))
        return [answers(text, options["num_hypotheses"]) for text in texts]

    def score_ids(self, source_rows, target_rows):
        return self.scores


def answer(source, /, **changes):
    values = {"text": source.upper(), "score": -1.0, "tokens": [ord(c) for c in source]}
    return Hypothesis(**{**values, "finished": True, **changes})


def answers(source, count, **changes):
    """So many hypotheses of equal length, the best one changed."""
    others = [
        answer(f"{source[:-1]}{chr(96 + rank)}", score=-1.0 - rank) for rank in range(1, count)
    ]
    return [answer(source, **changes), *others]


def runtime(**changes_by_text):
    """A file that gives what `FakeTranslator` gives, but for changes with greedy search."""

    def run(requests):
        return [
            [
                answers(
                    text,
                    request.options.num_hypotheses,
                    **(changes_by_text.get(text, {}) if request.options == GREEDY else {}),
                )
                for text in request.texts
            ]
            for request in requests
        ]

    return run


def n_best_runtime(change):
    """A file that gives `change(hypotheses)` for text7, where several are asked for."""

    def run(requests):
        found = runtime()(requests)
        for request, rows in zip(requests, found, strict=True):
            if "text7" in request.texts and request.options.num_hypotheses > 1:
                place = request.texts.index("text7")
                rows[place] = change(rows[place])
        return found

    return run


SENTENCES = [f"text{i}" for i in range(60)]


def test_equal_answers_make_a_report():
    translator = FakeTranslator()
    report = compare(translator, SENTENCES, {"file": runtime(text3={"score": -1.00001})}, {})
    with_greedy, with_beams = len(SENTENCES), report.runtimes["file"].compared - len(SENTENCES)
    assert report.sentences == with_greedy < with_beams
    assert report.runtimes["file"].max_score_difference == pytest.approx(1e-5)
    assert report.runtimes["file"].ties == []
    assert set(BATCH_SIZES) <= set(translator.batches)
    assert report.examples[0].text == "TEXT0"
    assert report.examples[0].ids[-1] == EOS


def test_every_text_is_compared_with_greedy_search_and_with_a_beam():
    translator = FakeTranslator()
    report = compare(translator, SENTENCES, {}, {})
    sizes = dict.fromkeys({GREEDY, *BEAMS}, 0)
    for options, batch in zip(translator.asked, translator.batches, strict=True):
        sizes[options] += batch
    assert sizes[GREEDY] == len(SENTENCES) == sum(sizes.values()) - sizes[GREEDY]
    assert all(sizes.values())
    assert report.beam_sizes == [1, 2, 4, 5, 8]
    assert {example.beam_size for example in report.examples} == {1, 4}


def test_every_beam_meets_every_batch_size():
    translator = FakeTranslator()
    compare(translator, [f"text{i}" for i in range(4 * sum(BATCH_SIZES))], {}, {})
    met = set(zip(translator.asked, translator.batches, strict=True))
    assert met == {(options, size) for options in (GREEDY, *BEAMS) for size in BATCH_SIZES}


@pytest.mark.parametrize(
    "change",
    [{"text": "other"}, {"score": -1.001}, {"score": float("nan")}],
    ids=["text", "score", "nan"],
)
def test_another_text_or_score_is_fatal(change):
    with pytest.raises(ParityError, match="file must give"):
        compare(FakeTranslator(), SENTENCES, {"file": runtime(text7=change)}, {})


OTHER = {"text": "OTHER", "tokens": [ord(c) for c in "other"]}


def test_other_ids_are_fatal_unless_the_full_model_scores_them_alike():
    other = {"file": runtime(text7=OTHER)}
    with pytest.raises(ParityError, match="'OTHER' for 'TEXT7'"):
        compare(FakeTranslator(scores=(-2.0, -2.0001)), SENTENCES, other, {})
    report = compare(FakeTranslator(scores=(-2.0, -2.000001)), SENTENCES, other, {})
    assert [tie.source for tie in report.runtimes["file"].ties] == ["text7"]
    assert "text7" not in [example.source for example in report.examples]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text": "another text than its ids"}, "must give what Keras gives"),
        ({"score": -1.001}, "must give the scores"),
        ({"score": float("nan")}, "must give the scores"),
    ],
    ids=["text", "score", "nan"],
)
def test_a_tie_excuses_the_ids_and_nothing_else(change, message):
    other = {"file": runtime(text7={**OTHER, **change})}
    with pytest.raises(ParityError, match=message):
        compare(FakeTranslator(), SENTENCES, other, {})


def test_the_same_ids_cut_and_ended_are_no_tie():
    with pytest.raises(ParityError, match=r"'TEXT7' \(cut\) for 'TEXT7'"):
        compare(FakeTranslator(), SENTENCES, {"file": runtime(text7={"finished": False})}, {})


def test_a_tie_is_one_of_scores_with_the_length_penalty():
    """By the log-probability alone, two outputs of other lengths would seem alike."""
    longer = [ord(c) for c in "text7 and more"]
    other = {"file": runtime(text7={"text": "TEXT7 AND MORE", "tokens": longer})}
    with pytest.raises(ParityError, match="'TEXT7 AND MORE' for 'TEXT7'"):
        compare(FakeTranslator(scores=(-2.0, -2.0)), SENTENCES, other, {})
    ended = [((5 + length) / 6) ** GREEDY.length_penalty for length in (6, len(longer) + 1)]
    report = compare(FakeTranslator(scores=ended), SENTENCES, other, {})
    (tie,) = report.runtimes["file"].ties
    assert (tie.keras_score, tie.other_score) == pytest.approx((1.0, 1.0))


def test_more_ties_than_chance_gives_are_fatal():
    tied = {"file": runtime(text7=OTHER, text8=OTHER)}
    with pytest.raises(ParityError, match=r"2 ties in \d+ hypotheses"):
        compare(FakeTranslator(), SENTENCES, tied, {})


def swapped(hypotheses):
    """The first two in each other's place, with the scores of their places."""
    first, second, *others = hypotheses
    return [
        replace(second, score=first.score), replace(first, score=second.score), *others,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (swapped, "file must give what Keras gives"),
        (lambda found: found[:1], r"as many hypotheses as Keras.* Received: 1 for \d .*'text7'"),
        (lambda found: [*found, found[-1]], "as many hypotheses as Keras"),
        (lambda found: [found[0]] * len(found), "must give each hypothesis once"),
        (lambda found: [*found[:-1], replace(found[-1], score=-9.0)], "must give the scores"),
    ],
    ids=["swapped", "fewer", "more", "the same twice", "score of the last"],
)
def test_every_rank_of_several_hypotheses_counts(change, message):
    translator = FakeTranslator(scores=(-2.0, -3.0))
    with pytest.raises(ParityError, match=message):
        compare(translator, SENTENCES, {"file": n_best_runtime(change)}, {})


def test_two_ranks_that_the_full_model_scores_alike_may_be_swapped():
    translator = FakeTranslator(scores=(-2.0, -2.000001))
    report = compare(translator, SENTENCES, {"file": n_best_runtime(swapped)}, {})
    assert [tie.source for tie in report.runtimes["file"].ties] == ["text7"]


def test_two_other_hypotheses_of_one_text_are_two_ties():
    def others(found):
        new = [answer(f"new_{rank}", score=h.score) for rank, h in enumerate(found[:2])]
        return [*new, *found[2:]]

    translator = FakeTranslator(scores=(-2.0, -2.000001))
    with pytest.raises(ParityError, match="2 ties in"):
        compare(translator, [f"text{i}" for i in range(40)], {"file": n_best_runtime(others)}, {})


def test_a_hypothesis_in_the_place_of_one_that_scores_alike_is_there_once():
    file = n_best_runtime(lambda found: [found[0], replace(found[0], score=-2.0), *found[2:]])
    with pytest.raises(ParityError, match="must give each hypothesis once"):
        compare(FakeTranslator(), SENTENCES, {"file": file}, {})


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
