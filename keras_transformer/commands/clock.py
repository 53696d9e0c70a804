"""How fast a runtime starts and translates, each in a process of its own.

One process after the other, so that no timing disturbs another, and ONNX Runtime is measured as it
is deployed: where TensorFlow is not loaded.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from keras_transformer import backend

BATCH = 64
PASSES = 2
Translate = Callable[[list[str]], list[str]]


@dataclass(frozen=True)
class Timing:
    """What one process measured.

    Attributes:
        first_answer: seconds from the start of Python to the first translation.
        texts_per_second: of the faster of two passes over all texts, after a warm-up.
        outputs: the translations.
    """

    first_answer: float
    texts_per_second: float
    outputs: list[str]


def measure(runtime: str, path: Path, texts: Sequence[str]) -> Timing:
    """Start a process that translates `texts`, and return what it measured.

    Args:
        runtime: "keras" or "plain" (the whole prefix again for each token) with a run folder,
            "saved_model" with the SavedModel of a bundle, "onnx" with a `model.onnx`.
        path: of the model.
        texts: what to translate, in batches of 64.

    Raises:
        RuntimeError: the process failed; the message is its last line.
    """
    command = [sys.executable, "-P", "-m", __name__, runtime, str(path), str(time.time())]
    finished = subprocess.run(
        command,
        input=json.dumps(list(texts)),
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )
    if finished.returncode:
        last = finished.stderr.strip().splitlines()[-1:] or [f"status {finished.returncode}"]
        raise RuntimeError(f"{path} cannot be run by {runtime}: {last[0]}")
    return Timing(**json.loads(finished.stdout))


def _onnx(path: Path) -> Translate:
    from keras_transformer_export.runtime import OnnxTranslator

    translator = OnnxTranslator(path, device="cpu")
    return lambda texts: [hypotheses[0].text for hypotheses in translator.translate(texts)]


def _keras(path: Path) -> Translate:
    backend.import_tensorflow()
    from keras_transformer.translator import Translator

    translator = Translator.load(path)
    return lambda texts: [hypotheses[0].text for hypotheses in translator.translate(texts)]


def _saved_model(path: Path) -> Translate:
    from keras_transformer_export.runtime import SavedModelTranslator

    translator = SavedModelTranslator(path)
    return lambda texts: [hypotheses[0].text for hypotheses in translator.translate(texts)]


def _plain(path: Path) -> Translate:
    backend.import_tensorflow()
    from keras_transformer.decoding.reference import predict
    from keras_transformer.decoding.scoring import MAX_EXTRA_LENGTH
    from keras_transformer.id_rows import batches_by_length, pad_rows
    from keras_transformer.translator import Translator

    translator = Translator.load(path)
    config = translator.config

    def logits(source_ids: Any, target_in: Any) -> Any:
        return translator.model((source_ids, target_in))

    forward = backend.compile(logits, [((None, None), "int32")] * 2)

    def run(texts: list[str]) -> list[str]:
        found = [""] * len(texts)
        rows = [[*row, config.eos_id] for row in translator.source.encode(texts)]
        for batch in batches_by_length(list(map(len, rows)), BATCH):
            chosen = [rows[index] for index in batch]
            limits = [len(row) + MAX_EXTRA_LENGTH for row in chosen]
            ids = predict(forward, pad_rows(chosen, config.pad_id), config, limits)
            for index, text in zip(batch, translator.target.decode(ids.tolist()), strict=True):
                found[index] = text
        return found

    return run


RUNTIMES = {"keras": _keras, "plain": _plain, "saved_model": _saved_model, "onnx": _onnx}


def _main(runtime: str, path: str, started: str) -> None:
    backend.quiet()
    texts: list[str] = json.load(sys.stdin)
    translate = RUNTIMES[runtime](Path(path))
    translate(texts[:1])
    first_answer = time.time() - float(started)
    outputs = translate(texts[:BATCH])
    seconds: list[float] = []
    for _ in range(PASSES):
        began = time.perf_counter()
        outputs = translate(texts)
        seconds.append(time.perf_counter() - began)
    # not sentencepiece: onnxruntime-extensions loads transformers, where that is installed
    if runtime == "onnx" and "keras" in sys.modules:
        raise SystemExit("Keras was loaded, but must not be needed here.")
    json.dump(asdict(Timing(first_answer, len(texts) / min(seconds), outputs)), sys.stdout)


if __name__ == "__main__":
    _main(*sys.argv[1:])
