"""Beam search on scripted steps, against its rules in plain NumPy and against brute force."""

import numpy as np
import pytest
from numpy_search import Rules, beam_search, every_output, penalty
from scripted_steps import (
    BANNED,
    END,
    PAD,
    SIZE,
    START,
    A,
    B,
    C,
    Scripted,
    assert_found,
    make_search,
    outputs,
    random_log_probs,
    run,
    sentences_of,
    tree,
)

from keras_transformer.hypothesis import LOWEST_SCORE


def of_sentence(log_probs_of, sentence):
    return lambda tokens: log_probs_of(sentence, tuple(tokens))


MISLEADING = tree({(): {A: 0.6, B: 0.4}, (A,): {A: 0.35, B: 0.35, END: 0.3}, (B,): {END: 1.0}})


def test_beam_search_finds_the_best_output_where_greedy_search_fails():
    greedy = run(Scripted(MISLEADING), [5], alpha=0.0)
    beam = run(Scripted(MISLEADING), [5], 2, alpha=0.0)
    best = every_output(of_sentence(MISLEADING, 0), Rules(END, BANNED, 5, 0.0), SIZE)[0]
    assert outputs(greedy, 0)[0][0][0] == A
    assert outputs(beam, 0) == [((B, END), True)] == [(best.ids, True)]
    assert beam.scores[0, 0] == pytest.approx(np.log(0.4), abs=1e-4)
    assert beam.scores[0, 0] > greedy.scores[0, 0] + 0.1


@pytest.mark.parametrize("alpha", [0.0, 0.6, 1.0, 2.5])
@pytest.mark.parametrize("seed", range(4))
def test_a_beam_that_covers_the_tree_finds_what_brute_force_finds(seed, alpha):
    log_probs_of = random_log_probs(seed, size=5)  # two letters
    limits = [5, 3, 1]
    found = run(
        Scripted(log_probs_of), limits, 16, size=5, num_hypotheses=16, alpha=alpha,
        early_stopping=False,
    )  # fmt: skip
    best_only = run(Scripted(log_probs_of), limits, 16, size=5, alpha=alpha, early_stopping=False)
    for sentence, limit in enumerate(limits):
        rules = Rules(END, BANNED, limit, alpha)
        expected = every_output(of_sentence(log_probs_of, sentence), rules, 5)
        assert len(expected) == 2 ** (limit + 1) - 1
        assert_found(found, sentence, expected[:16])
        assert_found(best_only, sentence, expected[:1])


CASES = [
    # beam, n, alpha, early stopping, shortest, limits
    (1, 1, 0.6, True, None, (6, 6, 6)),
    (2, 1, 0.0, True, None, (7, 3, 9, 1, 5)),
    (3, 3, 0.6, True, None, (9, 9, 9, 9, 9, 9, 9)),
    (3, 3, 0.6, False, None, (9, 2, 9, 4, 9, 9, 7)),
    (4, 1, 1.0, True, 3, (8, 8, 2, 5)),
    (4, 2, 1.0, False, 4, (6, 8, 5, 3, 3, 1)),
    (5, 5, 2.5, True, None, (7, 7, 7, 7, 6, 5, 4, 3, 2)),
    (6, 1, 0.6, True, None, (12, 12, 12, 12, 12)),
    (7, 4, 0.3, False, 2, (5, 9, 5, 9)),
    (8, 8, 1.3, True, None, (6, 3, 8, 5, 8)),
]
PREFIXES = ([], [A], [B, C], [C, C, C, C], [A, B, A])


@pytest.mark.parametrize("with_prefix", [False, True])
@pytest.mark.parametrize("case", range(len(CASES)))
def test_ids_and_scores_are_those_of_the_rules_in_plain_numpy(case, with_prefix):
    size, count, alpha, early, shortest, limits = CASES[case]
    lengths, steps_made = set(), set()
    for seed in (case,):
        log_probs_of = random_log_probs(seed, spread=1.0 + seed % 3)
        prefix = [PREFIXES[(seed + row) % 5] for row in range(len(limits))]
        found = run(
            Scripted(log_probs_of), limits, size, prefix if with_prefix else None, alpha=alpha,
            num_hypotheses=count, early_stopping=early, min_length=shortest,
        )  # fmt: skip
        for row, limit in enumerate(limits):
            forced = tuple(prefix[row]) if with_prefix else ()
            rules = Rules(END, BANNED, limit, alpha, shortest or 0, forced)
            expected, steps = beam_search(of_sentence(log_probs_of, row), rules, size, count, early)
            assert_found(found, row, expected)
            lengths |= {len(output.ids) for output in expected}
            steps_made.add(steps)
    assert len(lengths) > 1
    assert len(steps_made) > 1, "sentences must end at different steps"


