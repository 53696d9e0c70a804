import itertools
from dataclasses import asdict
from types import SimpleNamespace

import numpy as np
import pytest

from keras_transformer.search_options import SearchOptions, check_count, in_chunks, prefix_rows


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beam_size": 0}, "beam_size must be an integer from 1.*beam_size=0"),
        ({"beam_size": -1}, "beam_size must be an integer from 1.*beam_size=-1"),
        ({"beam_size": True}, "beam_size must be an integer.*True"),
        ({"beam_size": np.True_}, "beam_size must be an integer.*True"),
        ({"beam_size": 2.0}, "beam_size must be an integer.*beam_size=2.0"),
        ({"beam_size": np.float32(2)}, "beam_size must be an integer.*2.0"),
        ({"beam_size": "4"}, "beam_size must be an integer.*beam_size='4'"),
        ({"beam_size": None}, "beam_size must be an integer.*beam_size=None"),
        ({"beam_size": np.array([1, 2])}, "beam_size must be an integer"),
        ({"beam_size": np.array([2])}, "beam_size must be an integer"),
        ({"num_hypotheses": 0}, "num_hypotheses must be an integer.*num_hypotheses=0"),
        ({"num_hypotheses": 2}, "num_hypotheses must be at most beam_size.*=2, beam_size=1"),
        ({"beam_size": 3, "num_hypotheses": 4}, "at most beam_size.*=4, beam_size=3"),
        ({"length_penalty": float("nan")}, "length_penalty must be a number.*nan"),
        ({"length_penalty": float("inf")}, "length_penalty must be a number.*inf"),
        ({"length_penalty": 10**400}, "length_penalty must be a number"),
        ({"length_penalty": 10.5}, "length_penalty must be a number from 0 to 10;.*10.5"),
        ({"length_penalty": -0.5}, "length_penalty must be a number.*-0.5"),
        ({"length_penalty": True}, "length_penalty must be a number.*True"),
        ({"length_penalty": np.True_}, "length_penalty must be a number.*True"),
        ({"length_penalty": None}, "length_penalty must be a number.*None"),
        ({"length_penalty": "x"}, "length_penalty must be a number.*'x'"),
        ({"max_decoding_length": 0}, "max_decoding_length must be an integer.*None.*=0"),
        ({"max_decoding_length": -2}, "max_decoding_length must be an integer.*=-2"),
        ({"max_decoding_length": 2.5}, "max_decoding_length must be an integer.*=2.5"),
        ({"max_decoding_length": True}, "max_decoding_length must be an integer.*=True"),
        ({"max_decoding_length": 2**31}, "max_decoding_length must be an integer"),
        ({"min_decoding_length": 0}, "min_decoding_length must be an integer.*None.*=0"),
        ({"min_decoding_length": -1}, "min_decoding_length must be an integer.*=-1"),
        ({"min_decoding_length": "2"}, "min_decoding_length must be an integer.*='2'"),
        ({"min_decoding_length": 2**31}, "min_decoding_length must be an integer"),
        (
            {"min_decoding_length": 5, "max_decoding_length": 4},
            "min_decoding_length must be at most max.*min_decoding_length=5, max_decoding_length=4",
        ),
        ({"early_stopping": 1}, "early_stopping must be True or False.*early_stopping=1"),
        ({"early_stopping": None}, "early_stopping must be True or False.*None"),
        ({"early_stopping": "no"}, "early_stopping must be True or False.*'no'"),
    ],
)
def test_what_no_search_can_honour_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        SearchOptions(**options)


@pytest.mark.parametrize(
    ("options", "stored", "numbers"),
    [
        ((), (1, 1, 0.6, None, None, True), (1, 1, np.float32(0.6), 0, 0, True)),
        (
            (1, 1, np.float32(0.25), np.int64(7)),
            (1, 1, 0.25, 7, None, True),
            (1, 1, 0.25, 7, 0, True),
        ),
        (
            (np.int32(4), np.uint8(2), 0, None, np.int16(3)),
            (4, 2, 0, None, 3, True),
            (4, 2, 0, 0, 3, True),
        ),
        (
            (1, 1, 10, 2**31 - 1, 1, False),
            (1, 1, 10, 2**31 - 1, 1, False),
            (1, 1, 10, 2**31 - 1, 1, False),
        ),
        ((5, 5, 1, 4, 4), (5, 5, 1, 4, 4, True), (5, 5, 1, 4, 4, True)),
        ((np.array(3), 2), (3, 2, 0.6, None, None, True), (3, 2, np.float32(0.6), 0, 0, True)),
    ],
)
def test_what_it_can_honour_is_kept_also_from_numpy_scalars(options, stored, numbers):
    kept = SearchOptions(*options)
    assert tuple(vars(kept).values()) == stored
    assert kept.numbers() == numbers


