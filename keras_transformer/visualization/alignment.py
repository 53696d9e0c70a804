"""Cross-attention as an alignment: lines from target tokens to the source tokens they look at."""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from keras_transformer.visualization.arrays import check_fit, checked_title, one_map, token_list
from keras_transformer.visualization.figures import (
    BLUE,
    GREY,
    LABEL_SIZE,
    add_axes,
    new_picture,
    shrink_wrap,
    write_title,
)
from keras_transformer.visualization.fonts import fonts_for
from keras_transformer.visualization.labels import label_of

ROW, LONGEST_SIDE, ACROSS = 0.2, 12.0, 3.0  # inches
WIDEST_LINE = 3.0  # points, of a weight of 1


def plot_alignment(
    weights: Any,
    source_tokens: Sequence[str],
    target_tokens: Sequence[str],
    *,
    layer: int | None = None,
    head: int | None = None,
    least: float = 0.1,
    title: str | None = None,
) -> Figure:
    """Draw which source tokens each target token looks at, as lines between two columns.

    The wider a line, the larger its weight; the largest of each target token is blue.

    Args:
        weights: cross-attention of one sentence, `[T, S]`, `[N, T, S]` or `[L, N, T, S]`; see
            `plot_attention`.
        source_tokens: S pieces, the column at the left.
        target_tokens: T pieces, the column at the right.
        layer: which layer, from 0; None: the mean of all.
        head: which head, from 0; None: the mean of all.
        least: lines of smaller weights are not drawn, from 0 to 1; the largest always is.
        title: None: says which layer and head.

    Returns:
        A matplotlib `Figure`.

    Raises:
        ValueError: weights that are not from 0 to 1 or do not fit the tokens; a layer or
            head that is not there; `least` out of range.

    Example:
        >>> figure = plot_alignment([[0.9, 0.1], [0.3, 0.7]], ["the", "cat"], ["le", "chat"])
        >>> [round(line.get_linewidth(), 1) for line in figure.axes[0].lines]
        [2.7, 0.3, 0.9, 2.1]
    """
    values, which = one_map(weights, layer, head)
    source = token_list("source_tokens", source_tokens)
    target = token_list("target_tokens", target_tokens)
    check_fit("weights", values, source, target)
    if not isinstance(least, numbers.Real) or isinstance(least, bool) or not 0 <= least <= 1:
        raise ValueError(f"least must be a weight from 0 to 1. Received: least={least!r}")
    title = checked_title(title)
    if title is None:
        title = f"Alignment, {which}" if which else "Alignment"
    labels = [label_of(token) for token in (*source, *target)]
    drawn, families = fonts_for([*labels, title])
    row = min(ROW, LONGEST_SIDE / max(values.shape))
    picture = new_picture()
    axes = add_axes(picture, 0, 0, ACROSS, row * max(values.shape))
    left, right = (_places(len(tokens), max(values.shape)) for tokens in (source, target))
    _draw_lines(axes, values, left, right, float(least))
    _write_column(axes, "left", drawn[: len(source)], left, families, row)
    _write_column(axes, "right", drawn[len(source) : len(labels)], right, families, row)
    _explain(axes, float(least), 0.3 / (row * max(values.shape)))
    write_title(axes, drawn[-1], families)
    return shrink_wrap(picture)


def _places(count: int, most: int) -> np.ndarray:
    """Return the heights of `count` rows, from the top, the shorter column in the middle."""
    return most - 0.5 - np.arange(count) - (most - count) / 2


def _draw_lines(
    axes: Axes, values: np.ndarray, source: np.ndarray, target: np.ndarray, least: float
) -> None:
    for t, weights in enumerate(values):
        best = int(weights.argmax())
        for s, weight in enumerate(weights):
            if weight > 0 and (weight >= least or s == best):
                colour, over = (BLUE, 3) if s == best else (GREY, 2)
                axes.plot(
                    (0, 1), (source[s], target[t]), color=colour, zorder=over,
                    linewidth=WIDEST_LINE * min(weight, 1.0), solid_capstyle="round",
                )  # fmt: skip
    axes.set_xlim(0, 1)
    axes.set_ylim(0, max(len(source), len(target)))
    axes.set_axis_off()


def _write_column(
    axes: Axes,
    side: str,
    labels: Sequence[str],
    places: np.ndarray,
    families: Sequence[str],
    row: float,
) -> None:
    """Write the tokens of one side and, over them, whose they are."""
    x, offset, align = (0, -4, "right") if side == "left" else (1, 4, "left")
    size = min(LABEL_SIZE, row * 72 / 1.25)
    for label, y in zip(labels, places, strict=True):
        axes.annotate(
            label, (x, y), (offset, 0), textcoords="offset points", ha=align, va="center",
            fontsize=size, family=list(families), parse_math=False, annotation_clip=False,
        )  # fmt: skip


def _explain(axes: Axes, least: float, below: float) -> None:
    """Say under the lines which column is which, and what their widths mean."""
    for x, text, align in ((0, "source", "right"), (1, "target", "left")):
        axes.annotate(
            text, (x, 0), (0, -8), textcoords="offset points", ha=align, va="top",
            fontsize=LABEL_SIZE, color=GREY, annotation_clip=False,
        )  # fmt: skip
    keys = [
        Line2D([], [], color=BLUE, linewidth=WIDEST_LINE, label="largest weight"),
        Line2D([], [], color=GREY, linewidth=WIDEST_LINE / 2, label=f"others from {least:g}"),
    ]
    axes.legend(
        handles=keys, loc="upper center", bbox_to_anchor=(0.5, -below), ncols=2, frameon=False,
        fontsize=LABEL_SIZE - 1, title="the width of a line is its weight",
        title_fontsize=LABEL_SIZE - 1,
    )  # fmt: skip
