import math

import numpy as np
import pytest

from keras_transformer.layers import PositionalEmbedding, sinusoidal_positions


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


def test_a_shift_of_positions_is_a_linear_map():
    encoding = sinusoidal_positions(60, 8).astype("float64")
    shift = 5
    rotation = np.zeros((8, 8))
    for i in range(4):
        angle = shift / 10000 ** (2 * i / 8)
        cos, sin = math.cos(angle), math.sin(angle)
        rotation[2 * i : 2 * i + 2, 2 * i : 2 * i + 2] = [[cos, sin], [-sin, cos]]
    np.testing.assert_allclose(encoding[:-shift] @ rotation.T, encoding[shift:], atol=1e-6)


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
    with pytest.raises(ValueError, match=r"d_model must be even .*d_model=5"):
        PositionalEmbedding().build((None, None, 5))
