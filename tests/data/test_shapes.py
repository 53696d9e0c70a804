"""Which shapes batches have, and how pairs are dealt into them."""

import itertools

import numpy as np
import pytest

from keras_transformer.data.shapes import (
    Shape,
    assign,
    choose_shapes,
    fill,
    make_shape,
    merge_leftovers,
)


def lengths(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    source = generator.gamma(4, 4, count).astype(int) + 1
    return source, np.maximum(1, source + generator.integers(-3, 4, count))


def positions(shapes: list[Shape], source: np.ndarray, target: np.ndarray) -> int:
    return sum(shapes[i].source + shapes[i].target for i in assign(shapes, source, target))


def test_rows_fill_the_token_budget():
    assert make_shape(10, 20, 100) == Shape(5, 10, 20)
    assert make_shape(30, 20, 100) == Shape(3, 30, 20)
    assert make_shape(300, 20, 100) == Shape(1, 300, 20)


def test_two_lengths_and_two_shapes_leave_no_padding():
    source = np.array([3] * 50 + [10] * 50)
    target = np.array([4] * 50 + [9] * 50)
    shapes = choose_shapes(source, target, 50, 2)
    assert shapes == [Shape(12, 3, 4), Shape(5, 10, 9)]


def test_few_shapes_are_as_good_as_any_that_can_be_tried():
    source, target = lengths(300)
    source, target = np.minimum(source, 8), np.minimum(target, 8)
    best = min(
        positions([Shape(1, *corner), Shape(1, 8, 8)], source, target)
        for corner in itertools.product(range(1, 9), repeat=2)
    )
    assert positions(choose_shapes(source, target, 8, 2), source, target) == best


@pytest.mark.parametrize("num_shapes", [1, 3, 8, 16])
def test_at_most_so_many_shapes_cover_every_pair(num_shapes):
    source, target = lengths(3000)
    shapes = choose_shapes(source, target, 1024, num_shapes)
    assert len(shapes) <= num_shapes
    assert shapes == sorted(shapes, key=lambda s: s.source + s.target)
    assigned = assign(shapes, source, target)
    assert assigned.min() >= 0
    for index, s, t in zip(assigned, source, target, strict=True):
        assert s <= shapes[index].source
        assert t <= shapes[index].target
    assert all(s.rows * max(s.source, s.target) <= 1024 for s in shapes)


def test_more_shapes_waste_less():
    source, target = lengths(20_000)
    real = (source + target).sum()
    waste = [
        1 - real / positions(choose_shapes(source, target, 4096, n), source, target)
        for n in (1, 2, 4, 8, 16)
    ]
    assert waste == sorted(waste, reverse=True)
    assert waste[0] > 0.5
    assert waste[-1] < 0.13


def test_a_handful_of_pairs_does_not_get_many_shapes():
    source, target = lengths(20)
    assert len(choose_shapes(source, target, 4096, 16)) <= 2


def test_lengths_far_apart_are_searched_quickly():
    source = np.arange(1, 5001)
    assert len(choose_shapes(source, source[::-1].copy(), 8192, 4)) <= 4


def test_every_pair_is_dealt_once_and_short_batches_are_few():
    source, target = lengths(5000)
    shapes = choose_shapes(source, target, 1024, 8)
    batches = fill(shapes, assign(shapes, source, target))
    dealt = np.concatenate([members for _, members in batches])
    assert sorted(dealt) == list(range(5000))
    for index, members in batches:
        assert source[members].max() <= shapes[index].source
        assert target[members].max() <= shapes[index].target
    assert sum(len(members) < shapes[index].rows for index, members in batches) <= 3


def test_leftovers_fill_the_free_rows_of_larger_shapes():
    shapes = [Shape(10, 2, 2), Shape(8, 9, 3), Shape(4, 9, 9)]
    leftovers = [np.array([0, 1]), np.array([2]), np.array([3])]
    batches = merge_leftovers(shapes, leftovers)
    assert [(index, members.tolist()) for index, members in batches] == [(2, [3, 2, 0, 1])]


def test_leftovers_never_go_where_they_do_not_fit():
    shapes = [Shape(9, 9, 2), Shape(8, 3, 9)]
    batches = merge_leftovers(shapes, [np.array([0]), np.array([1])])
    assert [(index, members.tolist()) for index, members in batches] == [(1, [1]), (0, [0])]
