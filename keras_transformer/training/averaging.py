"""The mean of several trained models' weights."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np


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
    first = _weights(paths[0])
    sums = [array.astype("float64") for array in first]
    for path in paths[1:]:
        arrays = _weights(path)
        if [array.shape for array in arrays] != [array.shape for array in first]:
            raise ValueError(
                "paths must be models of one architecture: their weights differ in number or "
                f"shape. Leave one out. Received: {paths[0]} and {path}"
            )
        for total, array in zip(sums, arrays, strict=True):
            total += array
    return [(t / len(paths)).astype(a.dtype) for t, a in zip(sums, first, strict=True)]


def _weights(path: str | os.PathLike[str]) -> list[np.ndarray]:
    try:
        return keras.saving.load_model(Path(path), compile=False).get_weights()
    except Exception as error:  # what loading raises depends on what is wrong with the file
        raise ValueError(f"{path} must be a whole .keras file ({error}).") from error