def of_equal_letters(seed, choices=3):
    """In every row so many tokens share all probability: hypotheses as long as each other tie."""

    def log_probs_of(sentence, tokens):
        generator = np.random.default_rng([seed, sentence, *tokens])
        row = np.full(SIZE, -200.0)  # in float32 of no weight at all
        row[generator.choice([END, A, B, C], choices, replace=False)] = -np.log(choices)
        return row

    return log_probs_of


def test_ties_go_to_the_better_parent_and_then_to_the_lower_id():
    def log_probs_of(sentence, tokens):
        row = np.full(SIZE, -200.0)
        row[[A, B, C]] = np.log([0.25, 0.5, 0.25]) if not tokens else np.log([0.5, 0.25, 0.25])
        return row

    found = run(Scripted(log_probs_of), [2], 4, num_hypotheses=4, min_length=3)
    # BA is best; BB, BC, AA and CA are equal: B is the better parent, and A a lower id than C
    assert [ids for ids, _ in outputs(found, 0)] == [(B, A), (B, B), (B, C), (A, A)]


@pytest.mark.parametrize("alpha", [0.0, 1.0])
@pytest.mark.parametrize("size", [2, 3, 5])
def test_ties_of_many_hypotheses_go_as_the_rules_say(size, alpha):
    log_probs_of = of_equal_letters(size)
    limits = [4] * 6
    found = run(Scripted(log_probs_of), limits, size, num_hypotheses=size, alpha=alpha)
    for row in range(len(limits)):
        rules = Rules(END, BANNED, 4, alpha)
        expected, _ = beam_search(of_sentence(log_probs_of, row), rules, size, size)
        assert_found(found, row, expected)


def test_hypotheses_that_are_cut_come_after_finished_ones_however_good():
    script = tree({(): {A: 0.9, END: 0.06, B: 0.04}, (A,): {A: 0.9, END: 0.1}}, {A: 1.0})
    found = run(Scripted(script), [2], 3, num_hypotheses=3, early_stopping=False, alpha=0.0)
    assert outputs(found, 0) == [((A, END), True), ((END,), True), ((A, A), False)]
    assert found.scores[0, 2] > found.scores[0, 0] > found.scores[0, 1]
    assert found.scores[0, 2] == pytest.approx(2 * np.log(0.9), abs=1e-4)


def test_with_early_stopping_a_long_output_may_be_missed_and_without_it_is_not():
    long = (A,) * 9
    script = tree({(): {END: 0.55, A: 0.4, B: 0.05}, **{long[:i]: {A: 1.0} for i in range(1, 9)}})
    stops, goes_on = Scripted(script), Scripted(script)
    early = run(stops, [12], 2, alpha=1.0)
    late = run(goes_on, [12], 2, alpha=1.0, early_stopping=False)
    assert outputs(early, 0) == [((END,), True)]
    assert len(stops.calls) == 1
    assert outputs(late, 0) == [((*long, END), True)]
    assert late.scores[0, 0] == pytest.approx(np.log(0.4) / penalty(10, 1.0), rel=1e-4)
    assert late.scores[0, 0] > early.scores[0, 0] + 0.1
    assert len(goes_on.calls) >= 10


@pytest.mark.parametrize("early_stopping", [True, False])
def test_what_a_settled_sentence_has_does_not_change_while_others_go_on(early_stopping):
    """A sentence that is settled first waits for others, and a longer output is scored higher."""
    long = (A,) * 9
    paths = {(): {END: 0.55, A: 0.4, B: 0.05}, **{long[:i]: {A: 1.0} for i in range(1, 9)}}
    settled_first = tree(paths)
    other = tree({(B,) * i: {B: 1.0} for i in range(11)})

    def log_probs_of(sentence, tokens):
        return (other if sentence else settled_first)(sentence, tokens)

    options = {"alpha": 1.0, "early_stopping": early_stopping}
    alone = run(Scripted(log_probs_of), [12], 2, **options)
    for others in (1, 7):
        for capacity in (None, 12):
            together = run(
                Scripted(log_probs_of), [12] * (others + 1), 2, capacity=capacity, **options
            )
            assert outputs(together, 0) == outputs(alone, 0)
            np.testing.assert_allclose(together.scores[0], alone.scores[0], rtol=1e-5)
            assert outputs(together, 1) == [((B,) * 11 + (END,), True)]


