"""What a change of precision costs in the task's own metric, and what it brings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keras_transformer.id_rows import batches_by_length, pad_rows
from keras_transformer_export.bundle import Precision, SpecialIds
from keras_transformer_export.onnx_process import run_timed
from keras_transformer_export.parity import answers, read_outputs, with_end
from keras_transformer_export.parity_report import Example, PrecisionReport
from keras_transformer_export.precision import file_name

BATCH_SIZE = 32
ROUNDS = 2
FILES = ("model.onnx", "model.ids.onnx")


@dataclass(frozen=True)
class _Translations:
    texts: list[str]
    tokens_per_second: float


def measure_precision(
    translator: Any,
    folder: Path,
    precision: Precision,
    sentences: Sequence[str] | None,
    examples: Sequence[Example],
) -> PrecisionReport:
    """Translate the same texts with the float32 file and with its twin, in turns.

    Args:
        translator: a `Translator`.
        folder: holds the files with texts and those with ids, of both precisions.
        precision: of the twin.
        sentences: texts without references; None: the held-out examples of the training run.
        examples: of the proof; the twin's own answers to their sources are kept.

    Returns:
        The report. It has a metric where there are references, and sacrebleu for BLEU.

    Raises:
        RuntimeError: ONNX Runtime cannot run a file.
    """
    references = translator.held_out_references if sentences is None else None
    texts = list(translator.held_out if references is not None else sentences or ())
    texts = texts or [example.source for example in examples]
    paths = [folder / file_name("model.ids.onnx", p) for p in ("float32", precision)]
    before, after = _translate_in_turns(translator, paths, texts)
    metric, values = None, (None, None)
    if references is not None:
        metric, values = _quality(translator, [before.texts, after.texts], references)
    special = SpecialIds.of(translator.config)
    answered = answers(folder / file_name("model.onnx", precision), examples, special, texts=True)
    sizes = {name: (folder / file_name(name, precision)).stat().st_size for name in FILES}
    return PrecisionReport(
        precision=precision,
        bytes={file_name(name, precision): size for name, size in sizes.items()},
        size_ratio={
            file_name(name, precision): size / (folder / name).stat().st_size
            for name, size in sizes.items()
        },
        sentences=len(texts),
        equal_to_float32=sum(a == b for a, b in zip(before.texts, after.texts, strict=True)),
        metric=metric,
        metric_float32=values[0],
        metric_value=values[1],
        tokens_per_second_float32=before.tokens_per_second,
        tokens_per_second=after.tokens_per_second,
        examples=[
            example.model_copy(
                update={
                    "text": received.text,
                    "ids": with_end(received, special.eos),
                    "score": received.score,
                }
            )
            for example, received in answered
        ],
    )


def _translate_in_turns(
    translator: Any, paths: Sequence[Path], texts: Sequence[str]
) -> list[_Translations]:
    """Translate with each file, twice in turns; the faster round of each counts."""
    special = SpecialIds.of(translator.config)
    rows = [[*row, special.eos] for row in translator.source.encode(texts)]
    batches = list(batches_by_length(list(map(len, rows)), BATCH_SIZE))
    feeds = [
        {"source_ids": pad_rows([rows[i] for i in batch], special.pad).astype("int64")}
        for batch in batches
    ]
    best: dict[Path, tuple[float, list[Any]]] = {}
    for path in [*paths] * ROUNDS:
        outputs, seconds = run_timed(path, feeds)
        if path not in best or seconds < best[path][0]:
            best[path] = seconds, outputs
    found = []
    for path in paths:
        seconds, outputs = best[path]
        tokens: dict[int, list[int]] = {}
        count = 0
        for batch, output in zip(batches, outputs, strict=True):
            for index, (hypothesis, *_) in zip(batch, read_outputs(output, special), strict=True):
                tokens[int(index)] = hypothesis.tokens
                count += len(with_end(hypothesis, special.eos))
        decoded = translator.target.decode([tokens[i] for i in range(len(texts))])
        found.append(_Translations(decoded, count / seconds))
    return found


def _quality(
    translator: Any, outputs: Sequence[list[str]], references: Sequence[Sequence[str]]
) -> tuple[str | None, tuple[float | None, ...]]:
    """The metric of the recipe for each list of outputs; none where sacrebleu is missing."""
    from keras_transformer import evaluation

    recipe = translator.recipe
    if recipe is not None and recipe.training.quality_metric == "wer":
        return "wer", tuple(evaluation.word_error_rate(texts, references) for texts in outputs)
    try:
        return "bleu", tuple(evaluation.bleu(texts, references).value for texts in outputs)
    except ImportError:
        return None, (None, None)
