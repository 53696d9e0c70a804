import io
import math
import os
import re
import signal
from dataclasses import dataclass

import keras
import numpy as np
import pytest
from rich.console import Console
from tiny_models import source_ids, target_ids, tiny_model

from keras_transformer.data.batching import Statistics
from keras_transformer.training.averaging import AverageLast
from keras_transformer.training.best import Best
from keras_transformer.training.callbacks import (
    CosineToTheEnd,
    KeepCheckpoints,
    ProgressLine,
    StopAt,
)
from keras_transformer.training.checkpoints import restore_checkpoint
from keras_transformer.training.distribution import Place
from keras_transformer.training.losses import SmoothedCrossEntropy
from keras_transformer.training.metrics import TokenAccuracy


class Stream:
    """In place of a `BatchStream`: a quarter of its positions is padding."""

    @staticmethod
    def statistics():
        return Statistics(batches=1, pairs=1, source_tokens=2, target_tokens=1, positions=4)


@pytest.fixture
def model():
    """Any Keras model: only the progress line needs a `Transformer`."""
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    model.compile(keras.optimizers.Adam(0.01), "mse", run_eagerly=True)
    return model


@pytest.fixture
def transformer():
    model = tiny_model()
    model.compile(
        keras.optimizers.Adam(0.01),
        SmoothedCrossEntropy(0.1),
        metrics=[TokenAccuracy()],
        run_eagerly=True,
    )
    return model


def fit(model, callbacks, epochs=3, steps=4, validation=False):
    """Fit on `steps` batches of one row an epoch; returns the number of steps that were made."""
    if hasattr(model, "config"):
        inputs = source_ids(model.config, (4,) * steps), target_ids(model.config, (3,) * steps)
        outputs = np.roll(inputs[1], -1, axis=1)
    else:
        inputs, outputs = np.ones((steps, 3)), np.ones((steps, 2))
    data = (inputs, outputs) if validation else None
    model.fit(
        inputs, outputs, batch_size=1, epochs=epochs, validation_data=data, verbose=0,
        callbacks=callbacks,
    )  # fmt: skip
    return int(model.optimizer.iterations)


class At(keras.callbacks.Callback):
    """Calls a function after the given number of steps."""

    def __init__(self, step, function):
        super().__init__()
        self.left, self.function = step, function

    def on_train_batch_end(self, batch, logs=None):
        self.left -= 1
        if self.left == 0:
            self.function()


def test_training_ends_at_the_step_even_inside_an_epoch(model):
    stop = StopAt(max_steps=6)
    assert fit(model, [stop]) == 6
    assert stop.reason == "steps"
    again = StopAt(max_steps=7)  # the optimizer remembers the six
    assert fit(model, [again]) == 7


def test_training_ends_after_the_time_with_that_of_earlier_sessions_counted(model):
    stop = StopAt(max_steps=100, max_minutes=1, seconds_before=59.999)
    assert fit(model, [stop]) < 12
    assert stop.reason == "time"
    assert 60 <= stop.seconds < 120


def test_steps_of_a_resumed_run_are_counted_from_where_it_stood(model, tmp_path):
    # loss scaling skips updates, which the optimizer then does not count
    stop = StopAt(max_steps=6, step=3)
    assert fit(model, [stop, KeepCheckpoints(tmp_path, stop)]) == 3
    assert (stop.reason, stop.step) == ("steps", 6)
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-000000006.npz"]


@dataclass(frozen=True)
class TwoProcesses(Place):
    """This process is the second of two; `seconds` is the clock of the first."""

    index: int = 1
    processes: int = 2
    seconds: float = 0.0
    interrupted: bool = False  # the first process

    def agree(self, seconds, interrupted):
        return self.seconds, interrupted or self.interrupted


