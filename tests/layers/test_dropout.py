import keras
import numpy as np
import pytest

from keras_transformer.layers.dropout import Dropout, keep_mask, mix

pytestmark = pytest.mark.jax


def mix_in_python(bits):
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        bits ^= bits >> shift
        bits = bits * factor % 2**32
    return bits ^ bits >> 16


def mask(seed, shape=(512, 256), rate=0.1):
    return np.asarray(keep_mask(shape, np.array(seed), rate))


def test_mix_is_the_hash_it_says_for_all_sizes_of_numbers():
    numbers = [0, 1, 2, 255, 65535, 0x12345678, 2**31 - 1, 2**31, 2**32 - 1]
    found = np.asarray(mix(np.array(numbers, "uint32"))).tolist()
    assert found == [mix_in_python(number) for number in numbers]
    assert len(set(found)) == len(numbers)


def test_the_mask_is_the_same_on_every_backend():
    assert np.flatnonzero(~mask([7, 3], (4, 10), 0.3)).tolist() == [
        2,
        5,
        9,
        13,
        14,
        17,
        18,
        22,
        27,
        34,
        38,
        39,
    ]


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 0.9])
def test_as_many_entries_are_kept_as_the_rate_says(rate):
    share = np.mean([mask([1, step], rate=rate).mean() for step in range(10)])
    assert abs(share - (1 - rate)) < 4 * np.sqrt(rate * (1 - rate) / (10 * 512 * 256)) + 1e-9


def test_masks_of_other_steps_and_layers_have_nothing_to_do_with_each_other():
    masks = np.array([mask([seed, step]) for seed in range(3) for step in range(12)], "float64")
    flat = masks.reshape(len(masks), -1) - 0.9
    correlation = np.corrcoef(flat)
    np.fill_diagonal(correlation, 0)
    assert np.abs(correlation).max() < 5 / np.sqrt(flat.shape[1])


def test_neighbours_in_a_mask_have_nothing_to_do_with_each_other():
    flat = np.array([mask([5, step]).ravel() for step in range(20)], "float64") - 0.9
    for distance in (1, 2, 3, 4, 8, 32, 255, 256, 257, 1024, 65536):
        shared = (flat[:, distance:] * flat[:, :-distance]).mean() / 0.09
        assert abs(shared) < 5 / np.sqrt(flat[:, distance:].size)


def test_the_mean_stays_and_inference_changes_nothing():
    layer = Dropout(0.3, seed=0)
    x = np.ones((300, 400), "float32")
    dropped = np.asarray(layer(x, training=True))
    assert set(np.unique(dropped)) == {0.0, np.float32(1 / 0.7)}
    assert abs(dropped.mean() - 1) < 0.01
    np.testing.assert_array_equal(layer(x), x)
    assert not np.array_equal(layer(x, training=True), dropped), "each call has its own mask"


@pytest.mark.parametrize("rate", [1, 1.0, -0.1, 2, float("nan")])
def test_a_rate_that_would_drop_everything_or_is_none_is_refused(rate):
    with pytest.raises(ValueError, match=rf"rate must be from 0 to below 1. Received: rate={rate}"):
        Dropout(rate)


def test_equal_seeds_give_equal_masks():
    x = np.ones((5, 6, 7), "float32")
    first, again = (np.asarray(Dropout(0.5, seed=11)(x, training=True)) for _ in range(2))
    np.testing.assert_array_equal(first, again)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_the_type_stays(policy):
    layer = Dropout(0.5, dtype=policy)
    result = layer(np.ones((4, 5), "float32"), training=True)
    assert keras.backend.standardize_dtype(result.dtype) == layer.compute_dtype


def test_gradients_pass_where_entries_were_kept():
    inputs = keras.Input((6,))
    model = keras.Model(inputs, keras.layers.Dense(1, use_bias=False)(Dropout(0.5, seed=3)(inputs)))
    model.compile(keras.optimizers.SGD(1.0), "mse")
    before = model.get_weights()[0]
    model.train_on_batch(np.ones((1, 6), "float32"), np.full((1, 1), 100.0))
    moved = model.get_weights()[0] != before
    kept = np.asarray(keep_mask((1, 6), np.array([3, 0]), 0.5)).ravel()
    np.testing.assert_array_equal(moved.ravel(), kept)