def test_the_shortest_length_counts_the_end_symbol():
    script = tree({}, {END: 0.9, A: 0.06, B: 0.04})
    for shortest in (0, 1, 2, 4):
        found = run(Scripted(script), [6], 2, min_length=shortest, alpha=0.0)
        ids, finished = outputs(found, 0)[0]
        assert finished
        assert len(ids) == max(1, shortest)
        # what is forbidden makes nothing likelier
        expected = (len(ids) - 1) * np.log(0.06) + np.log(0.9)
        assert found.scores[0, 0] == pytest.approx(expected, abs=1e-4)
    assert outputs(run(Scripted(script), [3], 2, min_length=5), 0) == [((A, A, A), False)]


def test_outputs_begin_with_what_is_forced_and_the_likeliest_other_token_never_enters():
    script = tree({}, {A: 0.7, END: 0.2, B: 0.09, C: 0.01})
    prefix = [[], [C], [B, C], [C, B, C, B, C, B]]
    found = run(Scripted(script), [4] * 4, 3, prefix, num_hypotheses=3, alpha=0.0)
    assert [outputs(found, row)[0][0] for row in range(4)] == [
        (END,), (C, END), (B, C, END), (C, B, C, B),
    ]  # fmt: skip
    for row in range(3):
        assert len(outputs(found, row)) == 3
        for ids, _ in outputs(found, row):
            assert ids[: len(prefix[row])] == tuple(prefix[row])
    assert outputs(found, 3) == [((C, B, C, B), False)], "cut, and there is no other"
    assert found.scores[3, 0] == pytest.approx(2 * np.log(0.01) + 2 * np.log(0.09), rel=1e-4)


def test_an_empty_prefix_is_no_prefix():
    log_probs_of = random_log_probs(3)
    free = run(Scripted(log_probs_of), [6, 6], 3, num_hypotheses=2)
    empty = run(Scripted(log_probs_of), [6, 6], 3, [[], []], num_hypotheses=2)
    for one, other in zip(free, empty, strict=True):
        np.testing.assert_array_equal(one, other)


def test_banned_ids_and_the_pad_never_come_however_likely():
    script = tree({}, {PAD: 0.4, START: 0.3, C: 0.2, A: 0.06, END: 0.04})
    found = run(Scripted(script), [4], 3, banned_ids=(*BANNED, C), num_hypotheses=3, alpha=0.0)
    seen = {token for ids, _ in outputs(found, 0) for token in ids}
    assert seen <= {END, A, B}
    assert found.scores[0, 0] == pytest.approx(np.log(0.04), abs=1e-3)


@pytest.mark.parametrize("size", [2, 3, 4, 5])
def test_a_tiny_vocabulary_has_fewer_hypotheses_than_are_asked_for(size):
    """One letter and the end: with a limit of L there are L + 1 outputs, whatever the beam."""
    log_probs_of = random_log_probs(size, size=4)
    for limit in (1, 2, 3):
        found = run(
            Scripted(log_probs_of), [limit], size, size=4, num_hypotheses=size,
            early_stopping=False,
        )  # fmt: skip
        rules = Rules(END, BANNED, limit)
        expected = every_output(of_sentence(log_probs_of, 0), rules, 4)
        assert len(expected) == limit + 1
        assert_found(found, 0, expected[:size])
        assert found.scores.shape == (1, size)


def test_no_hypothesis_comes_twice():
    log_probs_of = random_log_probs(9)
    found = run(Scripted(log_probs_of), [6] * 8, 8, num_hypotheses=8)
    for row in range(8):
        ids = [ids for ids, _ in outputs(found, row)]
        assert len(set(ids)) == len(ids) == 8
        ended = found.finished[row]
        for part in (found.scores[row][ended], found.scores[row][~ended]):
            assert (np.diff(part) <= 0).all()
        assert (np.diff(ended.astype(int)) <= 0).all(), "first those that ended"


