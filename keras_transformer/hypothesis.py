"""The result of one translation."""

from dataclasses import dataclass

# A search that finds fewer hypotheses than asked for fills up with scores below this.
LOWEST_SCORE = -5e8


@dataclass(frozen=True)
class Hypothesis:
    """One output of a translator.

    Every translator of this project (Keras, SavedModel, ONNX) returns this same object.

    Attributes:
        text: the detokenized output.
        score: the length-penalised sum of log-probabilities (natural logarithm); higher is better.
        tokens: target ids without the start id, the end id and padding.
        finished: False when the output was cut at `max_decoding_length`.
    """

    text: str
    score: float
    tokens: list[int]
    finished: bool