def test_another_process_follows_the_clock_of_the_first_and_writes_nothing(model, tmp_path):
    place = TwoProcesses(seconds=60.0)
    stop = StopAt(max_steps=100, max_minutes=1, place=place)
    cosine = CosineToTheEnd(stop, peak=0.1, warmup_steps=1)
    keep = KeepCheckpoints(tmp_path, stop, place=place)
    assert fit(model, [stop, cosine, keep], validation=True) == 1
    assert stop.reason == "time"
    assert keep.best is not None
    assert float(model.optimizer.learning_rate) < 1e-6
    assert not any(tmp_path.iterdir())


def test_ctrl_c_in_one_process_ends_all_at_the_same_step(model):
    stop = StopAt(max_steps=100, place=TwoProcesses(interrupted=True))
    assert fit(model, [stop]) == 1
    assert stop.reason == "interrupt"


def test_nothing_to_stop_for(model):
    stop = StopAt(max_steps=100, max_minutes=9)
    assert fit(model, [stop], epochs=1) == 4
    assert stop.reason is None


def test_the_first_ctrl_c_ends_training_after_the_step_and_saves(model, tmp_path):
    handler = signal.getsignal(signal.SIGINT)
    stop = StopAt(max_steps=100)
    interrupt = At(2, lambda: os.kill(os.getpid(), signal.SIGINT))
    assert fit(model, [interrupt, stop, KeepCheckpoints(tmp_path, stop)]) == 2
    assert stop.reason == "interrupt"
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-000000002.npz"]
    assert signal.getsignal(signal.SIGINT) is handler


def test_the_evaluation_that_ctrl_c_brings_forward_does_not_use_up_patience(model, tmp_path):
    stop = StopAt(max_steps=100)
    keep = KeepCheckpoints(tmp_path, stop, Best("loss", value=-1.0), patience=3)
    interrupt = At(6, lambda: os.kill(os.getpid(), signal.SIGINT))
    assert fit(model, [interrupt, stop, keep], validation=True) == 6
    assert keep.best == Best("loss", -1.0, waited=1), "that after step 4"


class InValidation(keras.callbacks.Callback):
    """Two impatient presses of Ctrl-C while the model is validated."""

    def on_test_begin(self, logs=None):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)


def test_ctrl_c_twice_during_validation_saves_and_makes_no_further_step(model, tmp_path):
    handler = signal.getsignal(signal.SIGINT)
    stop = StopAt(max_steps=100)
    callbacks = [stop, KeepCheckpoints(tmp_path, stop), InValidation()]
    assert fit(model, callbacks, validation=True) == 4
    assert stop.reason == "interrupt"
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-000000004.npz"]
    assert signal.getsignal(signal.SIGINT) is handler


def test_the_third_ctrl_c_ends_it_at_once(model):
    before = signal.getsignal(signal.SIGINT)
    # a shell starts what runs in its background without this handler
    signal.signal(signal.SIGINT, signal.default_int_handler)

    def thrice():
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGINT)

    try:
        with pytest.raises(KeyboardInterrupt):
            fit(model, [At(2, thrice), StopAt(max_steps=100)])
    finally:
        signal.signal(signal.SIGINT, before)


def test_the_cosine_warms_up_and_ends_at_zero_with_the_last_step(model):
    rates = []
    stop = StopAt(max_steps=8)
    cosine = CosineToTheEnd(stop, peak=0.1, warmup_steps=2)
    record = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: rates.append(float(model.optimizer.learning_rate))
    )
    fit(model, [stop, cosine, record], epochs=2)
    expected = [
        0.1 * min(1, step / 2) * (1 + math.cos(math.pi * step / 8)) / 2 for step in range(1, 9)
    ]
    np.testing.assert_allclose(rates, expected, rtol=1e-4, atol=1e-7)


def test_the_cosine_ends_at_zero_with_the_last_minute(model):
    stop = StopAt(max_steps=10**6, max_minutes=1, seconds_before=59.999)
    fit(model, [CosineToTheEnd(stop, peak=0.1, warmup_steps=1), stop])
    assert float(model.optimizer.learning_rate) < 1e-6


