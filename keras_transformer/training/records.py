"""What a run writes down about itself: `metrics.csv`, `curve.png`, and for TensorBoard."""

from __future__ import annotations

import importlib.util
import time
from pathlib import Path

import keras
from rich.console import Console

from keras_transformer.backend import install_hint
from keras_transformer.run_folder import RunFolder
from keras_transformer.training.curve import draw_curve

BETWEEN = 60.0  # seconds from one drawing to the next: it takes half of one


class MetricsLog(keras.callbacks.Callback):
    """Writes what is logged at an end of an epoch as a row of a run's `metrics.csv`."""

    def __init__(self, run: RunFolder):
        super().__init__()
        self.run = run

    def on_epoch_end(self, epoch, logs=None):
        self.run.add_metrics({"epoch": epoch, **(logs or {})})


class DrawCurve(keras.callbacks.Callback):
    """Draws a run's `metrics.csv` as `curve.png`: at the end, and now and then before.

    Where matplotlib is not installed it says so, and training goes on.

    Args:
        run: the run folder.
        metric: see `draw_curve`.
        console: where to say it.
    """

    def __init__(self, run: RunFolder, metric: str, console: Console):
        super().__init__()
        self.run = run
        self.metric = metric
        self.possible = importlib.util.find_spec("matplotlib") is not None
        if not self.possible:
            hint = install_hint("train")
            console.print(
                f"No curve.png: it needs matplotlib. {hint}", markup=False, highlight=False
            )

    def on_train_begin(self, logs=None):
        self._drawn = time.monotonic()

    def on_epoch_end(self, epoch, logs=None):
        if time.monotonic() - self._drawn >= BETWEEN:
            self._draw()

    def on_train_end(self, logs=None):
        self._draw()

    def _draw(self):
        metrics = self.run.path / "metrics.csv"
        if self.possible and metrics.exists():
            draw_curve(metrics, self.run.path / "curve.png", self.metric)
        self._drawn = time.monotonic()


class TensorBoardLog(keras.callbacks.TensorBoard):
    """Writes what is logged at an end of an epoch for TensorBoard, against the optimizer's steps.

    Keras's own callback counts epochs, of which a run that was stopped inside one has some twice,
    and writes validation a second time. It stands behind `KeepCheckpoints`, so that nothing is
    written that a run killed meanwhile would write again.
    """

    def __init__(self, folder: Path):
        super().__init__(folder, write_graph=False)

    def on_test_end(self, logs=None):
        """Write nothing: the end of the epoch has the same."""

    def on_epoch_end(self, epoch, logs=None):
        logs = dict(logs or {})
        super().on_epoch_end(logs.pop("step"), logs)


def check_tensorboard() -> None:
    """Find out before training that it is missing.

    Raises:
        ImportError: TensorBoard is not installed.
    """
    if importlib.util.find_spec("tensorboard") is None:
        raise ImportError(
            f"training.tensorboard needs the package tensorboard. {install_hint('tensorboard')}"
        )
