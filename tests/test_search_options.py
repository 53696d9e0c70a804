import itertools

import numpy as np
import pytest

from keras_transformer.search_options import check_count, check_search_options, in_chunks


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beam_size": 4}, "beam_size must be 1.*beam_size=4"),
        ({"beam_size": True}, "beam_size must be 1.*True"),
        ({"num_hypotheses": 0}, "num_hypotheses must be 1.*num_hypotheses=0"),
        ({"length_penalty": float("nan")}, "length_penalty must be a number.*nan"),
        ({"length_penalty": float("inf")}, "length_penalty must be a number.*inf"),
        ({"length_penalty": 10**400}, "length_penalty must be a number"),
        ({"length_penalty": -0.5}, "length_penalty must be a number.*-0.5"),
        ({"length_penalty": "x"}, "length_penalty must be a number.*'x'"),
        ({"max_decoding_length": 0}, "max_decoding_length must be an integer.*=0"),
        ({"max_decoding_length": 2.5}, "max_decoding_length must be an integer.*=2.5"),
        ({"max_decoding_length": True}, "max_decoding_length must be an integer.*=True"),
        ({"max_decoding_length": 2**31}, "max_decoding_length must be an integer"),
    ],
)
def test_what_the_search_cannot_honour_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        check_search_options(**options)


def test_what_it_can_honour_passes_also_as_numpy_scalars():
    for options in ((), (1, 1, np.float32(0.6), np.int64(7)), (1, 1, 0, None)):
        assert check_search_options(*options) is None


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
