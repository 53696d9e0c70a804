"""Tokens as labels: what is invisible made visible, long ones cut, none over another."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from typing import Literal

from matplotlib.axes import Axes

from keras_transformer.visualization.figures import LABEL_SIZE

SPACES = " \u00a0\u3000"  # those that words are written with
LONGEST = 20  # characters of a token that are written
SMALLEST_SIZE = 6  # points
JOINERS = "\u200c\u200d\u200e\u200f"  # shape or turn the letters beside them; words need them
LINE = 1.25  # a line of any script is at most so many times as high as the size of its font
POINTS = 72  # of an inch


def label_of(token: str) -> str:
    """Return what is written for a token.

    Nothing at all, spaces alone, characters that cannot be seen and accents without a letter are
    made visible; a long token ends with an ellipsis.
    """
    if not token:
        return "(empty)"
    if set(token) <= set(SPACES):
        return "\u2423" * min(len(token), LONGEST)
    alone = all(letter in JOINERS for letter in token)
    text = "".join(_visible(letter, alone) for letter in token)
    if unicodedata.category(text[0])[0] == "M":
        text = "\u25cc" + text  # the circle that stands for a letter in Unicode's own tables
    if len(text) <= LONGEST:
        return text
    end = LONGEST - 1
    while end > 1 and unicodedata.category(text[end])[0] == "M":  # an accent stays with its letter
        end -= 1
    return text[:end] + "\u2026"


def _visible(letter: str, alone: bool) -> str:
    """Write a character that cannot be seen by its number; `alone`: joiners, too."""
    unseen = unicodedata.category(letter) in {"Cc", "Cf", "Cs", "Zl", "Zp", "Zs"}
    if unseen and letter not in SPACES and (alone or letter not in JOINERS):
        return letter.encode("unicode_escape").decode("ascii")
    return letter


def name_ticks(
    axes: Axes,
    side: Literal["x", "y"],
    labels: Sequence[str],
    families: Sequence[str],
    what: str,
    cell: float,
) -> None:
    """Name the cells of one side of a map: every one, or as many as can be read.

    Args:
        axes: of the map; cell i has its middle at i.
        side: "x", with labels that run upwards, or "y".
        labels: one for each cell, from `label_of`.
        families: of fonts.
        what: the label of the side; empty: none.
        cell: inches from one cell to the next.
    """
    step = named_step(cell)
    size = min(LABEL_SIZE, step * cell * POINTS / LINE)
    places = range(0, len(labels), step)
    axis = axes.xaxis if side == "x" else axes.yaxis
    axis.set_ticks(
        list(places),
        [labels[place] for place in places],
        fontsize=size,
        family=list(families),
        parse_math=False,
        rotation=90 if side == "x" else 0,
    )
    axis.set_tick_params(length=2, pad=2)
    if what:
        axis.set_label_text(what + skipped(step), fontsize=LABEL_SIZE)


def named_step(cell: float) -> int:
    """Return from which label to the next there is room, for cells of so many inches."""
    return max(1, math.ceil(SMALLEST_SIZE * LINE / (cell * POINTS)))


def skipped(step: int) -> str:
    """Say how many labels are left out, where there is no room for all."""
    if step == 1:
        return ""
    ordinal = {2: "2nd", 3: "3rd"}.get(step, f"{step}th")
    return f" (every {ordinal} is named)"
