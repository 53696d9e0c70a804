"""Show that Keras, SavedModel and ONNX give the same translations, on thousands of texts.

    keras-transformer export runs/multi30k exported/multi30k
    python benchmarks/exactness.py runs/multi30k exported/multi30k

Held-out sentences (and, where they are too few, their halves), the empty text and the longest go
through all three with greedy search and beams of 2, 4, 5 and 8, in batches of 1, 2, 7, 32 and 64.
Differences must be ties, as an export has it (keras_transformer_export/parity.py). Then Unicode
texts that Hypothesis makes up, and eight threads on one session.
"""

import argparse
import functools
import itertools
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import keras_transformer as kt
from keras_transformer import backend
from keras_transformer.search_options import SearchOptions
from keras_transformer_export import parity
from keras_transformer_export.runtime import OnnxTranslator, SavedModelTranslator

SEARCHES = (
    SearchOptions(),
    SearchOptions(2, 2),
    SearchOptions(4, 4),
    SearchOptions(5, 3, length_penalty=1.0, early_stopping=False),
    SearchOptions(8, 2, length_penalty=0.0),
)
BATCH_SIZES = (1, 2, 7, 32, 64)
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=200)
SHORT: dict[str, Any] = {"max_decoding_length": 12}


def main() -> None:
    """Compare, print, and end with status 1 where something differs."""
    parser = argparse.ArgumentParser(description="Compare Keras, SavedModel and ONNX.")
    parser.add_argument("run", type=Path, help="folder of the training run")
    parser.add_argument("bundle", type=Path, help="the exported folder of it")
    parser.add_argument("--sentences", type=int, default=2000)
    parser.add_argument("--unicode", type=int, default=2000, help="made-up texts")
    options = parser.parse_args()
    backend.import_tensorflow()
    keras = kt.Translator.load(options.run)
    sentences = list(itertools.islice(texts_of(keras), options.sentences))
    with (
        SavedModelTranslator(options.bundle) as saved,
        OnnxTranslator(options.bundle, device="cpu") as onnx,
    ):
        others = {"SavedModel": saved, "ONNX": onnx}
        for search in SEARCHES:
            compare(keras, others, sentences, search)
        compare_unicode(keras, others, options.unicode)
        compare_threads(onnx, sentences)


def texts_of(translator: kt.Translator) -> Iterator[str]:
    """The empty text, the longest texts joined, all held-out texts, then their parts."""
    held_out = translator.held_out
    if not held_out:
        sys.exit("The run must have held-out sentences. Train it with a validation set.")
    yield ""
    yield " ".join(sorted(held_out, key=len)[-3:])
    yield from held_out
    for share in (2, 3, 4):
        yield from (text[: len(text) // share] for text in held_out)


def compare(
    keras: kt.Translator, others: dict, sentences: list[str], search: SearchOptions
) -> None:
    """Translate in batches of changing size; differences that are no ties end the program."""
    requests = [parity.Request(batch, search) for batch in batches(sentences)]
    started = time.perf_counter()
    expected = [translate(keras, request) for request in requests]
    finished = sum(h.finished for rows in expected for row in rows for h in row)
    lengths = {len(h.tokens) for rows in expected for row in rows for h in row}
    print(
        f"beam {search.beam_size}, {search.num_hypotheses}-best, alpha {search.length_penalty}"
        f"{'' if search.early_stopping else ', no early stop'}: {len(sentences):,} sentences, "
        f"{finished:,} hypotheses ended by themselves, lengths {min(lengths)} to {max(lengths)}"
    )
    for name, other in others.items():
        received = [translate(other, request) for request in requests]
        report = parity.compare_runtime(keras, name, requests, expected, received)
        print(
            f"  {name:<11} {report.compared:,} hypotheses equal, {len(report.ties)} of them ties, "
            f"scores within {report.max_score_difference:.1e}"
        )
    print(f"  {time.perf_counter() - started:.0f} s", flush=True)


def translate(translator, request: parity.Request) -> list:
    """Translate the texts of a request as one batch."""
    options = vars(request.options)
    return translator.translate(request.texts, **options, batch_size=len(request.texts))


def batches(sentences: list[str]) -> Iterator[list[str]]:
    """Cut a list into batches of changing sizes."""
    sizes = itertools.cycle(BATCH_SIZES)
    start = 0
    while start < len(sentences):
        size = next(sizes)
        yield sentences[start : start + size]
        start += size


def compare_unicode(keras: kt.Translator, others: dict, examples: int) -> None:
    """Translate texts of all planes with all three."""
    seen = []

    @settings(max_examples=examples, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(TEXT)
    def check(text: str) -> None:
        expected = keras.translate([text], **SHORT)[0][0]
        for name, other in others.items():
            received = other.translate([text], **SHORT)[0][0]
            assert (received.text, received.tokens) == (expected.text, expected.tokens), name
        seen.append(text)

    check()
    long = ["a" * 5000, "漢字かな" * 500, "\u0301" * 1000, " \t" * 2000]
    for text in long:
        check.hypothesis.inner_test(text)
    planes = {ord(character) >> 16 for text in seen for character in text}
    print(
        f"made-up texts: {len(seen):,} equal in Keras, SavedModel and ONNX, of {len(planes)} "
        f"Unicode planes, up to {max(map(len, seen)):,} characters",
        flush=True,
    )


def compare_threads(onnx: OnnxTranslator, sentences: list[str]) -> None:
    """Translate with eight threads on one session, and one after the other."""
    parts = [sentences[i::8] for i in range(8)]
    for beam_size in (1, 4):
        translated = functools.partial(onnx.translate, beam_size=beam_size)
        serial = list(map(translated, parts))
        with ThreadPoolExecutor(8) as pool:
            if list(pool.map(translated, parts)) != serial:
                sys.exit("Eight threads must give what one gives.")
    print(f"eight threads: {len(sentences):,} sentences, greedy and beam 4, equal to one thread")


if __name__ == "__main__":
    main()
