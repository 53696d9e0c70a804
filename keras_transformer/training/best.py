"""What a model is chosen by: the best value so far, and for how long there was no better one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

LOWER_IS_BETTER = frozenset({"loss", "wer", "per"})  # of every other measure, more is better


@dataclass
class Best:
    """The best value of a measure so far.

    Attributes:
        metric: `loss`, or one of `quality.METRICS`.
        value: None before the first evaluation.
        waited: evaluations since the one that gave `value`.

    Example:
        >>> best = Best("bleu")
        >>> [best.judge([value]) for value in (20.0, 19.0, 21.0)]
        [0, None, 0]
    """

    metric: str = "loss"
    value: float | None = None
    waited: int = 0

    def judge(self, values: Sequence[float | None]) -> int | None:
        """Take what one evaluation found, and say which of it is better than all before.

        Args:
            values: of several models, or of one; None where there is no value.

        Returns:
            The index of the best value, the first among equals; None when none is better than
            `value`. An evaluation without values does not count.
        """
        if all(value is None for value in values):
            return None
        chosen = None
        self.waited += 1
        for index, value in enumerate(values):
            if value is not None and self._is_better(value):
                self.value, self.waited, chosen = float(value), 0, index
        return chosen

    def is_out_of(self, patience: int | None) -> bool:
        """Whether there was nothing better for so many evaluations; None: never."""
        return patience is not None and self.waited >= patience

    def _is_better(self, value: float) -> bool:
        if math.isnan(value):
            return False
        if self.value is None:
            return True
        return value < self.value if self.metric in LOWER_IS_BETTER else value > self.value
