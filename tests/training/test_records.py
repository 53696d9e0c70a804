import io
import sys

import keras
import numpy as np
import pytest
from rich.console import Console

from keras_transformer.recipe import RunConfig
from keras_transformer.run_folder import RunFolder
from keras_transformer.training import records
from keras_transformer.training.callbacks import StopAt


@pytest.fixture
def run(tmp_path):
    return RunFolder.create(tmp_path / "run", RunConfig(name="mine", data={"kind": "reverse"}))


def fit(callbacks, max_steps=6, model=None):
    """Fit in epochs of four steps until `max_steps`; returns the model, which goes on."""
    if model is None:
        model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
        model.compile(keras.optimizers.SGD(0.25), "mse", run_eagerly=True)
    data = np.ones((4, 1)), np.ones((4, 1))
    epoch = int(model.optimizer.iterations) // 4
    model.fit(
        *data, batch_size=1, initial_epoch=epoch, epochs=9, validation_data=data, verbose=0,
        callbacks=[StopAt(max_steps), *callbacks],
    )  # fmt: skip
    return model


def test_metrics_and_their_curve_are_written(run):
    silent = io.StringIO()
    curve = records.DrawCurve(run, "loss", Console(file=silent))
    fit([records.MetricsLog(run), curve])
    header, *rows = (run.path / "metrics.csv").read_text().splitlines()
    assert header == "epoch,learning_rate,loss,seconds,step,val_loss"
    assert [row.split(",")[:2] for row in rows] == [["0", "0.25"], ["1", "0.25"]]
    assert (run.path / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert silent.getvalue() == ""


def test_the_curve_is_drawn_while_it_trains_but_not_all_the_time(run, monkeypatch):
    drawn = []
    monkeypatch.setattr(records, "draw_curve", lambda *arguments: drawn.append(arguments))
    console = Console(file=io.StringIO())
    fit([records.MetricsLog(run), records.DrawCurve(run, "bleu", console)], 12)
    assert drawn == [(run.path / "metrics.csv", run.path / "curve.png", "bleu")]
    monkeypatch.setattr(records, "BETWEEN", 0.0)
    fit([records.MetricsLog(run), records.DrawCurve(run, "bleu", console)], 12)
    assert len(drawn) == 1 + 3 + 1


def test_without_matplotlib_training_goes_on_and_says_why_there_is_no_curve(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    screen = io.StringIO()
    curve = records.DrawCurve(run, "loss", Console(file=screen, width=200))
    fit([records.MetricsLog(run), curve])
    assert not (run.path / "curve.png").exists()
    assert "No curve.png: it needs matplotlib. Install it" in screen.getvalue()


def test_tensorboard_is_missed_before_training(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(ImportError, match=r"training.tensorboard needs .*\.\[tensorboard\]"):
        records.check_tensorboard()


def test_tensorboard_has_each_evaluation_once_at_its_step_also_when_a_run_goes_on(tmp_path):
    pytest.importorskip("tensorboard", reason="the extra [tensorboard] is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    model = fit([records.TensorBoardLog(tmp_path)], 6)  # ends inside the second epoch
    fit([records.TensorBoardLog(tmp_path)], 10, model)
    found = {}
    for part in ("train", "validation"):
        for file in sorted((tmp_path / part).iterdir()):
            events = EventAccumulator(str(file)).Reload()
            for name in events.Tags()["tensors"]:
                steps = found.setdefault(f"{part}/{name}", [])
                steps += [event.step for event in events.Tensors(name)]
    names = ["train/epoch_learning_rate", "train/epoch_loss", "train/epoch_seconds"]
    assert found == {name: [4, 6, 10] for name in [*names, "validation/epoch_loss"]}