def test_best_keras_is_the_model_with_the_lowest_validation_loss(model, tmp_path):
    stop = StopAt(max_steps=100)
    keep = KeepCheckpoints(tmp_path, stop, Best("loss", 3.0))
    keep.set_model(model)
    stop.set_model(model)
    first = model.get_weights()
    for epoch, loss in enumerate((2.0, 2.5, None)):
        keep.on_epoch_end(epoch, {} if loss is None else {"val_loss": loss})
        for weight in model.weights:
            weight.assign(weight.numpy() + 1)
    assert keep.best.value == 2.0
    best = keras.saving.load_model(tmp_path / "best.keras")
    for one, other in zip(best.get_weights(), first, strict=True):
        np.testing.assert_array_equal(one, other)
    assert getattr(best, "optimizer", None) is None
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_a_loss_that_is_not_a_number_ends_training_and_keeps_the_last_checkpoint(model, tmp_path):
    keep = KeepCheckpoints(tmp_path, StopAt(max_steps=9))
    keep.set_model(model)
    keep.on_epoch_end(0, {"loss": 2.0, "val_loss": 2.0})
    before = {path: path.read_bytes() for path in (tmp_path / "checkpoints").iterdir()}
    for logs in ({"loss": float("nan")}, {"loss": 1.0, "val_loss": float("inf")}):
        with pytest.raises(ValueError, match="not a number.*Lower training.peak_learning_rate"):
            keep.on_epoch_end(1, logs)
    assert {path: path.read_bytes() for path in (tmp_path / "checkpoints").iterdir()} == before


def test_the_step_whose_loss_is_not_a_number_is_named_at_once(model, tmp_path):
    stop = StopAt(max_steps=100)

    def spoil():
        model.weights[0].assign(np.full((3, 2), np.nan))

    keep = KeepCheckpoints(tmp_path, stop)
    with pytest.raises(ValueError, match=r"not a number at step 7; .*step-000000004.npz"):
        fit(model, [At(6, spoil), stop, keep], epochs=3, steps=4)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-000000004.npz"]


def test_a_loss_above_the_best_of_earlier_sessions_is_not_kept(model, tmp_path):
    keep = KeepCheckpoints(tmp_path, StopAt(max_steps=9), Best("loss", 1.0))
    keep.set_model(model)
    keep.on_epoch_end(0, {"val_loss": 1.5})
    assert keep.best.value == 1.0
    assert not (tmp_path / "best.keras").exists()


@pytest.mark.parametrize(
    ("own", "averaged", "kept"), [(0.9, 0.8, 7.0), (0.8, 0.9, None), (1.1, 1.2, "nothing")]
)
def test_the_better_of_the_weights_and_their_mean_is_kept(model, tmp_path, own, averaged, kept):
    average = AverageLast(tmp_path / "snapshots", 2, validation=None)
    average.weights = [np.full_like(array, 7.0) for array in model.get_weights()]
    keep = KeepCheckpoints(tmp_path, StopAt(max_steps=9), Best("loss", 1.0), average=average)
    keep.set_model(model)
    keep.on_epoch_end(0, {"val_loss": own, "val_averaged_loss": averaged})
    assert keep.best.value == min(own, averaged, 1.0)
    if kept == "nothing":
        assert not (tmp_path / "best.keras").exists()
        return
    found = keras.saving.load_model(tmp_path / "best.keras").get_weights()
    for array, trained in zip(found, model.get_weights(), strict=True):
        np.testing.assert_array_equal(array, trained if kept is None else 7.0)


@pytest.mark.parametrize(
    ("metric", "second_is_better"), [("loss", False), ("bleu", True), ("wer", False)]
)
def test_the_best_model_is_that_of_the_metric_though_its_loss_is_worse(
    model, tmp_path, metric, second_is_better
):
    keep = KeepCheckpoints(tmp_path, StopAt(max_steps=9), Best(metric))
    keep.set_model(model)
    first = model.get_weights()
    keep.on_epoch_end(0, {"val_loss": 2.0, "val_bleu": 10.0, "val_wer": 10.0})
    model.set_weights([array + 1 for array in first])
    keep.on_epoch_end(1, {"val_loss": 3.0, "val_bleu": 20.0, "val_wer": 20.0})
    best = keras.saving.load_model(tmp_path / "best.keras").get_weights()
    for array, expected in zip(best, first, strict=True):
        np.testing.assert_array_equal(array, expected + second_is_better)


