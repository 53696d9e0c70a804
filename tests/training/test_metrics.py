import math

import keras
import numpy as np
import pytest

from keras_transformer.training.metrics import Perplexity, TokenAccuracy

# Two batches of different sizes; the most probable tokens are given, 0 is padding.
TARGETS = [np.array([[4, 5, 3], [6, 3, 0]]), np.array([[7, 0]])]
CHOSEN = [np.array([[4, 6, 3], [6, 2, 5]]), np.array([[7, 7]])]


def one_hot(ids, size=8, probability=0.5):
    p = np.full((*ids.shape, size), (1 - probability) / (size - 1))
    np.put_along_axis(p, ids[..., None], probability, axis=-1)
    return np.log(p).astype("float32")


def measured(metric):
    for targets, chosen in zip(TARGETS, CHOSEN, strict=True):
        metric.update_state(targets, one_hot(chosen))
    return float(metric.result())


def test_token_accuracy_counts_real_tokens_over_the_epoch():
    assert measured(TokenAccuracy()) == pytest.approx(4 / 6)  # not the mean of 3/5 and 1/1


def test_perplexity_is_the_exponential_of_the_mean_over_the_epoch():
    right, wrong = math.log(2), math.log(14)  # p = 1/2 and (1/2) / 7
    assert measured(Perplexity()) == pytest.approx(math.exp((4 * right + 2 * wrong) / 6), rel=1e-5)


def test_perplexity_of_even_odds_is_the_size_of_the_vocabulary():
    metric = Perplexity()
    metric.update_state(np.array([[3, 4, 5]]), np.zeros((1, 3, 11), "float32"))
    assert float(metric.result()) == pytest.approx(11, rel=1e-5)


def test_another_pad_id_and_sample_weights():
    metric = TokenAccuracy(pad_id=3)
    metric.update_state(TARGETS[0], one_hot(CHOSEN[0]))
    assert float(metric.result()) == pytest.approx(2 / 4)  # 4 right, 5 wrong, 6 right, 0 wrong
    metric = TokenAccuracy()
    metric.update_state(TARGETS[0], one_hot(CHOSEN[0]), sample_weight=np.array([1.0, 0.0]))
    assert float(metric.result()) == pytest.approx(2 / 3)


def test_a_new_epoch_starts_from_nothing():
    metric = Perplexity()
    measured(metric)
    metric.reset_state()
    assert float(metric.result()) == 1.0
    assert measured(metric) == measured(Perplexity())


@pytest.mark.parametrize("kind", [TokenAccuracy, Perplexity])
def test_round_trip(kind):
    metric = kind(pad_id=3, name="mine")
    again = keras.metrics.deserialize(keras.metrics.serialize(metric))
    assert again.get_config() == metric.get_config()
    assert measured(again) == measured(metric)
