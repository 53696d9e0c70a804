"""Scores of similarity functions side by side, and position encodings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from keras_transformer.visualization.arrays import (
    check_fit,
    checked_title,
    finite_array,
    token_list,
)
from keras_transformer.visualization.figures import (
    LABEL_SIZE,
    add_axes,
    new_picture,
    shrink_wrap,
    write_title,
)
from keras_transformer.visualization.fonts import fonts_for
from keras_transformer.visualization.labels import label_of
from keras_transformer.visualization.maps import (
    Sides,
    add_colour_bar,
    cell_size,
    draw_map,
    draw_maps,
    number_cell,
)

CELL, LONGEST_SIDE = 0.2, 5.0  # inches


def plot_similarity(
    scores: Mapping[str, Any],
    source_tokens: Sequence[str],
    target_tokens: Sequence[str] | None = None,
    *,
    numbers: bool = False,
) -> Figure:
    """Draw what several similarity functions say of the same queries and keys, side by side.

    Each has colours of its own: scores of different functions are not on one scale.

    Args:
        scores: for each name, scores `[T, S]` before the softmax, of any sign.
        source_tokens: S pieces, the keys.
        target_tokens: T pieces, the queries; None: the same as `source_tokens`.
        numbers: whether each score is written in its cell, for small maps.

    Returns:
        A matplotlib `Figure`, at most three maps in a row.

    Raises:
        ValueError: no scores, or some that are not finite or do not fit the tokens; numbers that
            have no room.

    Example:
        >>> scores = {"dot": [[2.0, -1.0]], "scaled dot": [[1.0, -0.5]]}
        >>> figure = plot_similarity(scores, ["the", "cat"], ["chat"])
        >>> [axes.get_title(loc="left") for axes in figure.axes]
        ['dot', 'scaled dot']
    """
    if not isinstance(scores, Mapping) or not scores:
        raise ValueError(
            'scores must be a dict of at least one name and its scores, such as {"dot": scores}. '
            f"Received: {type(scores).__name__}"
        )
    source = token_list("source_tokens", source_tokens)
    target = source if target_tokens is None else token_list("target_tokens", target_tokens)
    names = [f"scores[{name!r}]" for name in scores]
    arrays = [
        finite_array(name, values, {2: "[T, S]"})
        for name, values in zip(names, scores.values(), strict=True)
    ]
    for name, array in zip(names, arrays, strict=True):
        check_fit(name, array, source, target)
    labels = [label_of(token) for token in (*source, *target)]
    drawn, families = fonts_for([*labels, *map(str, scores)])
    columns, rows, titles = (
        drawn[: len(source)],
        drawn[len(source) : len(labels)],
        drawn[len(labels) :],
    )
    sides = Sides(rows, columns, "query", "key", families)
    cell = cell_size(
        (len(source), len(target)), number_cell(arrays) if numbers else CELL, LONGEST_SIDE
    )
    return draw_maps(list(zip(titles, arrays, strict=True)), sides, cell, "score", numbers=numbers)


def plot_position_encoding(encoding: Any, *, title: str = "Position encoding") -> Figure:
    """Draw a position encoding: a row for each position, a column for each component.

    Args:
        encoding: `[T, D]`, such as `layers.sinusoidal_positions(50, 64)` or learned positions.
        title: over the map.

    Returns:
        A matplotlib `Figure`.

    Raises:
        ValueError: not `[T, D]`, or a number that is not finite.

    Example:
        >>> figure = plot_position_encoding([[0.0, 1.0], [0.84, 0.54]])
        >>> figure.axes[0].get_ylabel()
        'position'
    """
    array = finite_array("encoding", encoding, {2: "[T, D]"})
    (title,), families = fonts_for([checked_title(title) or ""])
    picture = new_picture()
    axes = add_axes(picture, 0, 0, 6.0, 4.0)
    add_colour_bar(picture, axes, draw_map(axes, array), "value")
    axes.set_ylabel("position", fontsize=LABEL_SIZE)
    axes.set_xlabel("component", fontsize=LABEL_SIZE)
    axes.tick_params(labelsize=LABEL_SIZE - 1)
    axes.locator_params(integer=True, min_n_ticks=1)
    write_title(axes, title, families)
    return shrink_wrap(picture)
