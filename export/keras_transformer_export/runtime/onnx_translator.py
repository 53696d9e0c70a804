"""Texts in, hypotheses out, where only ONNX Runtime is installed."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from keras_transformer.search_options import check_count
from keras_transformer_export.bundle import METADATA_KEY, BundleError, Description
from keras_transformer_export.outputs import Outputs
from keras_transformer_export.runtime.onnx_sessions import (
    Device,
    Sessions,
    first_line,
    usable_cores,
)
from keras_transformer_export.runtime.text_translator import Request, TextTranslator


class Opened(NamedTuple):
    """What a translator works with until it is closed; calls that run keep it alive."""

    sessions: Sessions
    workers: ThreadPoolExecutor
    process: int


class OnnxTranslator(TextTranslator):
    """Translates with an exported `model.onnx`; needs no TensorFlow, Keras or SentencePiece.

    One translator may be shared by threads, and goes on in a process that was forked. It is a
    context manager; `close` frees the model.

    On a CPU several texts are shared out among its threads: each translates its own, which is
    faster than all of them working on the small matrices of one batch. A single text gets all
    threads for its larger operators.

    Args:
        path: `model.onnx`, alone or in its bundle, or the folder of a bundle. In a bundle the
            file's hash is checked.
        device: "cpu", "cuda" (an error where it cannot be used), or "auto" (CUDA where it can).
        threads: cores of the CPU to use; None: all that this process may use.

    Raises:
        ValueError: the file is missing, damaged, or not such a model (`BundleError` in a bundle).
        RuntimeError: CUDA was asked for and cannot be used; TensorFlow was imported first.
        ImportError: ONNX Runtime is not installed; the message says which extra brings it.

    Example:
        >>> with OnnxTranslator("exported/model.onnx") as translator:      # doctest: +SKIP
        ...     translator.translate(["hello"])[0][0].text
        'HH AH L OW'
    """

    def __init__(self, path: str | Path, device: Device = "auto", threads: int | None = None):
        if threads is not None:
            check_count("threads", threads, ", or None for all cores that may be used")
        self.path = _file_of(path)
        sessions = Sessions(self.path, device)
        self.threads = threads or usable_cores()
        super().__init__(_describe(self.path, sessions.get(self.threads)))
        self._parts = self.threads if sessions.on_cpu else 1  # that are translated at once
        self._open: Opened | None = self._with_workers(sessions)

    def close(self) -> None:
        """Free the model; translations that are running end as usual."""
        self._open = None

    def _deal(self, parts: list[list[int]]) -> list[list[int]]:
        """Cut batches so that each thread has one; the longest texts come first."""
        pieces = -(-self._parts // max(1, len(parts)))
        return [part[i::pieces] for part in reversed(parts) for i in range(min(pieces, len(part)))]

    def _run_all(self, requests: Sequence[Request]) -> Iterable[Outputs]:
        sessions, workers, _ = self._opened()
        if len(requests) < 2 or not sessions.on_cpu:
            return [self._run(sessions.get(self.threads), *request) for request in requests]
        return workers.map(self._run, repeat(sessions.get(1)), *zip(*requests, strict=True))

    def _opened(self) -> Opened:
        opened = self._open
        if opened is None:
            raise ValueError("The translator must be open. Make a new one: this one was closed.")
        if opened.process != os.getpid():  # forked: the threads stayed with the parent
            opened = self._open = self._with_workers(opened.sessions)
        return opened

    def _with_workers(self, sessions: Sessions) -> Opened:
        return Opened(sessions, ThreadPoolExecutor(self._parts, "translator"), os.getpid())

    def _run(self, session: Any, texts: list[str], inputs: Mapping[str, np.ndarray]) -> Outputs:
        feeds = {"texts": np.array(texts, dtype=object), **inputs}
        try:
            return Outputs(*session.run(list(Outputs._fields), feeds))
        except Exception as error:  # of a class that ONNX Runtime makes for each status
            most = self.description.max_source_ids
            if most is None:
                raise
            raise ValueError(
                f"texts must have at most {most} tokens each, end symbol included: the model's "
                f"positions are learned. Split long texts. Received: {first_line(error)}"
            ) from error


def _file_of(path: str | Path) -> Path:
    path = Path(path)
    return path / "model.onnx" if path.is_dir() else path


def _describe(path: Path, session: Any) -> Description:
    metadata = session.get_modelmeta().custom_metadata_map
    if METADATA_KEY not in metadata:
        raise BundleError(
            f"{path} must be a model that keras-transformer exported. Received: an ONNX file "
            f"without the metadata {METADATA_KEY!r}"
        )
    description = Description.parse(metadata[METADATA_KEY], f"The metadata of {path}")
    inputs = [value.name for value in session.get_inputs()]
    if "texts" not in inputs:
        raise ValueError(
            f"{path} must take texts. Use model.onnx, which has the tokenizers inside. "
            f"Received: a model with the inputs {', '.join(inputs)}"
        )
    return description
