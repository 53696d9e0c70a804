"""How good outputs are: BLEU, chrF, exact match, word and phoneme error rate."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from keras_transformer.backend import install_hint

__all__ = [
    "Score",
    "bleu",
    "chrf",
    "exact_match",
    "phoneme_error_rate",
    "word_error_rate",
]

# How each measure is written on screen and in pictures.
LABELS = {
    "bleu": "BLEU",
    "chrf": "chrF",
    "exact_match": "exact match",
    "wer": "WER",
    "per": "PER",
}


@dataclass(frozen=True)
class Score:
    """A score of sacrebleu.

    Attributes:
        value: from 0 to 100; higher is better.
        signature: how it was computed, to be quoted with it.
    """

    value: float
    signature: str


def bleu(
    hypotheses: Sequence[str],
    references: Sequence[Sequence[str]],
    tokenize: Literal["13a", "none"] = "13a",
    lowercase: bool = False,
) -> Score:
    """Computes corpus BLEU (Papineni et al. 2002) by sacrebleu (Post 2018).

    Args:
        hypotheses: one output for each source.
        references: for each source the list of its references; their numbers may differ.
        tokenize: "13a" for plain text, "none" for text that is tokenized already.
        lowercase: whether case is ignored.

    Raises:
        ValueError: for no hypotheses, hypotheses and references of different numbers, and a
            source without references.
        ImportError: when sacrebleu is not installed.

    Example:
        >>> round(bleu(["the cat sat on the mat"], [["the cat sat on the mat"]]).value, 2)
        100.0
    """
    if tokenize not in ("13a", "none"):
        raise ValueError(
            'tokenize must be "13a" (plain text) or "none" (tokenized text). Choose one. '
            f"Received: tokenize={tokenize!r}"
        )
    # Without force, sacrebleu warns on the screen about text that looks tokenized.
    metric = _sacrebleu().BLEU(tokenize=tokenize, lowercase=lowercase, force=True)
    return _corpus_score(metric, hypotheses, references)


def chrf(
    hypotheses: Sequence[str], references: Sequence[Sequence[str]], lowercase: bool = False
) -> Score:
    """Computes corpus chrF2 (Popović 2015) by sacrebleu: character n-grams up to 6.

    Arguments and errors as in `bleu`.
    """
    return _corpus_score(_sacrebleu().CHRF(lowercase=lowercase), hypotheses, references)


def exact_match(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Returns the percentage of hypotheses that equal one of their references.

    Raises:
        ValueError: as in `bleu`.

    Example:
        >>> exact_match(["a", "b"], [["a", "x"], ["c"]])
        50.0
    """
    _check_lengths(hypotheses, references)
    right = sum(h in listed for h, listed in zip(hypotheses, references, strict=True))
    return 100.0 * right / len(hypotheses)


def word_error_rate(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Returns the percentage of words whose output equals none of the listed pronunciations.

    The word error rate of grapheme-to-phoneme conversion, where each hypothesis is the
    pronunciation of one word; not the edit distance of speech recognition.

    Raises:
        ValueError: as in `bleu`.
    """
    return 100.0 - exact_match(hypotheses, references)


def phoneme_error_rate(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Returns edits for 100 reference tokens, tokens being what spaces separate.

    For each hypothesis the nearest reference counts: the one with the smallest edit distance
    (insertions, deletions and substitutions of tokens) in relation to its length, the longer one
    among equals. Distances and lengths are summed over the corpus before they are divided, so
    that the rate may exceed 100.

    Raises:
        ValueError: as in `bleu`, and for references that are all empty.
        ImportError: when rapidfuzz is not installed.

    Example:
        >>> round(phoneme_error_rate(["R EH T"], [["R IY D", "R EH D"]]), 2)
        33.33
    """
    _check_lengths(hypotheses, references)
    distance = _levenshtein()
    edits = length = 0
    for hypothesis, listed in zip(hypotheses, references, strict=True):
        tokens = hypothesis.split()
        counted = [(distance(tokens, r.split()), len(r.split())) for r in listed]
        nearest = min(counted, key=lambda x: (x[0] / max(1, x[1]), -x[1]))
        edits, length = edits + nearest[0], length + nearest[1]
    if not length:
        raise ValueError(
            "references must not all be empty. Check the corpus. "
            f"Received: {len(references)} lists of references without a token"
        )
    return 100.0 * edits / length


def _corpus_score(
    metric: Any, hypotheses: Sequence[str], references: Sequence[Sequence[str]]
) -> Score:
    _check_lengths(hypotheses, references)
    # sacrebleu wants streams: the first references of all, then the second ones, None for none.
    most = max(len(listed) for listed in references)
    streams = [[r[i] if i < len(r) else None for r in references] for i in range(most)]
    score = metric.corpus_score(list(hypotheses), streams)
    return Score(float(score.score), str(metric.get_signature()))


def _check_lengths(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> None:
    if len(hypotheses) != len(references) or not len(hypotheses):
        raise ValueError(
            "hypotheses and references must be equally many, and at least one. Pass one list of "
            f"references for each. Received: {len(hypotheses)} hypotheses, {len(references)} "
            "lists of references"
        )
    for index, listed in enumerate(references):
        if isinstance(listed, str) or not len(listed):
            raise ValueError(
                "references must hold a list of at least one text for each hypothesis. Put a "
                f"single reference in a list. Received: references[{index}]={listed!r}"
            )


def _sacrebleu() -> Any:
    try:
        import sacrebleu.metrics as metrics
    except ImportError as error:
        raise ImportError(
            f"BLEU and chrF need the package sacrebleu. {install_hint('train')}"
        ) from error
    return metrics


def _levenshtein() -> Any:
    try:
        from rapidfuzz.distance import Levenshtein
    except ImportError as error:
        raise ImportError(
            f"The phoneme error rate needs the package rapidfuzz. {install_hint('train')}"
        ) from error
    return Levenshtein.distance
