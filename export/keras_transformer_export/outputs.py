"""What an exported file gives, read as hypotheses; NumPy only."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from keras_transformer.hypothesis import LOWEST_SCORE, Hypothesis
from keras_transformer_export.bundle import SpecialIds


class Outputs(NamedTuple):
    """The outputs of one run, as NumPy arrays."""

    translations: Any  # str [B, n]
    scores: np.ndarray  # float32 [B, n]
    ids: np.ndarray  # integers [B, n, T]


def hypotheses(outputs: Outputs, special: SpecialIds) -> list[list[Hypothesis]]:
    """Return the hypotheses of each of B sources, best first."""
    return [
        [
            _hypothesis(text, score, ids, special)
            for text, score, ids in zip(*row, strict=True)
            if score > LOWEST_SCORE
        ]
        for row in zip(*outputs, strict=True)
    ]


def _hypothesis(text: str, score: Any, ids: np.ndarray, special: SpecialIds) -> Hypothesis:
    tokens: list[int] = ids.tolist()
    finished = special.eos in tokens
    if finished:
        tokens = tokens[: tokens.index(special.eos)]
    return Hypothesis(str(text), float(score), [i for i in tokens if i != special.pad], finished)
