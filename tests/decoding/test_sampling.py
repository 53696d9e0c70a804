"""What is drawn follows the distribution, and depends on nothing but seed, stream and position."""

import numpy as np
import pytest
from keras import ops

from keras_transformer.decoding.sampling import Sampling
from keras_transformer.decoding.tokens import FORBIDDEN
from keras_transformer.search_options import check_sampling

pytestmark = pytest.mark.jax

PROBABILITIES = np.array([0.4, 0.3, 0.15, 0.1, 0.04, 0.01])
DRAWS = 20_000


def draw(probabilities, step=0, seed=0, temperature=1.0, top_k=0, top_p=1.0, streams=None):
    """Draw once in each of many streams; returns the ids."""
    streams = np.arange(DRAWS) if streams is None else np.asarray(streams)
    with np.errstate(divide="ignore"):
        log_probs = np.maximum(np.log(probabilities), FORBIDDEN).astype("float32")
    sampling = Sampling(
        np.float32(temperature),
        np.int32(top_k),
        np.float32(top_p),
        np.uint32(seed),
        streams.astype("int32"),
    )
    scores = ops.convert_to_tensor(np.tile(log_probs, (len(streams), 1)))
    return np.asarray(sampling(scores, np.int32(step), np.arange(len(streams), dtype="int32")))


def largest_deviation(ids, expected):
    """How many standard deviations the counts are from those expected, at most."""
    expected = np.asarray(expected) / np.sum(expected)
    counts = np.bincount(ids, minlength=len(expected))
    assert not counts[expected == 0].any()
    spread = np.sqrt(DRAWS * expected * (1 - expected))
    return np.max(np.abs(counts - DRAWS * expected)[expected > 0] / spread[expected > 0])


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, PROBABILITIES),
        ({"temperature": 0.5}, PROBABILITIES**2),
        ({"temperature": 2.0}, PROBABILITIES**0.5),
        ({"top_k": 3}, [0.4, 0.3, 0.15, 0, 0, 0]),
        ({"top_p": 0.8}, [0.4, 0.3, 0.15, 0, 0, 0]),  # 0.4 + 0.3 is not yet 0.8
        ({"top_k": 2, "top_p": 0.8}, [0.4, 0.3, 0, 0, 0, 0]),
        ({"top_k": 4, "top_p": 0.5}, [0.4, 0.3, 0, 0, 0, 0]),
        ({"temperature": 0.5, "top_p": 0.6}, [0.16, 0.09, 0, 0, 0, 0]),
        ({"top_k": 100}, PROBABILITIES),
    ],
)
def test_tokens_come_as_often_as_they_are_probable(options, expected):
    for seed, step in ((0, 0), (7, 3)):
        assert largest_deviation(draw(PROBABILITIES, step, seed, **options), expected) < 4.5


def test_a_flat_distribution_over_many_tokens_is_drawn_flat():
    assert largest_deviation(draw(np.full(50, 0.02)), np.full(50, 0.02)) < 4.5


def test_forbidden_tokens_never_come_however_hot():
    probabilities = np.array([0.0, 0.5, 0.0, 0.5])
    assert set(draw(probabilities, temperature=1000.0)) == {1, 3}


def test_the_best_token_always_comes_where_one_is_left():
    assert set(draw(PROBABILITIES, top_k=1)) == {0}
    assert set(draw(PROBABILITIES, top_p=1e-9)) == {0}
    assert set(draw(PROBABILITIES, temperature=1e-3)) == {0}


def test_seed_stream_and_position_each_change_what_is_drawn():
    flat = np.full(6, 1 / 6)
    first = draw(flat)
    np.testing.assert_array_equal(first, draw(flat))
    for other in (
        draw(flat, seed=1),
        draw(flat, step=1),
        draw(flat, streams=np.arange(DRAWS) + DRAWS),
    ):
        assert np.mean(first == other) == pytest.approx(1 / 6, abs=0.015)  # no more than chance


def test_a_stream_draws_alike_in_any_batch():
    flat = np.full(6, 1 / 6)
    whole = draw(flat)
    np.testing.assert_array_equal(draw(flat, streams=[5, 17, 123]), whole[[5, 17, 123]])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_samples": 0}, "num_samples must be an integer from 1"),
        ({"temperature": 0}, "temperature must be a number above 0 .* use translate"),
        ({"temperature": float("nan")}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"top_p": 0.0}, "top_p must be a number above 0 and at most 1"),
        ({"top_p": 1.5}, "top_p"),
        ({"top_k": -1}, "top_k must be an integer from 0"),
        ({"top_k": 1.5}, "top_k"),
        ({"top_k": np.True_}, "top_k must be an integer from 0"),
        ({"top_k": np.array([1, 2])}, "top_k must be an integer from 0"),
        ({"seed": -1}, "seed must be an integer from 0"),
    ],
)
def test_numbers_out_of_range_are_refused(changes, message):
    values = {"num_samples": 1, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "seed": 0}
    with pytest.raises(ValueError, match=message):
        check_sampling(**{**values, **changes})
