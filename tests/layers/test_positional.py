import math

import numpy as np
import numpy_transformer
import pytest

from keras_transformer.layers import (
    PositionalEmbedding,
    position_shift_matrix,
    rotate,
    sinusoidal_positions,
)
from keras_transformer.layers.positional import LAYOUTS

pytestmark = pytest.mark.jax


def test_values_are_those_of_the_papers_formula():
    encoding = sinusoidal_positions(7, 6)
    assert encoding.shape == (7, 6)
    for position in range(7):
        for i in range(3):
            angle = position / 10000 ** (2 * i / 6)
            assert math.isclose(encoding[position, 2 * i], math.sin(angle), abs_tol=1e-7)
            assert math.isclose(encoding[position, 2 * i + 1], math.cos(angle), abs_tol=1e-7)


def test_halves_has_all_sines_before_all_cosines():
    interleaved = sinusoidal_positions(9, 8)
    halves = sinusoidal_positions(9, 8, layout="halves")
    np.testing.assert_array_equal(halves, interleaved[:, [0, 2, 4, 6, 1, 3, 5, 7]])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shift", [-9, 0, 1, 5, 1000])
def test_a_shift_of_positions_is_a_linear_map(layout, shift):
    matrix = position_shift_matrix(shift, 8, layout)
    encoding = sinusoidal_positions(1100, 8, layout).astype("float64")
    start = max(0, -shift)
    here, there = encoding[start:100], encoding[start + shift : 100 + shift]
    np.testing.assert_allclose(here @ matrix.T, there, atol=1e-6)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(8), atol=1e-12)


def test_shifts_add_up():
    product = position_shift_matrix(3, 6) @ position_shift_matrix(4, 6)
    np.testing.assert_allclose(product, position_shift_matrix(7, 6), atol=1e-12)


@pytest.mark.parametrize("d_model", [2, 128, 1024])
def test_far_positions_are_as_exact_as_near_ones(d_model):
    layer = PositionalEmbedding()
    positions = [*range(300), 1023, 4999, 12345, 65535]
    zeros = np.zeros((1, d_model), "float32")
    found = np.concatenate([layer(zeros[None], step=p)[0] for p in positions])
    angles = np.array(positions)[:, None] * 10000.0 ** (-np.arange(0, d_model, 2) / d_model)
    np.testing.assert_allclose(found[:, ::2], np.sin(angles), atol=1e-6)
    np.testing.assert_allclose(found[:, 1::2], np.cos(angles), atol=1e-6)


@pytest.mark.parametrize("positions", ["sinusoidal", "learned"])
def test_a_part_that_begins_at_a_step_is_that_part_of_the_whole(positions):
    layer = PositionalEmbedding(positions, max_positions=6)
    x = np.random.default_rng(0).normal(size=(3, 6, 4)).astype("float32")
    np.testing.assert_allclose(layer(x[:, 2:], step=2), np.asarray(layer(x))[:, 2:], atol=1e-6)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def test_rotary_of_worked_numbers():
    # a head of size 2 at position 1 is turned by one radian
    turned = np.asarray(rotate(np.array([[[[1.0, 0.0], [1.0, 0.0]]]], "float32"), np.arange(2)))
    np.testing.assert_allclose(turned, [[[[1, 0], [math.cos(1), math.sin(1)]]]], atol=1e-6)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_rotary_turns_each_pair_as_the_cited_equation_does(layout):
    x = normal(2, 3, 7, 8)
    found = np.asarray(rotate(x, np.arange(7), layout))
    for row in range(2):
        for head in range(3):
            expected = numpy_transformer.rotary(x[row, head].astype("float64"), layout)
            np.testing.assert_allclose(found[row, head], expected, atol=1e-5)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_rotary_products_depend_on_the_distance_alone(layout):
    query, key = normal(1, 1, 1, 8), normal(1, 1, 1, 8, seed=1)

    def product(query_position, key_position):
        turned = (
            rotate(query, np.array([query_position]), layout),
            rotate(key, np.array([key_position]), layout),
        )
        return float((np.asarray(turned[0]) * np.asarray(turned[1])).sum())

    for shift in (1, 50, 5000):
        assert math.isclose(product(7 + shift, 3 + shift), product(7, 3), abs_tol=1e-4)
    assert not math.isclose(product(7, 3), product(8, 3), abs_tol=1e-3)


def test_an_odd_head_has_no_pairs():
    with pytest.raises(ValueError, match=r"the size of a head must be even.*=3"):
        rotate(normal(1, 1, 2, 3), np.arange(2))


def test_no_positions_and_one_position():
    assert sinusoidal_positions(0, 4).shape == (0, 4)
    assert sinusoidal_positions(1, 4).tolist() == [[0, 1, 0, 1]]


@pytest.mark.parametrize("layout", ["interleaved", "halves"])
def test_the_layer_adds_the_positions_for_any_length(layout):
    layer = PositionalEmbedding(position_layout=layout)
    for length in (1, 3, 2000):
        x = np.ones((2, length, 6), "float32")
        expected = 1 + sinusoidal_positions(length, 6, layout)
        np.testing.assert_allclose(layer(x), np.stack([expected] * 2), atol=1e-6)


@pytest.mark.parametrize("positions", ["sinusoidal", "learned"])
def test_each_step_is_that_position_of_the_full_pass(positions):
    layer = PositionalEmbedding(positions, max_positions=6)
    x = np.random.default_rng(0).normal(size=(3, 6, 4)).astype("float32")
    full = np.asarray(layer(x))
    steps = [np.asarray(layer.step(x[:, step], step)) for step in range(6)]
    np.testing.assert_allclose(np.stack(steps, axis=1), full, atol=1e-7)


def test_learned_positions_say_their_limit():
    layer = PositionalEmbedding("learned", max_positions=5)
    layer.build((None, None, 4))
    layer(np.zeros((1, 5, 4), "float32"))
    with pytest.raises(ValueError, match=r"at most max_positions=5 tokens"):
        layer(np.zeros((1, 6, 4), "float32"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"length": 3, "d_model": 5}, "d_model must be even.*d_model=5"),
        ({"length": -1, "d_model": 4}, "length must be 0 or more.*length=-1"),
        ({"length": 3, "d_model": 4, "layout": "sines"}, "layout must be one of.*'sines'"),
    ],
)
def test_bad_sizes_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        sinusoidal_positions(**arguments)


def test_the_layer_refuses_what_it_does_not_know():
    with pytest.raises(ValueError, match=r"positions must be .*positions='rotary'"):
        PositionalEmbedding("rotary")
    with pytest.raises(ValueError, match=r"position_layout must be one of .*'sines'"):
        PositionalEmbedding(position_layout="sines")
    with pytest.raises(ValueError, match=r"d_model must be even: .*d_model=5"):
        PositionalEmbedding().build((None, None, 5))


def test_another_number_of_positions_than_vectors_is_refused():
    x = np.ones((1, 2, 3, 4), "float32")
    with pytest.raises(ValueError, match=r"positions must be 3 integers.*shape \(2,\)"):
        rotate(x, np.arange(2))
