"""ONNX files run in a process of their own, where TensorFlow is not: as they will be deployed."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_transformer.backend import load_text_operators
from keras_transformer.files import naming

Arrays = Mapping[str, Any]


def run_apart(path: Path, feeds: Sequence[Arrays]) -> list[dict[str, np.ndarray]]:
    """Run a model once for each of `feeds`, on the CPU.

    Args:
        path: an ONNX file.
        feeds: for each run the inputs by name: arrays, or lists of texts.

    Returns:
        For each run the outputs by name; texts as arrays of str.

    Raises:
        RuntimeError: ONNX Runtime cannot load or run the model, or TensorFlow was imported.
    """
    return run_timed(path, feeds)[0]


def run_timed(path: Path, feeds: Sequence[Arrays]) -> tuple[list[dict[str, np.ndarray]], float]:
    """As `run_apart`, and the seconds of all runs together, without loading.

    Raises:
        RuntimeError: as `run_apart`.
    """
    with tempfile.TemporaryDirectory(prefix="keras_transformer.") as folder, naming(folder):
        questions, answers = Path(folder) / "questions.npz", Path(folder) / "answers.npz"
        _save(questions, feeds)
        command = [sys.executable, "-P", "-m", __name__, str(path), str(questions), str(answers)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        finished = subprocess.run(
            command, env=environment, capture_output=True, text=True, errors="replace", check=False
        )
        if finished.returncode:
            last = finished.stderr.strip().splitlines()[-1:] or [f"status {finished.returncode}"]
            raise RuntimeError(f"ONNX Runtime cannot run {path.name}: {last[0]}")
        with np.load(answers) as arrays:
            seconds = float(arrays["seconds"])
        return _load(answers), seconds


def _save(file: Path, runs: Sequence[Arrays], seconds: float = 0.0) -> None:
    arrays = {
        f"{index}/{name}": _without_objects(np.asarray(value))
        for index, run in enumerate(runs)
        for name, value in run.items()
    }
    numbers = {"count": np.array(len(runs)), "seconds": np.array(seconds)}
    np.savez(file, **numbers, **arrays)  # type: ignore[arg-type]


def _without_objects(array: np.ndarray) -> np.ndarray:
    return array.astype(np.str_) if array.dtype == object else array


def _load(file: Path) -> list[dict[str, np.ndarray]]:
    with np.load(file) as arrays:
        runs: list[dict[str, np.ndarray]] = [{} for _ in range(int(arrays["count"]))]
        for key in arrays.files:
            index, _, name = key.partition("/")
            if name:
                runs[int(index)][name] = arrays[key]
    return runs


def _main(path: str, questions: str, answers: str) -> None:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.register_custom_ops_library(load_text_operators())
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    results = []
    seconds = 0.0
    for feed in _load(Path(questions)):
        inputs = {
            name: value.astype(object) if value.dtype.kind == "U" else value
            for name, value in feed.items()
        }
        started = time.perf_counter()
        outputs = session.run(names, inputs)
        seconds += time.perf_counter() - started
        results.append(dict(zip(names, outputs, strict=True)))
    if "tensorflow" in sys.modules or "keras" in sys.modules:
        raise SystemExit("TensorFlow or Keras was imported, but must not be needed here.")
    _save(Path(answers), results, seconds)


if __name__ == "__main__":
    _main(*sys.argv[1:])
