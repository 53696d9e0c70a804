"""How good a translator is on examples it was not trained on."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

from keras_transformer import evaluation
from keras_transformer.data.corpus import Pair, group_references
from keras_transformer.hypothesis import Hypothesis

Examples = list[tuple[str, list[str]]]
METRICS = tuple(evaluation.LABELS)
# What a task's own metric is reported with.
TASKS = {"bleu": ("bleu", "chrf"), "wer": ("wer", "per")}
GATHERED = ("wer", "per", "exact_match")
Tokenize = Literal["13a", "none"]


@dataclass(frozen=True)
class Measure:
    """One number about a translator: `name` is one of `METRICS`.

    `note` says what it means; for BLEU and chrF it is sacrebleu's signature.
    """

    name: str
    value: float
    unit: str
    note: str


@dataclass(frozen=True)
class Assessment:
    """What `assess` found.

    Attributes:
        measures: the numbers, the one that the recipe asks for first.
        hypotheses: the best hypothesis of each example, in order.
        cross_entropy: mean of -log p of the target tokens, end symbols included, in nats.
        words_per_second: words of source text translated in a second of wall time.
    """

    measures: list[Measure]
    hypotheses: list[Hypothesis]
    cross_entropy: float
    words_per_second: float


def take_examples(pairs: Iterable[Pair], metric: str, limit: int | None = None) -> Examples:
    """Return (source, references) of a corpus.

    For WER, PER and exact match the targets of equal sources are references of one example, since
    a word may have several pronunciations. BLEU and chrF take each pair as an example of its own,
    as test sets of translation have it.

    Args:
        pairs: (source, target) texts.
        metric: one of `METRICS`.
        limit: the most examples; None: all.

    Raises:
        ValueError: an unknown metric, or a limit below 1.
    """
    _check_metric(metric, METRICS)
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be 1 or more, or None for all. Received: limit={limit}")
    if metric in GATHERED:
        return group_references(pairs)[:limit]
    return [(source, [target]) for source, target in islice(pairs, limit)]


def assess(
    translator: Any,
    examples: Examples,
    metric: str = "bleu",
    tokenize: Tokenize = "13a",
    **options: Any,
) -> Assessment:
    """Translate examples and compare with their references.

    Args:
        translator: a `Translator`.
        examples: from `take_examples`.
        metric: "wer" (and PER) or "bleu" (and chrF).
        tokenize: sacrebleu's tokenizer for BLEU: "13a", or "none" for text that is tokenised.
        options: of `translate`; by default greedy search.

    Raises:
        ValueError: no examples, an unknown metric, or an option out of range.
    """
    _check_metric(metric, TASKS)
    if not examples:
        raise ValueError("examples must hold at least one example. Received: none")
    sources = [source for source, _ in examples]
    references = [references for _, references in examples]
    translator.translate(sources[:1], **options)  # compiles the search
    started = time.perf_counter()
    found = [hypotheses[0] for hypotheses in translator.translate(sources, **options)]
    seconds = time.perf_counter() - started
    texts = [hypothesis.text for hypothesis in found]
    return Assessment(
        measures=measure(TASKS[metric], texts, references, tokenize),
        hypotheses=found,
        cross_entropy=cross_entropy(translator, examples),
        words_per_second=sum(len(source.split()) for source in sources) / seconds,
    )


def cross_entropy(translator: Any, examples: Examples) -> float:
    """Return the mean of -log p(token) over the tokens of all references, in nats.

    The end symbol counts as a token; there is no label smoothing, so that exp of it is the
    perplexity.
    """
    pairs = [(source, target) for source, targets in examples for target in targets]
    sources, targets = zip(*pairs, strict=True)
    log_probs = translator.score(sources, targets)
    tokens = sum(len(row) + 1 for row in translator.target.encode(targets))
    return -float(log_probs.sum(dtype="float64")) / tokens


def measure(
    names: Sequence[str],
    texts: Sequence[str],
    references: Sequence[Sequence[str]],
    tokenize: Tokenize = "13a",
) -> list[Measure]:
    """Return the named measures of outputs, in the order of the names.

    Args:
        names: of `METRICS`.
        texts: one output for each source.
        references: for each source the list of its references.
        tokenize: sacrebleu's tokenizer for BLEU.

    Raises:
        ValueError: an unknown name, or as the functions of `evaluation`.
        ImportError: sacrebleu or rapidfuzz is needed and not installed.

    Example:
        >>> [found] = measure(["wer"], ["R IY D", "K AH T"], [["R EH D", "R IY D"], ["K AE T"]])
        >>> found.value, found.unit
        (50.0, '%')
    """
    return [_measure(name, texts, references, tokenize) for name in names]


def _measure(
    name: str, texts: Sequence[str], references: Sequence[Sequence[str]], tokenize: Tokenize
) -> Measure:
    _check_metric(name, METRICS)
    if name in _RATES:
        rate, note = _RATES[name]
        return Measure(name, rate(texts, references), "%", note)
    if name == "bleu":
        score = evaluation.bleu(texts, references, tokenize=tokenize)
    else:
        score = evaluation.chrf(texts, references)
    return Measure(name, score.value, "", score.signature)


_RATES = {
    "exact_match": (evaluation.exact_match, "outputs that equal a reference"),
    "wer": (evaluation.word_error_rate, "outputs that equal no reference"),
    "per": (
        evaluation.phoneme_error_rate,
        "wrong symbols, by edit distance to the nearest reference",
    ),
}


def _check_metric(metric: str, known: Iterable[str]) -> None:
    if metric not in known:
        raise ValueError(f"metric must be one of {', '.join(known)}. Received: metric={metric!r}")
