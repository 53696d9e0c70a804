"""The mean of several trained models' weights, and of the last few states of one training."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_transformer.array_files import read_arrays, write_arrays
from keras_transformer.training.checkpoints import optimizer_steps
from keras_transformer.training.distribution import ONE, Place
from keras_transformer.training.translation_quality import TranslationQuality

SPARE = 2  # of each generation of checkpoints, so that a run that is resumed finds what it needs


def average_weights(paths: Sequence[str | os.PathLike[str]]) -> list[np.ndarray]:
    """Return the mean of the weights of saved models, for `model.set_weights`.

    The mean of the last few checkpoints of one training is often better than any of them (Vaswani
    et al. 2017, section 6.1). One model is in memory at a time; sums are float64.

    Args:
        paths: `.keras` files of one architecture, as `keras.callbacks.ModelCheckpoint` or a run
            folder has them.

    Returns:
        Arrays in the order and types of `model.get_weights()`.

    Raises:
        ValueError: no paths, a file that cannot be loaded, or weights of other shapes.

    Example:
        >>> model.set_weights(average_weights(["9.keras", "10.keras"]))  # doctest: +SKIP
    """
    if isinstance(paths, str | os.PathLike) or not len(paths):
        raise ValueError(f"paths must be a list of .keras files. Received: paths={paths!r}")
    return _mean((path, _weights(path)) for path in paths)


class AverageLast(keras.callbacks.Callback):
    """Validates the mean of the weights at the last few ends of an epoch as well.

    Adds `val_averaged_loss` to the logs, and with `quality` such as `val_averaged_bleu`, so that
    `KeepCheckpoints`, which is handed this callback, keeps the mean where it is better. Training
    goes on with the weights as they were.

    Args:
        folder: for the snapshots: `step-N.npz`, the weights at the end of an epoch.
        count: how many of the last ones the mean is of, from 1.
        validation: what is evaluated.
        quality: a `TranslationQuality` that stands before this callback, or None.
        place: where training happens; the first of its processes writes.

    Attributes:
        weights: the mean, as `model.get_weights()` has it; None where it is the weights themselves.
    """

    def __init__(
        self,
        folder: Path,
        count: int,
        validation: Any,
        quality: TranslationQuality | None = None,
        place: Place = ONE,
    ):
        super().__init__()
        self.place = place
        self.quality = quality
        self.folder = Path(folder)
        self.count = count
        self.validation = validation
        self.weights: list[np.ndarray] | None = None

    def on_train_begin(self, logs=None):
        step = optimizer_steps(self.model)
        with self.place.first_before_others():
            for path in self._snapshots():
                if path > self._path(step) or not _is_whole(path):
                    path.unlink()  # of a time that a resumed run has yet to see, or damaged

    def on_epoch_end(self, epoch, logs=None):
        logs = {} if logs is None else logs
        trained = self.model.get_weights()
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self._path(optimizer_steps(self.model))
        with self.place.first_before_others():
            if self.place.first:
                write_arrays(path, {f"{i:05d}": array for i, array in enumerate(trained)}, {})
        paths = self._snapshots()
        self.weights = None
        names = ("loss", *(self.quality.metrics if self.quality else ()))
        found = {name: logs.get(f"val_{name}") for name in names}
        last = paths[-self.count :]
        if len(last) > 1:
            self.weights = _mean((path, _snapshot(path)) for path in last)
            self.model.set_weights(self.weights)
            try:
                found = self._measured()
            finally:
                self.model.set_weights(trained)
        logs |= {f"val_averaged_{name}": value for name, value in found.items()}
        for path in paths[: -self.count - SPARE] if self.place.first else ():
            path.unlink()

    def _measured(self) -> dict[str, float]:
        evaluated = self.model.evaluate(self.validation, verbose=0, return_dict=True)
        return {"loss": evaluated["loss"], **(self.quality.measure() if self.quality else {})}

    def _snapshots(self) -> list[Path]:
        return sorted(self.folder.glob("step-*.npz"))

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step:09d}.npz"


def _is_whole(path: Path) -> bool:
    try:
        read_arrays(path)
    except ValueError as error:
        warnings.warn(f"{error}; the mean will be of fewer for a while.", stacklevel=2)
        return False
    return True


def _snapshot(path: Path) -> list[np.ndarray]:
    arrays, _ = read_arrays(path)
    return [arrays[name] for name in sorted(arrays)]


def _mean(models: Iterable[tuple[Any, list[np.ndarray]]]) -> list[np.ndarray]:
    """Return the mean of the arrays of models, each with the path that it is from."""
    models = iter(models)
    start, first = next(models)
    count, sums = 1, [array.astype("float64") for array in first]
    for path, arrays in models:
        if [array.shape for array in arrays] != [array.shape for array in first]:
            raise ValueError(
                "paths must be models of one architecture: their weights differ in number or "
                f"shape. Leave one out. Received: {start} and {path}"
            )
        for total, array in zip(sums, arrays, strict=True):
            total += array
        count += 1
    return [(t / count).astype(a.dtype) for t, a in zip(sums, first, strict=True)]


def _weights(path: str | os.PathLike[str]) -> list[np.ndarray]:
    try:
        return keras.saving.load_model(Path(path), compile=False).get_weights()
    except Exception as error:  # what loading raises depends on what is wrong with the file
        raise ValueError(f"{path} must be a whole .keras file ({error}).") from error