def test_an_empty_batch_gives_an_empty_result_without_a_step():
    step = Scripted(None)
    found = run(step, [], 3, num_hypotheses=2)
    assert found.ids.shape == (0, 2, 0)
    assert found.scores.shape == found.finished.shape == (0, 2)
    assert step.calls == []


@pytest.mark.parametrize(("size", "early_stopping"), [(1, True), (4, True), (4, False)])
def test_a_batch_gives_each_sentence_what_it_gets_alone(size, early_stopping):
    log_probs_of = random_log_probs(11, spread=2.0)
    limits = [4, 7, 1, 7, 7, 3]
    options = {"num_hypotheses": size, "early_stopping": early_stopping, "alpha": 1.0}
    together = run(Scripted(log_probs_of), limits, size, **options)
    for row, limit in enumerate(limits):
        alone = run(
            Scripted(lambda _, tokens, row=row: log_probs_of(row, tokens)), [limit], size, **options
        )
        assert outputs(alone, 0) == outputs(together, row)
        np.testing.assert_allclose(alone.scores[0], together.scores[row], rtol=1e-6)


def test_a_limit_of_one_gives_one_token():
    log_probs_of = random_log_probs(2)
    step = Scripted(log_probs_of)
    found = run(step, [1, 1], 3, num_hypotheses=3)
    assert step.rows == [6]
    assert found.ids.shape == (2, 3, 1)
    for row in range(2):
        expected, _ = beam_search(of_sentence(log_probs_of, row), Rules(END, BANNED, 1), 3, 3)
        assert_found(found, row, expected)


@pytest.mark.parametrize("capacity", [None, 7])
def test_rows_of_the_cache_follow_their_hypotheses(capacity):
    """The cache is the tokens the step was given: they must be the hypothesis's own, always."""
    log_probs_of = random_log_probs(21, spread=1.0)
    rows, size = 4, 3
    options = {"num_hypotheses": size, "capacity": capacity, "min_length": 9}
    search = make_search(Scripted(log_probs_of), size, **options)
    sentences = sentences_of([7] * rows)
    state = search.first(sentences, np.zeros((rows * size, 0), "int32"))
    extend = search.extend(sentences)
    parents_moved = False
    for step in range(1, 7):
        before = np.asarray(state.ids).reshape(rows, 2 * size, -1)[:, :size, : step - 1]
        state = extend(state)
        ids = np.asarray(state.ids).reshape(rows, 2 * size, -1)[:, :size, :step]
        history = np.asarray(state.cache).reshape(rows, size, step)
        alive = np.asarray(state.alive) > LOWEST_SCORE
        assert alive.sum() >= (9 if step > 1 else 3)
        assert (history[:, :, 0] == START).all()
        np.testing.assert_array_equal(history[alive][:, 1:], ids[alive][:, :-1])
        np.testing.assert_array_equal(
            np.asarray(state.last).reshape(rows, size)[alive], ids[alive][:, -1]
        )
        parents_moved |= bool((ids[..., : step - 1] != before).any())
    assert parents_moved, "hypotheses must change places, or nothing is shown"


def test_selected_sentences_keep_all_that_is_theirs():
    log_probs_of = random_log_probs(22)
    search = make_search(Scripted(log_probs_of), 3, num_hypotheses=3, early_stopping=False)
    sentences = sentences_of([9] * 5)
    state = search.first(sentences, np.zeros((15, 0), "int32"))
    extend = search.extend(sentences)
    for _ in range(3):
        state = extend(state)
    chosen = np.array([3, 0, 3], "int32")
    part = search.select(state, chosen)
    whole = search.found(state, sentences)
    of_part = search.found(part, sentences_of([9] * 3))
    for one, other in zip(of_part, whole, strict=True):
        np.testing.assert_array_equal(one, np.asarray(other)[chosen])
    for name, width in (("cache", 3), ("last", 3), ("ids", 6)):
        rows = np.asarray(getattr(state, name)).reshape(5, width, -1)
        found = np.asarray(getattr(part, name)).reshape(3, width, -1)
        np.testing.assert_array_equal(found, rows[chosen])
    assert int(part.step) == 3
