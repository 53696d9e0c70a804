import math

import pytest

from keras_transformer.recipe import TrainingConfig
from keras_transformer.training.best import LOWER_IS_BETTER, Best
from keras_transformer.training.quality import METRICS


@pytest.mark.parametrize(
    ("metric", "values", "chosen"),
    [
        ("bleu", [20.0, 19.0, 20.0, 21.5], [0, None, None, 0]),
        ("chrf", [20.0, 19.0, 20.0, 21.5], [0, None, None, 0]),
        ("exact_match", [0.0, 0.0, 10.0], [0, None, 0]),
        ("wer", [90.0, 95.0, 90.0, 80.0], [0, None, None, 0]),
        ("per", [120.0, 95.0, 99.0], [0, 0, None]),
        ("loss", [2.0, 2.5, 1.5], [0, None, 0]),
    ],
)
def test_errors_and_losses_go_down_and_the_other_measures_up(metric, values, chosen):
    best = Best(metric)
    assert [best.judge([value]) for value in values] == chosen


def test_the_better_of_two_models_is_named_and_the_first_among_equals():
    best = Best("bleu", 10.0)
    assert best.judge([11.0, 12.0]) == 1
    assert best.value == 12.0
    assert best.judge([13.0, 13.0]) == 0
    assert best.judge([12.0, 13.0]) is None


def test_what_has_no_value_is_no_evaluation_and_not_a_number_is_never_better():
    best = Best("wer")
    assert best.judge([math.nan]) is None
    assert (best.value, best.waited) == (None, 1)
    assert best.judge([None, None]) is None
    assert best.waited == 1
    assert best.judge([None, 50.0]) == 1
    assert best.waited == 0


def test_patience_is_out_after_so_many_evaluations_without_a_better_one():
    best = Best("loss")
    out = []
    for value in (2.0, 3.0, 1.0, 1.0, 1.5):
        best.judge([value])
        out.append(best.is_out_of(2))
    assert out == [False, False, False, False, True]
    assert not best.is_out_of(None)


def test_the_names_of_a_recipe_are_those_that_are_measured():
    known = TrainingConfig.model_json_schema()["properties"]["best_by"]["enum"]
    assert known == ["loss", *METRICS]
    assert set(known) > LOWER_IS_BETTER
