import keras
import numpy as np
import pytest

from keras_transformer.training.schedules import InverseSquareRoot


def rates(schedule, steps):
    return [float(schedule(step)) for step in steps]


def test_warm_up_is_linear_and_decay_is_one_over_the_square_root():
    schedule = InverseSquareRoot(warmup_steps=4, peak=0.1)
    # Keras counts from 0, the paper from 1.
    found = rates(schedule, [0, 1, 3, 15, 63])
    np.testing.assert_allclose(found, [0.025, 0.05, 0.1, 0.05, 0.025], rtol=1e-6)


def test_d_model_gives_the_papers_rate():
    schedule = InverseSquareRoot(warmup_steps=4000, d_model=512)
    for step in (1, 100, 4000, 4001, 100_000):
        expected = 512**-0.5 * min(step**-0.5, step * 4000**-1.5)
        assert float(schedule(step - 1)) == pytest.approx(expected, rel=1e-5)


def test_the_highest_rate_is_the_peak_and_comes_at_the_end_of_the_warm_up():
    found = rates(InverseSquareRoot(warmup_steps=10, peak=0.3), range(50))
    assert max(found) == pytest.approx(0.3)
    assert int(np.argmax(found)) == 9
    assert all(rate > 0 for rate in found)


@pytest.mark.parametrize("options", [{"peak": 0.1}, {"d_model": 64}])
def test_round_trip_inside_an_optimizer(options):
    schedule = InverseSquareRoot(warmup_steps=7, **options)
    optimizer = keras.optimizers.Adam(schedule)
    again = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    found = again._learning_rate
    assert found.get_config() == schedule.get_config()
    assert rates(found, range(20)) == rates(schedule, range(20))


def test_exactly_one_of_peak_and_d_model_is_wanted():
    for wrong in ({}, {"peak": 0.1, "d_model": 8}):
        with pytest.raises(ValueError, match=r"exactly one of peak and d_model"):
            InverseSquareRoot(warmup_steps=4, **wrong)
    with pytest.raises(ValueError, match=r"warmup_steps must be 1 or more.*warmup_steps=0"):
        InverseSquareRoot(warmup_steps=0, peak=0.1)