def test_patience_ends_training_at_the_evaluation_and_a_checkpoint_remembers(model, tmp_path):
    stop = StopAt(max_steps=100)
    keep = KeepCheckpoints(tmp_path, stop, Best("bleu"), patience=2)
    values = iter([10.0, 12.0, 11.0, 12.0, 99.0])

    class Script(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            logs["val_bleu"] = next(values)

    assert fit(model, [stop, Script(), keep], epochs=9, steps=1) == 4
    assert stop.reason == "patience"
    assert keep.best == Best("bleu", 12.0, waited=2)
    progress, _ = restore_checkpoint(tmp_path / "checkpoints", model)
    assert (progress.best_by, progress.best, progress.waited) == ("bleu", 12.0, 2)


@pytest.mark.parametrize("terminal", [False, True])
def test_progress_is_one_line_an_epoch_that_a_person_can_read(transformer, terminal):
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=terminal, width=100, color_system=None)
    stop = StopAt(max_steps=6, max_minutes=8)
    fit(transformer, [stop, ProgressLine(stop, console, Stream)], steps=2, validation=True)
    text = re.sub(r"\x1b\[[\d;?]*[A-Za-z]|\r", "", screen.getvalue())  # without cursor movements
    numbers = r"loss \d\.\d{3}  validation \d\.\d{3}  token accuracy [\d.]+ %"
    for step in (2, 4, 6):
        assert re.search(rf"  0:\d\d of 8:00  step {step}  {numbers}\n", text)
    if terminal:
        assert re.search(r"step 1/6  loss \d\.\d{3}  [\d,]+ target tokens/s, 25 % padding", text)
    else:
        assert len(text.splitlines()) == 3


LOGS = {"loss": 11.3333, "val_loss": 12.3333, "val_token_accuracy": 0.98765}
MEAN = {"val_averaged_loss": 11.0}
QUALITY = {"val_bleu": 24.94, "val_exact_match": 3.25}
AVERAGED = MEAN | {"val_averaged_bleu": 25.06, "val_averaged_exact_match": 4.0}


@pytest.mark.parametrize(
    ("metric", "logs", "minutes", "end"),
    [
        ("loss", {}, None, "validation 12.333  token accuracy 98.8 %"),
        ("loss", MEAN, None, "validation 12.333  averaged 11.000"),
        ("bleu", QUALITY, None, "validation 12.333  BLEU 24.9"),
        ("bleu", QUALITY | AVERAGED, None, "validation 12.333  BLEU 24.9  averaged 25.1"),
        ("bleu", QUALITY | AVERAGED, 600, "validation 12.333  BLEU 24.9"),
        ("exact_match", QUALITY | AVERAGED, 9, "validation 12.333  exact match 3.2"),
    ],
)
def test_the_line_of_an_epoch_has_what_matters_most_in_80_columns(
    model, metric, logs, minutes, end
):
    screen = io.StringIO()
    stop = StopAt(max_steps=10**6, max_minutes=minutes)
    progress = ProgressLine(stop, Console(file=screen, width=200), Stream, metric)
    for callback in (stop, progress):
        callback.set_model(model)
    stop.step = 11_000
    progress.on_epoch_end(0, LOGS | logs)
    [line] = screen.getvalue().splitlines()
    assert line.endswith(f"step 11,000  loss 11.333  {end}")
    assert len(line) <= 80


def test_progress_without_validation_says_only_the_loss(transformer):
    screen = io.StringIO()
    stop = StopAt(max_steps=100)
    fit(
        transformer,
        [stop, ProgressLine(stop, Console(file=screen, width=100), Stream)],
        epochs=1,
        steps=1,
    )
    assert "loss" in screen.getvalue()
    assert "validation" not in screen.getvalue()
    assert " of " not in screen.getvalue()
