"""Checkpoints of a training run: one file each, whole or not there at all.

Keras's own saves are not atomic and leave out the state of the dropout generators, so that a
resumed run could not equal an uninterrupted one.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_transformer.array_files import read_arrays, write_arrays
from keras_transformer.files import replacing
from keras_transformer.text.tokenizer import Tokenizer

KEPT = 2


@dataclass(frozen=True)
class Progress:
    """Where a run stands, beside its variables.

    Attributes:
        step: optimizer steps so far.
        seconds: training time so far.
        best: the best value so far of what the run's model is chosen by.
        tokenizers: `fingerprints` of the source and the target tokenizer.
        best_by: what `best` is a value of; checkpoints of older versions have the loss only.
        waited: evaluations since `best`.
    """

    step: int
    seconds: float
    best: float | None
    tokenizers: list[str] | None = None
    best_by: str = "loss"
    waited: int = 0


def fingerprints(source: Tokenizer, target: Tokenizer) -> list[str]:
    """Return the SHA-256 of each tokenizer's model."""
    return [hashlib.sha256(tokenizer.serialized).hexdigest() for tokenizer in (source, target)]


def optimizer_steps(model: Any) -> int:
    """Return the steps that the optimizer counts, on one device or on several."""
    return int(keras.ops.convert_to_numpy(model.optimizer.iterations))


def state_variables(model: Any) -> list[Any]:
    """Return every variable that a step changes: weights, dropout seeds, optimizer."""
    metrics = {id(v) for v in model.metrics_variables}
    return [v for v in model.variables if id(v) not in metrics] + list(model.optimizer.variables)


def save_checkpoint(folder: Path, model: Any, progress: Progress) -> Path:
    """Write `step-N.npz` into `folder` and drop all but the two up to it.

    Later ones are damaged, since training went on before them: they must not count as kept.

    Raises:
        ValueError: a variable is not a number somewhere.
        OSError: the disk is full or the folder not writable; earlier checkpoints stay.
    """
    variables = state_variables(model)
    arrays = {f"{i:05d}": np.asarray(variable) for i, variable in enumerate(variables)}
    for variable, array in zip(variables, arrays.values(), strict=True):
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ValueError(
                f"{variable.path} must be finite numbers. Nothing was saved at step "
                f"{progress.step}; earlier checkpoints stay. Received: NaN or infinity in it"
            )
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"step-{progress.step:09d}.npz"
    write_arrays(path, arrays, asdict(progress))
    others = [other for other in _newest_first(folder) if other != path]
    kept = [other for other in others if other < path][: KEPT - 1]
    for other in others:
        if other not in kept:
            other.unlink()
    return path


def restore_checkpoint(
    folder: Path, model: Any, tokenizers: list[str] | None = None
) -> tuple[Progress | None, list[str]]:
    """Load the newest whole checkpoint into a built and compiled model.

    Args:
        folder: that of the checkpoints.
        model: gets the variables.
        tokenizers: `fingerprints` of those that training would go on with; None: not compared.

    Returns:
        The `Progress` (None where there is no checkpoint), and a sentence for each damaged
        checkpoint that was passed over.

    Raises:
        ValueError: the checkpoint is of another architecture or other tokenizers, or all are
            damaged.
    """
    damaged: list[str] = []
    for path in _newest_first(folder):
        try:
            arrays, about = read_arrays(path)
        except ValueError as error:
            damaged.append(f"{error}; it was passed over.")
            continue
        try:
            progress = Progress(**about)
        except TypeError as error:
            raise ValueError(
                f"{path} must be a checkpoint that this version can read. Resume with the version "
                f"that wrote it, or train into another folder. Received: {error}"
            ) from None
        _check_tokenizers(path, progress.tokenizers, tokenizers)
        _assign(path, model, [arrays[name] for name in sorted(arrays)])
        return progress, damaged
    if damaged:
        raise ValueError(
            "No whole checkpoint is left. Remove the folder to train from the start.\n"
            + "\n".join(damaged)
        )
    return None, []


def save_inference_model(model: Any, path: Path, weights: list[np.ndarray] | None = None) -> None:
    """Save a model for inference, without optimizer and in float32, atomically.

    Args:
        model: the one that is trained, in any precision.
        path: a `.keras` file.
        weights: other weights for it; None: its own.
    """
    copy = type(model).from_config(model.get_config() | {"dtype": "float32"})
    copy.set_weights(model.get_weights() if weights is None else weights)
    with replacing(path) as aside:
        copy.save(aside)


def _check_tokenizers(path: Path, trained: list[str] | None, given: list[str] | None) -> None:
    if trained is None or given is None:
        return
    for side, before, now in zip(("source", "target"), trained, given, strict=True):
        if before != now:
            raise ValueError(
                f"{side}.model must be the tokenizer that {path} was trained with. Put that file "
                "back, or train into another folder. "
                f"Received: SHA-256 {now[:12]}..., expected {before[:12]}..."
            )


def _assign(path: Path, model: Any, arrays: list[np.ndarray]) -> None:
    variables = state_variables(model)
    differing = (
        f"{variable.path} of shape {array.shape}, expected {tuple(variable.shape)}"
        for array, variable in zip(arrays, variables, strict=False)
        if array.shape != tuple(variable.shape)
    )
    first = next(differing, None)
    if first or len(arrays) != len(variables):
        raise ValueError(
            f"{path} must be of the model being trained: its variables differ in number or "
            "shape. Train into another folder, or restore the recipe it was made with. "
            f"Received: {len(arrays)} arrays for {len(variables)} variables"
            + (f"; first {first}" if first else "")
        )
    for array, variable in zip(arrays, variables, strict=True):
        variable.assign(array)


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*.npz"), reverse=True)
