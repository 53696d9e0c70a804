"""The proof that every exported file gives what the Keras model gives."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from keras_transformer.hypothesis import Hypothesis
from keras_transformer.id_rows import pad_rows
from keras_transformer.search_options import SearchOptions
from keras_transformer.text.validation import check_texts
from keras_transformer_export.bundle import Bundle, Signature, SpecialIds
from keras_transformer_export.onnx_process import run_apart
from keras_transformer_export.outputs import Outputs, hypotheses
from keras_transformer_export.parity_report import Example, ParityReport, RuntimeReport, Tie
from keras_transformer_export.search_inputs import inputs_of

BATCH_SIZES = (1, 2, 7, 32)
# Every sentence is translated with the first, and up to so many with one of the others as well.
GREEDY = SearchOptions()
BEAMS = (
    SearchOptions(4, 4),
    SearchOptions(2, 1, length_penalty=1.0, early_stopping=False),
    SearchOptions(5, 2, min_decoding_length=5, max_decoding_length=12),
    SearchOptions(8, 3, length_penalty=0.0),
)
MOST_BEAM_SENTENCES = 200
MOST_SENTENCES = 500
SAMPLE_SENTENCES = 24  # with greedy search
SAMPLE_BEAMS = 8
SCORE_TOLERANCE = 1e-4
TIE_TOLERANCE = 1e-5
# Bytes round what another processor computes a little differently, so near ties may turn there.
INT8_SCORE_TOLERANCE = 0.05
INT8_CHANGES = 1 / 8
TEXTS_WITHOUT_DATA = 120
STRANGE_TEXTS = ("", " ", "漢字 かな — ☃ 😀", "<s> </s> <unk>", "\t\u00a0\u2581\u0301")


class ParityError(RuntimeError):
    """An exported file gives something else than the Keras model."""


@dataclass(frozen=True)
class Request:
    """Texts that are translated as one batch."""

    texts: list[str]
    options: SearchOptions = GREEDY


Runtime = Callable[[list[Request]], list[list[list[Hypothesis]]]]


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
    runtimes: dict[str, Runtime],
    packages: dict[str, str],
) -> ParityReport:
    """Translate in batches of several sizes, with Keras and with each exported file.

    All sentences with greedy search, and a part of them with several beams, numbers of
    hypotheses, length penalties and lengths.

    Args:
        translator: a `Translator`.
        sentences: from `proof_sentences`.
        runtimes: for each file a function from requests to the hypotheses of each text.
        packages: versions, for the report.

    Raises:
        ParityError: a hypothesis differs and is no tie, or a score differs by more than 1e-4.
    """
    requests = list(_requests(sentences))
    expected = [
        translator.translate(r.texts, **vars(r.options), batch_size=len(r.texts)) for r in requests
    ]
    reports = {
        name: compare_runtime(translator, name, requests, expected, run(requests))
        for name, run in runtimes.items()
    }
    return ParityReport(
        sentences=len(sentences),
        batch_sizes=sorted({len(request.texts) for request in requests}),
        beam_sizes=sorted({request.options.beam_size for request in requests}),
        runtimes=reports,
        score_tolerance=SCORE_TOLERANCE,
        tie_tolerance=TIE_TOLERANCE,
        packages=packages,
        examples=_examples(translator, requests, expected, reports),
    )


def verify_bundle(folder: str | Path) -> Verification:
    """Check a bundle without TensorFlow: every file's hash, then the stored examples through ONNX.

    A file in int8 is compared with its own answers at the time of the export; one in eight may
    differ, since on another processor a near tie may turn.

    Raises:
        BundleError: a file is missing, changed or not listed.
        ParityError: an ONNX file no longer gives what it and the Keras model gave.
    """
    bundle = Bundle.open(folder).validate()
    report = ParityReport.read(bundle)
    # Encoder and decoder step do not translate by themselves: their hashes must do.
    files = [name for name, s in bundle.manifest.signatures.items() if _translates(name, s)]
    special = bundle.manifest.special_ids
    difference = 0.0
    for name in files:
        signature = bundle.manifest.signatures[name]
        examples = report.examples_of(signature.precision)
        texts = "texts" in signature.inputs
        changed = 0
        for example, received in answers(bundle.folder / name, examples, special, texts):
            same_text = received.text == example.text or not texts
            if with_end(received, special.eos) == example.ids and same_text:
                exact = signature.precision != "int8"
                tolerance = SCORE_TOLERANCE if exact else INT8_SCORE_TOLERANCE
                found = _score_difference(name, example.score, received, tolerance)
                difference = max(difference, found)
                continue
            changed += 1
            if signature.precision != "int8" or changed > len(examples) * INT8_CHANGES:
                raise ParityError(
                    _different(name, example.source, repr(example.text), _shown(received))
                )
    return Verification(len(bundle.manifest.files), len(report.examples), files, difference)


def _translates(name: str, signature: Signature) -> bool:
    return name.endswith(".onnx") and "beam_size" in signature.inputs


def answers(
    path: Path, examples: Sequence[Example], special: SpecialIds, texts: bool
) -> Iterator[tuple[Example, Hypothesis]]:
    """Yield examples, and what a file that takes texts or ids makes of them now.

    Examples of one beam size are one batch, always the same one.
    """
    for beam_size in sorted({example.beam_size for example in examples}):
        batch = [e for e in examples if e.beam_size == beam_size]
        feed = _feed(batch, beam_size, special.pad, texts)
        found = read_outputs(run_apart(path, [feed])[0], special)
        yield from ((e, row[0]) for e, row in zip(batch, found, strict=True))


def _feed(examples: list[Example], beam_size: int, pad_id: int, texts: bool) -> dict[str, Any]:
    source: dict[str, Any] = (
        {"texts": [e.source for e in examples]}
        if texts
        else {"source_ids": pad_rows([e.source_ids for e in examples], pad_id).astype("int64")}
    )
    return {**source, **inputs_of(SearchOptions(beam_size), np.zeros((1, 0)))}


def read_outputs(outputs: dict[str, Any], special: SpecialIds) -> list[list[Hypothesis]]:
    """Return the hypotheses of each row; their texts are empty where the model gives ids only."""
    texts = outputs.get("translations")
    if texts is None:
        texts = np.full(outputs["scores"].shape, "", object)
    return hypotheses(Outputs(texts, outputs["scores"], outputs["ids"]), special)


def compare_runtime(
    translator: Any,
    name: str,
    requests: list[Request],
    expected: list[list[list[Hypothesis]]],
    received: list[list[list[Hypothesis]]],
) -> RuntimeReport:
    """Compare the hypotheses of a file with those of Keras.

    Args:
        translator: a `Translator`, which tells ties from differences.
        name: of the file, for errors.
        requests: what both were asked.
        expected: for each request the hypotheses of each text, from Keras.
        received: the same from the file.

    Raises:
        ParityError: a hypothesis differs and is no tie, stands there twice, or is cut where that
            of Keras ended; a text or a score differs, also that of a tie; ties are not rare.
    """
    ties: dict[tuple[str, frozenset[tuple[int, ...]]], Tie] = {}
    largest = 0.0
    compared = 0
    for request, source, ours, theirs in _pairs(name, requests, expected, received):
        compared += 1
        if ours.tokens != theirs.tokens:
            tie = _tie(translator, name, request, source, ours, theirs)
            # Two that changed places, or differ again in another batch, are one tie. Other pairs
            # of the same text are ties of their own.
            both = frozenset((tuple(tie.keras_ids), tuple(tie.other_ids)))
            ties.setdefault((source, both), tie)
        elif (ours.text, ours.finished) != (theirs.text, theirs.finished):
            raise ParityError(_different(name, source, _shown(ours), _shown(theirs)))
        largest = max(largest, _score_difference(name, ours.score, theirs))
    if len(ties) > max(1, compared // 1000):
        raise ParityError(
            f"{name} must equal Keras but for rare ties. Received: {len(ties)} ties in {compared} "
            "hypotheses"
        )
    return RuntimeReport(compared=compared, ties=list(ties.values()), max_score_difference=largest)


def _pairs(
    name: str,
    requests: list[Request],
    expected: list[list[list[Hypothesis]]],
    received: list[list[list[Hypothesis]]],
) -> Iterator[tuple[Request, str, Hypothesis, Hypothesis]]:
    """Yield each request and source, and a hypothesis of Keras beside the one of equal rank."""
    for request, ours, theirs in zip(requests, expected, received, strict=True):
        for source, our_row, their_row in zip(request.texts, ours, theirs, strict=True):
            if len(our_row) != len(their_row):
                raise ParityError(
                    f"{name} must give as many hypotheses as Keras. Received: {len(their_row)} "
                    f"for {len(our_row)} (source {source[:200]!r})"
                )
            if _distinct(their_row) < _distinct(our_row):
                raise ParityError(
                    f"{name} must give each hypothesis once, as Keras does. Received: "
                    f"{[h.text for h in their_row]!r} (source {source[:200]!r})"
                )
            for pair in zip(our_row, their_row, strict=True):
                yield request, source, *pair


def _distinct(row: list[Hypothesis]) -> int:
    return len({tuple(hypothesis.tokens) for hypothesis in row})


def _tie(
    translator: Any,
    name: str,
    request: Request,
    source: str,
    ours: Hypothesis,
    theirs: Hypothesis,
) -> Tie:
    """Accept two hypotheses that the full model scores alike, and refuse all others.

    Scores are those of the search: divided by its length penalty.
    """
    from keras_transformer.decoding.scoring import length_penalty

    eos = translator.config.eos_id
    rows = [with_end(hypothesis, eos) for hypothesis in (ours, theirs)]
    source_row = [*translator.source.encode([source])[0], eos]
    log_probs = translator.score_ids([source_row] * 2, rows)
    alpha = request.options.length_penalty
    scores = [
        float(log_prob) / float(length_penalty(len(row), alpha))
        for log_prob, row in zip(log_probs, rows, strict=True)
    ]
    is_tie = abs(scores[0] - scores[1]) <= TIE_TOLERANCE * max(1.0, abs(scores[0]))
    if not is_tie or translator.target.decode([theirs.tokens]) != [theirs.text]:
        raise ParityError(_different(name, source, _shown(ours), _shown(theirs)))
    return Tie(
        source=source,
        keras_ids=rows[0],
        other_ids=rows[1],
        keras_score=scores[0],
        other_score=scores[1],
    )


def _score_difference(
    name: str, expected: float, received: Hypothesis, tolerance: float = SCORE_TOLERANCE
) -> float:
    difference = abs(expected - received.score)
    if not difference <= tolerance:
        raise ParityError(
            f"{name} must give the scores of Keras within {tolerance}. Received: "
            f"{received.score} for {expected} ({received.text!r})"
        )
    return difference


def _different(name: str, source: str, expected: str, received: str) -> str:
    return (
        f"{name} must give what Keras gives. Report this with the model's configuration. "
        f"Received: {received} for {expected} (source {source[:200]!r})"
    )


def _shown(hypothesis: Hypothesis) -> str:
    return f"{hypothesis.text!r}{'' if hypothesis.finished else ' (cut)'}"


def with_end(hypothesis: Hypothesis, eos_id: int) -> list[int]:
    """Tokens of a hypothesis, and the end id where it ended by itself."""
    return [*hypothesis.tokens, eos_id] if hypothesis.finished else list(hypothesis.tokens)


def _examples(
    translator: Any,
    requests: Sequence[Request],
    found: Sequence[list[list[Hypothesis]]],
    reports: dict[str, RuntimeReport],
) -> list[Example]:
    eos = translator.config.eos_id
    tied = {tie.source for report in reports.values() for tie in report.ties}
    # of the requests with beams, those that differ from the defaults in nothing but the beam
    plain = [
        (request.options, source, row[0])
        for request, rows in zip(requests, found, strict=True)
        for source, row in zip(request.texts, rows, strict=True)
        if source not in tied and request.options in (GREEDY, BEAMS[0])
    ]
    greedy = islice((example for example in plain if example[0] is GREEDY), SAMPLE_SENTENCES)
    beams = islice((example for example in plain if example[0] is not GREEDY), SAMPLE_BEAMS)
    chosen = [*greedy, *beams]
    source_rows = translator.source.encode([source for _, source, _ in chosen])
    return [
        Example(
            source=source,
            source_ids=[*row, eos],
            beam_size=options.beam_size,
            text=hypothesis.text,
            ids=with_end(hypothesis, eos),
            score=hypothesis.score,
        )
        for (options, source, hypothesis), row in zip(chosen, source_rows, strict=True)
    ]


def _requests(sentences: Sequence[str]) -> Iterator[Request]:
    yield from (Request(batch, GREEDY) for batch in _batches(sentences))
    step = max(1, len(sentences) // MOST_BEAM_SENTENCES)
    for turn, batch in enumerate(_batches(sentences[::step])):
        # each round of batch sizes begins with another beam, so that all meet all
        yield Request(batch, BEAMS[(turn + turn // len(BATCH_SIZES)) % len(BEAMS)])


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
