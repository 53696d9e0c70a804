"""Greedy search on scripted steps, where the best continuation is known."""

import numpy as np
import pytest
from numpy_search import Rules, greedy_search
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
    outputs,
    random_log_probs,
    run,
)


def scripted(*rows):
    """A step that makes each row's script the best continuation, by probability 0.9."""

    def log_probs_of(sentence, tokens):
        script = rows[sentence]
        probabilities = np.full(SIZE, 0.1 / (SIZE - 1))
        probabilities[script[len(tokens)] if len(tokens) < len(script) else A] = 0.9
        return np.log(probabilities)

    return Scripted(log_probs_of)


def lengths_of(found):
    return (found.ids[:, 0] != PAD).sum(axis=1)


def test_the_scripts_come_out_and_rows_end_at_different_steps():
    found = run(scripted([A, B, C, END], [END], [C, END], [B, A, END]), [9] * 4)
    assert found.ids[:, 0].tolist() == [
        [A, B, C, END],
        [END, PAD, PAD, PAD],
        [C, END, PAD, PAD],
        [B, A, END, PAD],
    ]
    assert found.finished.all()
    np.testing.assert_allclose(found.scores[:, 0], np.log(0.9) * np.array([4, 1, 2, 3]), rtol=1e-5)


@pytest.mark.parametrize("capacity", [None, 5])
def test_each_row_is_cut_at_its_own_limit_and_says_so(capacity):
    step = scripted([A, B, C, END], [A, END], [C, C, C, C])
    found = run(step, [2, 2, 3], capacity=capacity)
    assert found.ids[:, 0, :3].tolist() == [[A, B, PAD], [A, END, PAD], [C, C, C]]
    assert (found.ids[:, 0, 3:] == PAD).all()
    assert found.finished[:, 0].tolist() == [False, True, False]
    np.testing.assert_allclose(found.scores[:, 0], np.log(0.9) * np.array([2, 2, 3]), rtol=1e-5)


def test_scores_are_divided_by_the_length_penalty():
    found = run(scripted([A, B, C, END], [END], [A, A, A]), [9, 9, 3], alpha=1.5)
    lengths = np.array([4, 1, 3])
    expected = np.log(0.9) * lengths / ((5 + lengths) / 6) ** 1.5
    np.testing.assert_allclose(found.scores[:, 0], expected, rtol=1e-5)


def test_it_stops_as_soon_as_every_row_has_ended():
    step = scripted([A, END], [END])
    run(step, [50, 50])
    assert [position for position, _ in step.calls] == [0, 1]


def test_ties_go_to_the_lower_id():
    def log_probs_of(sentence, tokens):
        scores = np.zeros(SIZE)
        scores[[B, C]] = 3.0
        return scores

    assert outputs(run(Scripted(log_probs_of), [1]), 0) == [((B,), False)]


def test_banned_ids_and_the_pad_never_come_and_the_next_best_does():
    found = run(scripted([PAD, START, A, END]), [4])
    # Where a banned id is best, all others are equal and the lowest of them is the end.
    assert outputs(found, 0) == [((END,), True)]
    # The score is still that of the whole distribution: banning does not make tokens likelier.
    np.testing.assert_allclose(found.scores, [[np.log(0.1 / 5)]], rtol=1e-5)
    found = run(scripted([A, START, END]), [3], banned_ids=(START, END))
    assert outputs(found, 0) == [((A, A, A), False)]


def test_the_step_is_given_the_token_before_the_position_and_its_own_cache():
    step = scripted([B, C, END], [B, END])
    run(step, [9, 9])
    assert step.calls == [
        (0, [(START,), (START,)]),
        (1, [(START, B), (START, B)]),
        (2, [(START, B, C)]),
    ]


def test_an_empty_batch_gives_an_empty_result_without_a_step():
    step = Scripted(None)
    found = run(step, [])
    assert found.ids.shape == (0, 1, 0)
    assert found.scores.shape == found.finished.shape == (0, 1)
    assert step.calls == []


def test_a_limit_of_one_gives_one_token():
    step = scripted([A, END], [END])
    found = run(step, [1, 1])
    assert [outputs(found, row) for row in range(2)] == [[((A,), False)], [((END,), True)]]
    assert step.rows == [2]


def test_the_end_comes_no_sooner_than_the_shortest_length():
    for shortest in (0, 1, 2, 4):
        [(ids, finished)] = outputs(run(scripted([END] * 9), [9], min_length=shortest), 0)
        assert finished
        assert len(ids) == max(1, shortest)
    assert outputs(run(scripted([END] * 9), [3], min_length=5), 0) == [((A, A, A), False)]


def test_outputs_begin_with_what_is_forced():
    prefix = [[], [C], [B, C], [C, B, C, B, C, B]]
    step = scripted(*[[A, B, A, END]] * 4)
    found = run(step, [4] * 4, prefix=prefix)
    assert [outputs(found, row) for row in range(4)] == [
        [((A, B, A, END), True)],
        [((C, B, A, END), True)],
        [((B, C, A, END), True)],
        [((C, B, C, B), False)],
    ]
    unlikely = np.log(0.1 / 5)
    expected = np.log(0.9) * np.array([4, 3, 2, 1]) + unlikely * np.array([0, 1, 2, 3])
    np.testing.assert_allclose(found.scores[:, 0], expected, rtol=1e-5)


@pytest.mark.parametrize("alpha", [0.0, 0.8])
def test_ids_and_scores_are_those_of_the_rules_in_plain_numpy(alpha):
    log_probs_of = random_log_probs(17, spread=2.0)
    limits, shortest = [12, 12, 3, 12, 1, 12, 12, 8], 2
    prefix = [[], [A], [B, C, A, A], [], [], [C], [C, B], []]
    found = run(Scripted(log_probs_of), limits, prefix=prefix, alpha=alpha, min_length=shortest)
    for row, limit in enumerate(limits):
        rules = Rules(END, BANNED, limit, alpha, shortest, tuple(prefix[row]))
        expected = greedy_search(lambda ids, row=row: log_probs_of(row, ids), rules)
        assert_found(found, row, [expected])
    assert len(set(lengths_of(found))) > 3


def test_a_choice_of_ones_own_takes_the_place_of_the_best():
    """What sampling needs: the choice sees what may come, and the score stays that of the token."""
    given = []

    def second_best(scores, step, index):
        given.append((int(step), np.asarray(index).tolist()))
        return np.argsort(-np.asarray(scores), axis=-1, kind="stable")[:, 1].astype("int32")

    found = run(scripted([C, B]), [2], choose=second_best, banned_ids=(*BANNED, END))
    assert outputs(found, 0) == [((A, A), False)]
    assert given == [(0, [0]), (1, [0])]
    np.testing.assert_allclose(found.scores, [[2 * np.log(0.1 / 5)]], rtol=1e-5)
