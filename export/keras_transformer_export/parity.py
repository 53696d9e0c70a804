"""The proof that every exported file gives what the Keras model gives."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from keras_transformer.hypothesis import Hypothesis
from keras_transformer.text.validation import check_texts
from keras_transformer_export.bundle import Bundle, SpecialIds
from keras_transformer_export.onnx_process import run_apart
from keras_transformer_export.parity_report import Example, ParityReport, RuntimeReport, Tie

BATCH_SIZES = (1, 2, 7, 32)
MOST_SENTENCES = 500
SAMPLE_SENTENCES = 24
SCORE_TOLERANCE = 1e-4
TIE_TOLERANCE = 1e-5
TEXTS_WITHOUT_DATA = 120
STRANGE_TEXTS = ("", " ", "漢字 かな — ☃ 😀", "<s> </s> <unk>", "\t\u00a0\u2581\u0301")


class ParityError(RuntimeError):
    """An exported file gives something else than the Keras model."""


@dataclass(frozen=True)
class Verification:
    """What `verify_bundle` checked."""

    files: int
    sentences: int
    onnx_files: list[str]
    max_score_difference: float


def proof_sentences(translator: Any, sentences: Sequence[str] | None = None) -> list[str]:
    """Choose the texts of the proof.

    Args:
        translator: a `Translator`.
        sentences: texts to use; None: what the training run held out, or random texts of the
            source vocabulary where there was none. Of more than 500, 500 are used, evenly spaced.

    Returns:
        Texts the model can take, edge cases first: empty, blank, of an unknown script, the longest.

    Raises:
        ValueError: `sentences` is one string, or holds a text that no runtime can carry.
    """
    if sentences is not None:
        sentences = check_texts(sentences, "sentences")
    else:
        sentences = translator.held_out
    if sentences is None:
        sentences = _random_texts(translator)
    if len(sentences) > MOST_SENTENCES:
        step = len(sentences) / MOST_SENTENCES
        sentences = [sentences[int(i * step)] for i in range(MOST_SENTENCES)]
    longest = " ".join(sorted(sentences, key=len)[-4:])
    config = translator.config
    most = config.longest
    return [
        text
        for text in (*STRANGE_TEXTS, longest, *sentences)
        if most is None or len(translator.source.encode([text])[0]) < most
    ]


def compare(
    translator: Any,
    sentences: Sequence[str],
    runtimes: dict[str, Callable[[list[list[str]]], list[list[Hypothesis]]]],
    packages: dict[str, str],
    max_logit_difference: float | None = None,
) -> ParityReport:
    """Translate in batches of several sizes, with Keras and with each exported file.

    Args:
        translator: a `Translator`.
        sentences: from `proof_sentences`.
        runtimes: for each file a function from batches of texts to a hypothesis for each text.
        packages: versions, for the report.
        max_logit_difference: from `max_logit_difference`.

    Raises:
        ParityError: a hypothesis differs and is no tie, or a score differs by more than 1e-4.
    """
    batches = list(_batches(sentences))
    expected = [
        [hypotheses[0] for hypotheses in translator.translate(batch, batch_size=len(batch))]
        for batch in batches
    ]
    reports = {
        name: _compare_runtime(translator, name, batches, expected, run(batches))
        for name, run in runtimes.items()
    }
    return ParityReport(
        sentences=len(sentences),
        batch_sizes=sorted({len(batch) for batch in batches}),
        runtimes=reports,
        max_logit_difference=max_logit_difference,
        packages=packages,
        examples=_examples(
            translator, sentences, [h for batch in expected for h in batch], reports
        ),
    )


def verify_bundle(folder: str | Path) -> Verification:
    """Check a bundle without TensorFlow: every file's hash, then the stored examples through ONNX.

    Raises:
        BundleError: a file is missing, changed or not listed.
        ParityError: an ONNX file no longer gives what the Keras model gave.
    """
    bundle = Bundle.open(folder).validate()
    report = ParityReport.read(bundle)
    files = [name for name in bundle.manifest.signatures if name.endswith(".onnx")]
    special = bundle.manifest.special_ids
    difference = 0.0
    for name in files:
        texts = "texts" in bundle.manifest.signatures[name].inputs
        # Not `pad_rows` of the translator: that module needs TensorFlow.
        columns = zip_longest(*(e.source_ids for e in report.examples), fillvalue=special.pad)
        feed: dict[str, Any] = (
            {"texts": [e.source for e in report.examples]}
            if texts
            else {"source_ids": np.array(list(columns), "int64").T}
        )
        outputs = run_apart(bundle.folder / name, [feed])[0]
        for example, received in zip(report.examples, hypotheses(outputs, special), strict=True):
            ids = _with_end(received, special.eos)
            if ids != example.ids or (texts and received.text != example.text):
                raise ParityError(_different(name, example.source, example.text, received.text))
            difference = max(difference, _score_difference(name, example.score, received))
    return Verification(len(bundle.manifest.files), len(report.examples), files, difference)


def hypotheses(outputs: dict[str, Any], special: SpecialIds) -> list[Hypothesis]:
    """Read the best hypothesis of each row from the outputs of an exported model.

    The text is empty where the model gives ids only.
    """
    found = []
    for row in range(len(outputs["ids"])):
        ids = [int(i) for i in outputs["ids"][row][0]]
        finished = special.eos in ids
        ids = ids[: ids.index(special.eos)] if finished else [i for i in ids if i != special.pad]
        text = outputs["translations"][row][0] if "translations" in outputs else ""
        found.append(Hypothesis(str(text), float(outputs["scores"][row][0]), ids, finished))
    return found


def _compare_runtime(
    translator: Any,
    name: str,
    batches: list[list[str]],
    expected: list[list[Hypothesis]],
    received: list[list[Hypothesis]],
) -> RuntimeReport:
    ties: list[Tie] = []
    largest = 0.0
    for sources, ours, theirs in zip(batches, expected, received, strict=True):
        for source, ours_one, theirs_one in zip(sources, ours, theirs, strict=True):
            if ours_one.tokens != theirs_one.tokens or ours_one.finished != theirs_one.finished:
                ties.append(_tie(translator, name, source, ours_one, theirs_one))
                continue
            if ours_one.text != theirs_one.text:
                raise ParityError(_different(name, source, ours_one.text, theirs_one.text))
            largest = max(largest, _score_difference(name, ours_one.score, theirs_one))
    compared = sum(map(len, batches))
    if len(ties) > max(1, compared // 1000):
        raise ParityError(
            f"{name} must equal Keras but for rare ties. Received: {len(ties)} ties in {compared}"
        )
    return RuntimeReport(compared=compared, ties=ties, max_score_difference=largest)


def _tie(translator: Any, name: str, source: str, ours: Hypothesis, theirs: Hypothesis) -> Tie:
    """Accept two hypotheses that the full model scores alike, and refuse all others."""
    eos = translator.config.eos_id
    rows = [_with_end(hypothesis, eos) for hypothesis in (ours, theirs)]
    source_row = [*translator.source.encode([source])[0], eos]
    scores = [float(s) for s in translator.score_ids([source_row] * 2, rows)]
    if abs(scores[0] - scores[1]) > TIE_TOLERANCE * max(1.0, abs(scores[0])):
        raise ParityError(_different(name, source, ours.text, theirs.text))
    return Tie(
        source=source,
        keras_ids=rows[0],
        other_ids=rows[1],
        keras_score=scores[0],
        other_score=scores[1],
    )


def _score_difference(name: str, expected: float, received: Hypothesis) -> float:
    difference = abs(expected - received.score)
    if not difference <= SCORE_TOLERANCE:
        raise ParityError(
            f"{name} must give the scores of Keras within {SCORE_TOLERANCE}. Received: "
            f"{received.score} for {expected} ({received.text!r})"
        )
    return difference


def _different(name: str, source: str, expected: str, received: str) -> str:
    return (
        f"{name} must give what Keras gives. Report this with the model's configuration. "
        f"Received: {received!r} for {expected!r} (source {source[:200]!r})"
    )


def _with_end(hypothesis: Hypothesis, eos_id: int) -> list[int]:
    return [*hypothesis.tokens, eos_id] if hypothesis.finished else list(hypothesis.tokens)


def _examples(
    translator: Any,
    sentences: Sequence[str],
    found: Sequence[Hypothesis],
    reports: dict[str, RuntimeReport],
) -> list[Example]:
    eos = translator.config.eos_id
    tied = {tie.source for report in reports.values() for tie in report.ties}
    untied = (pair for pair in zip(sentences, found, strict=True) if pair[0] not in tied)
    chosen = list(islice(untied, SAMPLE_SENTENCES))
    source_rows = translator.source.encode([source for source, _ in chosen])
    return [
        Example(
            source=source,
            source_ids=[*row, eos],
            text=hypothesis.text,
            ids=_with_end(hypothesis, eos),
            score=hypothesis.score,
        )
        for (source, hypothesis), row in zip(chosen, source_rows, strict=True)
    ]


def _batches(sentences: Sequence[str]) -> Iterator[list[str]]:
    start = turn = 0
    while start < len(sentences):
        size = BATCH_SIZES[turn % len(BATCH_SIZES)]
        yield list(sentences[start : start + size])
        start, turn = start + size, turn + 1


def _random_texts(translator: Any) -> list[str]:
    """Texts of random pieces of the source vocabulary."""
    generator = random.Random(0)
    ordinary = [i for i in range(translator.source.vocab_size) if i not in _special(translator)]
    rows = [
        generator.choices(ordinary, k=generator.randrange(1, 13)) for _ in range(TEXTS_WITHOUT_DATA)
    ]
    return [text.replace("\0", "") for text in translator.source.decode(rows)]


def _special(translator: Any) -> set[int]:
    source = translator.source
    return {source.pad_id, source.unk_id, source.bos_id, source.eos_id}
