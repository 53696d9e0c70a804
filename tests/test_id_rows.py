import numpy as np
import pytest

from keras_transformer.id_rows import batches_by_length, grown_to, pad_rows, rounded_up


def test_rows_are_padded_on_the_right():
    padded = pad_rows([[5, 6, 3], [3], []], 9)
    assert padded.dtype == np.int32
    assert padded.tolist() == [[5, 6, 3], [3, 9, 9], [9, 9, 9]]
    assert pad_rows([], 0).shape == (0, 0)
    assert pad_rows([[], []], 0).shape == (2, 0)


@pytest.mark.parametrize(
    ("size", "smallest", "expected"),
    [(1, 1, 1), (2, 1, 2), (3, 1, 4), (4, 1, 4), (5, 1, 8), (1, 8, 8), (9, 8, 16), (64, 8, 64)],
)
def test_sizes_are_rounded_up_to_powers_of_two(size, smallest, expected):
    assert rounded_up(size, smallest) == expected


@pytest.mark.parametrize(("most", "expected"), [(11, 11), (16, 16), (20, 16), (5, 5)])
def test_what_is_rounded_up_stays_within_what_is_possible(most, expected):
    assert rounded_up(9, most=most) == expected


def test_a_batch_grows_by_pads_and_by_copies_of_its_first_row():
    grown = grown_to(np.array([[5, 3], [6, 7]], "int32"), 4, 3, 9)
    assert grown.dtype == np.int32
    assert grown.tolist() == [[5, 3, 9], [6, 7, 9], [5, 3, 9], [5, 3, 9]]
    same = np.array([[1, 2]], "int32")
    np.testing.assert_array_equal(grown_to(same, 1, 2, 0), same)
    assert grown_to(np.zeros((2, 0), "int32"), 4, 0, 0).shape == (4, 0)


@pytest.mark.parametrize("size", [1, 2, 7, 32, 100])
def test_batches_cover_every_row_once_and_hold_rows_of_similar_length(size):
    lengths = np.random.default_rng(size).integers(1, 30, 50).tolist()
    batches = list(batches_by_length(lengths, size))
    assert all(len(batch) == size for batch in batches[:-1])
    order = np.concatenate(batches)
    assert sorted(order.tolist()) == list(range(50))
    sorted_lengths = np.array(lengths)[order]
    assert (np.diff(sorted_lengths) >= 0).all()
    equal = np.diff(sorted_lengths) == 0
    assert (np.diff(order)[equal] > 0).all(), "rows of one length keep their order"


def test_no_rows_make_no_batches():
    assert list(batches_by_length([], 4)) == []
