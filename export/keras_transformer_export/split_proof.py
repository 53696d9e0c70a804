"""A plain loop around encoder and decoder step, held to greedy search in Keras."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_transformer.id_rows import pad_rows
from keras_transformer_export.parity import ParityError
from keras_transformer_export.split import DECODER, ENCODER, NEXT

SENTENCES = 16


def prove_split(translator: Any, folder: Path, sentences: Sequence[str]) -> None:
    """Decode some sentences with the two files of a folder.

    Args:
        translator: a `Translator`.
        folder: holds the files.
        sentences: some of them are used, short and long.

    Raises:
        ParityError: the ids are not those of the Keras model.
    """
    config = translator.config
    chosen = sorted(sentences, key=len)[:: max(1, len(sentences) // SENTENCES)]
    rows = [[*row, config.eos_id] for row in translator.source.encode(chosen)]
    source_ids = pad_rows(rows, config.pad_id)
    expected = translator.search(source_ids).ids[:, 0]
    received = decode(folder, source_ids, config, expected.shape[1])
    if not np.array_equal(expected, received):
        raise ParityError(
            f"A loop around {ENCODER} and {DECODER} must give what greedy search in Keras gives. "
            "Report this with the model's configuration. Received: "
            f"{np.sum(np.any(expected != received, axis=1))} other rows of {len(rows)}"
        )


def decode(folder: Path, source_ids: np.ndarray, config: Any, steps: int) -> np.ndarray:
    """Return the ids `[B, steps]` of a greedy loop in NumPy; pads behind the end."""
    import onnxruntime

    def opened(name: str) -> Any:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        return onnxruntime.InferenceSession(folder / name, options, ["CPUExecutionProvider"])

    encoder, decoder = opened(ENCODER), opened(DECODER)
    memory = _run(encoder, {"source_ids": source_ids.astype("int64")})
    cache = {
        value.name: np.zeros(
            [len(source_ids), *(n if isinstance(n, int) else 0 for n in value.shape[1:])], "float32"
        )
        for value in decoder.get_inputs()
        if value.name not in ("ids", "step", *memory)
    }
    last = np.full(len(source_ids), config.start_id)
    finished = np.zeros(len(source_ids), bool)
    columns = []
    for step in range(steps):
        found = _run(decoder, {"ids": last, "step": np.array(step), **memory, **cache})
        cache = {name: found[NEXT + name] for name in cache}
        last = np.where(finished, config.pad_id, found["logits"].argmax(axis=-1))
        finished |= last == config.eos_id
        columns.append(last)
    return np.stack(columns, axis=1)


def _run(session: Any, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, feeds), strict=True))