def test_options_become_numbers_of_fixed_types_in_their_order():
    options = SearchOptions(5, 2, 0.25, None, None, early_stopping=False)
    assert list(asdict(options)) == [
        "beam_size", "num_hypotheses", "length_penalty", "max_decoding_length",
        "min_decoding_length", "early_stopping",
    ]  # fmt: skip
    numbers = options.numbers()
    assert numbers == (5, 2, 0.25, 0, 0, False)
    types = [np.asarray(number).dtype.name for number in numbers]
    assert types == ["int32", "int32", "float32", "int32", "int32", "bool"]
    assert SearchOptions(1, 1, 0, 7, 3).numbers() == (1, 1, 0, 7, 3, True)


def test_a_beam_fits_a_vocabulary_that_is_as_large():
    SearchOptions(5).check_fit(5)
    with pytest.raises(ValueError, match="at most the target vocabulary's size, 4.*beam_size=5"):
        SearchOptions(5).check_fit(4)


CONFIG = SimpleNamespace(target_vocab_size=10, banned_ids=(0, 2), eos_id=3)


def test_prefixes_are_lists_of_ints_one_for_each_text():
    assert prefix_rows(None, 3, CONFIG) == [[], [], []]
    assert prefix_rows([[4], (), np.array([9, 1])], 3, CONFIG) == [[4], [], [9, 1]]
    assert prefix_rows(np.array([[4, 5], [6, 7]]), 2, CONFIG) == [[4, 5], [6, 7]]
    assert prefix_rows([], 0, CONFIG) == []
    rows = prefix_rows([[np.int64(4)]], 1, CONFIG)
    assert type(rows[0][0]) is int


@pytest.mark.parametrize(
    ("prefix", "message"),
    [
        ([[4]], "a row for each text.*1 rows for 2 texts"),
        ([[4], [0]], r"target_prefix\[1\] must hold.*below 10.*Received: 0"),
        ([[4, 2], []], r"target_prefix\[0\].*Received: 2"),
        ([[], [3]], r"target_prefix\[1\].*Received: 3"),
        ([[10], []], r"target_prefix\[0\].*Received: 10"),
        ([[-1], []], r"target_prefix\[0\].*Received: -1"),
        ([[4.0], []], r"target_prefix\[0\].*Received: 4.0"),
        ([[True], []], r"target_prefix\[0\].*Received: True"),
        ([[None], []], r"target_prefix\[0\].*Received: None"),
        (["45", []], r"target_prefix\[0\].*Received: '4'"),
        ([4, 5], r"target_prefix\[0\] must be a list of target ids.*Received: 4"),
        (np.array([[4.0], [5.0]]), r"target_prefix\[0\].*4.0"),
        (5, "target_prefix must have a row for each text.*Received: 5"),
    ],
)
def test_a_prefix_that_no_output_can_have_is_refused(prefix, message):
    with pytest.raises(ValueError, match=message):
        prefix_rows(prefix, 2, CONFIG)


def test_chunks_hold_no_more_than_they_yield():
    taken = []
    lines = (taken.append(i) or str(i) for i in itertools.count())
    assert next(in_chunks(lines, 3)) == ["0", "1", "2"]
    assert taken == [0, 1, 2]
    assert list(in_chunks(["a", "b", "c"], 2)) == [["a", "b"], ["c"]]


def test_bad_chunks_are_refused():
    with pytest.raises(ValueError, match="chunk_size must be an integer"):
        next(in_chunks(["a"], 0))
    with pytest.raises(ValueError, match="lines must be several texts"):
        next(in_chunks("abc", 2))
    with pytest.raises(ValueError, match="batch_size must be an integer"):
        check_count("batch_size", -1)
