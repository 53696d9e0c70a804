"""Checkpoints of a training run: one file each, whole or not there at all.

Keras's own saves are not atomic and leave out the state of the dropout generators, so that a
resumed run could not equal an uninterrupted one.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from keras_transformer.files import replacing

KEPT = 2


@dataclass(frozen=True)
class Progress:
    """Where a run stands, beside its variables."""

    step: int
    seconds: float
    best: float | None


def state_variables(model: Any) -> list[Any]:
    """Return every variable that a step changes: weights, dropout seeds, optimizer."""
    metrics = {id(v) for v in model.metrics_variables}
    return [v for v in model.variables if id(v) not in metrics] + list(model.optimizer.variables)


def save_checkpoint(folder: Path, model: Any, progress: Progress) -> Path:
    """Write `step-N.npz` into `folder` and drop all but the newest two.

    Raises:
        OSError: the disk is full or the folder not writable; earlier checkpoints stay.
    """
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {f"{i:05d}": np.asarray(variable) for i, variable in enumerate(state_variables(model))}
    arrays["progress"] = np.frombuffer(json.dumps(asdict(progress)).encode(), "uint8")
    path = folder / f"step-{progress.step:09d}.npz"
    with replacing(path) as aside:
        np.savez(aside, allow_pickle=False, **arrays)
    for old in _newest_first(folder)[KEPT:]:
        old.unlink()
    return path


def restore_checkpoint(folder: Path, model: Any) -> tuple[Progress | None, list[str]]:
    """Load the newest whole checkpoint into a built and compiled model.

    Returns:
        The `Progress` (None where there is no checkpoint), and a sentence for each damaged
        checkpoint that was passed over.

    Raises:
        ValueError: the checkpoint is of another architecture, or all are damaged.
    """
    damaged = []
    for path in _newest_first(folder):
        try:
            with open(path, "rb") as file, np.load(file, allow_pickle=False) as entries:
                arrays = {name: entries[name] for name in entries.files}
            progress = Progress(**json.loads(arrays.pop("progress").tobytes()))
        except Exception as error:  # what reading raises depends on the byte that is damaged
            damaged.append(f"{path} is damaged ({error}); it was passed over.")
            continue
        _assign(path, model, [arrays[name] for name in sorted(arrays)])
        return progress, damaged
    if damaged:
        raise ValueError(
            "No whole checkpoint is left. Remove the folder to train from the start.\n"
            + "\n".join(damaged)
        )
    return None, []


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
