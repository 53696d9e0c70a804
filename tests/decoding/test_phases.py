"""The loop that searches run in: who leaves it, when, and how often the step is called."""

import numpy as np
import pytest
from numpy_search import Rules, beam_search, greedy_search
from scripted_steps import (
    BANNED,
    END,
    PAD,
    A,
    B,
    C,
    Scripted,
    outputs,
    random_log_probs,
    run,
    tree,
)


def ending_after(lengths):
    """Sentence i outputs A until its `lengths[i]`-th token, which ends it."""

    def log_probs_of(sentence, tokens):
        ends = len(tokens) + 1 >= lengths[sentence]
        return tree({tokens: {END: 1.0} if ends else {A: 1.0}})(sentence, tokens)

    return log_probs_of


@pytest.mark.parametrize("size", [None, 1, 3])
def test_settled_sentences_leave_once_they_are_a_quarter(size):
    lengths = [7, 1, 3, 5, 1, 3, 5, 7]
    step = Scripted(ending_after(lengths))
    found = run(step, [20] * 8, size)
    rows = np.array([8, 6, 6, 4, 4, 2, 2])
    assert step.rows == (rows * (size or 1)).tolist()
    for row, length in enumerate(lengths):
        assert outputs(found, row)[0] == ((A,) * (length - 1) + (END,), True)


@pytest.mark.parametrize("size", [None, 2])
def test_fewer_than_a_quarter_wait_and_cost_no_step_more(size):
    step = Scripted(ending_after([1, 4, 4, 4, 4]))
    found = run(step, [20] * 5, size)
    assert step.rows == [5 * (size or 1)] * 4
    assert outputs(found, 0)[0] == ((END,), True)


@pytest.mark.parametrize("size", [None, 2])
def test_a_sentence_at_its_limit_leaves_at_once(size):
    step = Scripted(ending_after([9] * 8))
    found = run(step, [2, 5, 5, 5, 5, 5, 5, 3], size)
    rows = np.array([8, 8, 7, 6, 6])
    assert step.rows == (rows * (size or 1)).tolist()
    for row, limit in enumerate([2, 5, 5, 5, 5, 5, 5, 3]):
        if size is None:  # an unlikely end comes before a likely cut
            assert outputs(found, row) == [((A,) * limit, False)]


@pytest.mark.parametrize("capacity", [None, 9])
@pytest.mark.parametrize("size", [None, 2])
def test_no_step_is_made_when_all_are_settled(size, capacity):
    step = Scripted(ending_after([2, 4, 3]))
    run(step, [9, 9, 9], size, capacity=capacity)
    assert [position for position, _ in step.calls] == [0, 1, 2, 3]
    cut = Scripted(ending_after([9, 9]))
    run(cut, [3, 1], size, capacity=capacity)
    assert [position for position, _ in cut.calls] == [0, 1, 2]


@pytest.mark.parametrize("size", [None, 2])
def test_with_a_capacity_all_rows_stay_and_nothing_is_added_to_those_that_ended(size):
    lengths = [1, 5, 2, 9]
    step = Scripted(ending_after(lengths))
    found = run(step, [7] * 4, size, capacity=8)
    assert step.rows == [4 * (size or 1)] * 7
    assert found.ids.shape[2] == 8
    for row, length in enumerate(lengths):
        if length <= 7:
            assert outputs(found, row)[0] == ((A,) * (length - 1) + (END,), True)
        elif size is None:
            assert outputs(found, row)[0] == ((A,) * 7, False)


def test_the_table_of_ids_is_as_long_as_the_longest_hypothesis():
    for lengths, size in (([1, 4], None), ([1, 4], 2), ([1, 1], 2)):
        found = run(Scripted(ending_after(lengths)), [9, 9], size)
        assert found.ids.shape[2] == max(lengths)
        assert (found.ids[:, :, -1] != PAD).any()


def test_beam_search_makes_as_many_steps_as_its_rules_need():
    for seed in range(4):
        for early in (True, False):
            log_probs_of = random_log_probs(seed)
            step = Scripted(log_probs_of)
            run(step, [12], 3, num_hypotheses=2, early_stopping=early)
            rules = Rules(END, BANNED, 12)
            _, steps = beam_search(lambda ids: log_probs_of(0, ids), rules, 3, 2, early)  # noqa: B023
            assert len(step.calls) == steps


@pytest.mark.parametrize("size", [None, 1, 4])
def test_the_order_of_sentences_changes_nothing(size):
    log_probs_of = random_log_probs(31, spread=2.5)
    limits = [6, 9, 2, 9, 9, 1, 9, 4]
    first = run(Scripted(log_probs_of), limits, size)
    order = [5, 2, 7, 0, 6, 4, 3, 1]

    def reordered(sentence, tokens):
        return log_probs_of(order[sentence], tokens)

    second = run(Scripted(reordered), [limits[i] for i in order], size)
    for place, row in enumerate(order):
        assert outputs(second, place) == outputs(first, row)
        np.testing.assert_allclose(second.scores[place], first.scores[row], rtol=1e-6)


def test_greedy_search_is_beam_search_of_one_without_early_ends():
    """Both follow one hypothesis; a beam of one keeps a finished one and may go on for a better."""
    script = tree({(): {A: 0.8, B: 0.2}, (A,): {C: 0.9, END: 0.1}}, {END: 1.0})
    greedy, beam = (run(Scripted(script), [6], size, alpha=0.6) for size in (None, 1))
    assert outputs(greedy, 0) == outputs(beam, 0) == [((A, C, END), True)]
    expected = greedy_search(lambda ids: script(0, ids), Rules(END, BANNED, 6))
    assert greedy.scores[0, 0] == pytest.approx(expected.score, rel=1e-5)
    assert beam.scores[0, 0] == pytest.approx(expected.score, rel=1e-5)
