"""Where attention looks: one map, or those of every layer and head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from keras_transformer.visualization.arrays import (
    check_fit,
    checked_title,
    one_map,
    place_of,
    token_list,
    weight_array,
)
from keras_transformer.visualization.figures import (
    LABEL_SIZE,
    TITLE_SIZE,
    Picture,
    add_axes,
    extent,
    new_picture,
    shrink_wrap,
    write_title,
)
from keras_transformer.visualization.fonts import fonts_for
from keras_transformer.visualization.labels import label_of, name_ticks, named_step, skipped
from keras_transformer.visualization.maps import (
    Sides,
    add_colour_bar,
    cell_size,
    draw_map,
    draw_maps,
    number_cell,
)

CELL, LONGEST_SIDE, PANEL_SIDE = 0.2, 12.0, 3.2  # inches; of one map, and of several
SMALL_CELL, SMALL_SIDE, BETWEEN = 0.13, 2.2, 0.08


def plot_attention(
    weights: Any,
    source_tokens: Sequence[str],
    target_tokens: Sequence[str] | None = None,
    *,
    layer: int | None = None,
    head: int | None = None,
    title: str | None = None,
    numbers: bool = False,
) -> Figure:
    """Draw where each token looks: a row for each query, a column for each key.

    Args:
        weights: of one sentence, `[T, S]`, `[N, T, S]` (heads) or `[L, N, T, S]` (layers, heads):
            of `Transformer.attention_scores(...)` such as `cross[0]`, or the output
            `cross_attention[0, 0]` of an ONNX file. NumPy arrays or Keras tensors. A dict of
            them, by title, is drawn side by side, with one scale of colours. What a layer's
            `return_scores` gives is of a batch, `[B, N, T, S]`: take one sentence, `[0]`.
        source_tokens: S pieces that are looked at.
        target_tokens: T pieces that look; None for self-attention: the same as `source_tokens`.
        layer: which layer, from 0; None: the mean of all.
        head: which head, from 0; None: the mean of all.
        title: None: says which layer and head. A dict has titles of its own.
        numbers: whether each weight is written in its cell, for small maps.

    Returns:
        A matplotlib `Figure`, as large as its labels need.

    Raises:
        ValueError: weights that are not from 0 to 1 or do not fit the tokens; a layer or
            head that is not there; a title for a dict; numbers that have no room.

    Example:
        >>> weights = [[0.9, 0.1], [0.2, 0.8]]
        >>> figure = plot_attention(weights, ["the", "cat"], ["die", "Katze"])
        >>> [label.get_text() for label in figure.axes[0].get_yticklabels()]
        ['die', 'Katze']
        >>> len(plot_attention({"before": weights, "after": weights}, ["the", "cat"]).axes)
        2
    """
    maps = _titled_maps(weights, layer, head, checked_title(title))
    source = token_list("source_tokens", source_tokens)
    target = source if target_tokens is None else token_list("target_tokens", target_tokens)
    for name, values in maps:
        check_fit(
            f"weights[{name!r}]" if isinstance(weights, Mapping) else "weights",
            values,
            source,
            target,
        )
    columns, rows, titles, families = _texts(source, target, [name for name, _ in maps])
    whose = ("token", "token looked at") if target_tokens is None else ("target", "source")
    arrays = [values for _, values in maps]
    largest = number_cell(arrays) if numbers else CELL
    cell = cell_size(arrays[0].shape, largest, LONGEST_SIDE if len(maps) == 1 else PANEL_SIDE)
    scale = (0.0, max(values.max() for values in arrays) or 1.0)  # 0: nothing is looked at
    return draw_maps(
        list(zip(titles, arrays, strict=True)),
        Sides(rows, columns, *whose, families),
        cell,
        "weight",
        scale,
        numbers,
    )


def _titled_maps(
    weights: Any, layer: int | None, head: int | None, title: str | None
) -> list[tuple[str, np.ndarray]]:
    """Return a title and one map `[T, S]` for each of the weights.

    Raises:
        ValueError: an empty dict, a title beside those of a dict, or as `one_map`.
    """
    if not isinstance(weights, Mapping):
        values, which = one_map(weights, layer, head)
        return [(title or (f"Attention, {which}" if which else "Attention"), values)]
    if not weights:
        raise ValueError(
            'weights must hold at least one map, such as {"layer 0": weights}. Received: weights={}'
        )
    if title is not None:
        raise ValueError(
            "title must be None where weights are a dict, whose names are the titles. "
            f"Received: title={title!r}"
        )
    return [(str(name), one_map(values, layer, head)[0]) for name, values in weights.items()]


def plot_attention_grid(
    weights: Any,
    source_tokens: Sequence[str],
    target_tokens: Sequence[str] | None = None,
    *,
    title: str | None = None,
) -> Figure:
    """Draw the maps of all layers and heads on one scale: a row of maps for each layer.

    Args:
        weights: of one sentence, `[L, N, T, S]`: layers, heads, queries, keys; see
            `plot_attention`.
        source_tokens: S pieces that are looked at.
        target_tokens: T pieces that look; None: the same as `source_tokens`.
        title: over the whole picture.

    Returns:
        A matplotlib `Figure`.

    Raises:
        ValueError: weights that are not from 0 to 1 or do not fit the tokens.

    Example:
        >>> weights = np.full((2, 4, 3, 3), 1 / 3)
        >>> figure = plot_attention_grid(weights, ["a", "b", "c"])
        >>> len(figure.axes)
        8
    """
    array = weight_array("weights", weights, {4: "[L, N, T, S] of all layers and heads"})
    source = token_list("source_tokens", source_tokens)
    target = source if target_tokens is None else token_list("target_tokens", target_tokens)
    check_fit("weights", array, source, target)
    columns, rows, (title,), families = _texts(source, target, [checked_title(title) or ""])
    cell = cell_size(array.shape[2:], SMALL_CELL, SMALL_SIDE)
    picture = new_picture()
    _draw_grid(picture, array, cell)
    layers, heads = array.shape[:2]
    whose = ("token", "token looked at") if target_tokens is None else ("target", "source")
    for index, axes in enumerate(picture.axes):
        if index % heads == 0:
            name_ticks(axes, "y", rows, families, "", cell)
        if index >= (layers - 1) * heads:
            name_ticks(axes, "x", columns, families, "", cell)
    note = skipped(named_step(cell))
    maps = extent(picture)  # measured once: it takes as long as drawing them
    left = _name_sides(picture, maps, whose[0] + note, whose[1] + note)
    _name_layers(picture, left, layers, heads)
    if title:
        _write_over(picture, maps.y1, title, families)
    return shrink_wrap(picture, maps)


def plot_token_attention(
    weights: Any,
    source_tokens: Sequence[str],
    target_tokens: Sequence[str] | None = None,
    *,
    token: int,
    title: str | None = None,
) -> Figure:
    """Draw where one token looks: a row for each head of each layer.

    Args:
        weights: of one sentence, `[L, N, T, S]`: layers, heads, queries, keys; see
            `plot_attention`.
        source_tokens: S pieces that are looked at.
        target_tokens: T pieces that look; None: the same as `source_tokens`.
        token: which of these, from 0.
        title: None: names the token.

    Returns:
        A matplotlib `Figure`.

    Raises:
        ValueError: weights that are not from 0 to 1 or do not fit the tokens; a token
            that is not there.

    Example:
        >>> weights = np.full((2, 4, 3, 3), 1 / 3)
        >>> figure = plot_token_attention(weights, ["a", "b", "c"], token=1)
        >>> figure.axes[0].get_title(loc="left")
        'Where "b" looks'
    """
    array = weight_array("weights", weights, {4: "[L, N, T, S] of all layers and heads"})
    source = token_list("source_tokens", source_tokens)
    target = source if target_tokens is None else token_list("target_tokens", target_tokens)
    check_fit("weights", array, source, target)
    token = place_of("token", token, len(target), ", the place of the token that looks")
    layers, heads = array.shape[:2]
    rows = [f"layer {layer}, head {head}" for layer in range(layers) for head in range(heads)]
    values = array[:, :, token].reshape(len(rows), len(source))
    title = checked_title(title)
    if title is None:
        title = f'Where "{label_of(target[token])}" looks'
    columns, rows, (title,), families = _texts(source, rows, [title])
    cell = cell_size(values.shape, CELL, LONGEST_SIDE)
    picture = new_picture()
    axes = add_axes(picture, 0, 0, cell * len(source), cell * len(rows))
    add_colour_bar(picture, axes, draw_map(axes, values, 0, values.max() or 1), "weight")
    for layer in range(1, layers):
        axes.axhline(layer * heads - 0.5, color="white", linewidth=1)
    name_ticks(axes, "y", rows, families, "", cell)
    name_ticks(axes, "x", columns, families, "token looked at", cell)
    write_title(axes, title, families)
    return shrink_wrap(picture)


def _texts(
    source: list[str], target: list[str], titles: list[str]
) -> tuple[list[str], list[str], list[str], list[str]]:
    """Return labels of columns and rows, titles, and the fonts that have all their letters."""
    labels = [label_of(token) for token in (*source, *target)]
    drawn, families = fonts_for([*labels, *titles])
    ends = len(source), len(source) + len(target)
    return drawn[: ends[0]], drawn[ends[0] : ends[1]], drawn[ends[1] :], families


def _draw_grid(picture: Picture, array: np.ndarray, cell: float) -> None:
    """Draw the maps of `[L, N, T, S]` row by row, without names of tokens, and their scale."""
    layers, heads, rows, columns = array.shape
    width, height = cell * columns, cell * rows
    for layer in range(layers):
        for head in range(heads):
            left, bottom = head * (width + BETWEEN), -layer * (height + BETWEEN)
            axes = add_axes(picture, left, bottom, width, height)
            image = draw_map(axes, array[layer, head], least=0, most=array.max() or 1)
            axes.set_xticks([])
            axes.set_yticks([])
            if layer == 0:
                axes.set_title(f"head {head}", fontsize=LABEL_SIZE, pad=3)
                if head == heads - 1:
                    add_colour_bar(picture, axes, image, "weight")


def _name_sides(picture: Picture, maps: Bbox, rows: str, columns: str) -> float:
    """Write once, for all maps, what their rows and their columns are; return the left edge."""
    across, up = picture.get_size_inches()
    places = [axes.get_position(original=True) for axes in picture.axes]
    middle = (places[0].x0 + places[-1].x1) / 2, (places[0].y1 + places[-1].y0) / 2
    picture.supxlabel(columns, x=middle[0], y=(maps.y0 - 0.06) / up, fontsize=LABEL_SIZE, va="top")
    beside = picture.supylabel(
        rows, x=(maps.x0 - 0.06) / across, y=middle[1], fontsize=LABEL_SIZE, ha="right"
    )
    return extent(picture, beside).x0


def _name_layers(picture: Picture, left: float, layers: int, heads: int) -> None:
    """Write the number of each layer beside its row, at the left of what is already there."""
    rows = picture.axes[::heads][:layers]
    across = picture.get_size_inches()[0]
    for layer, axes in enumerate(rows):
        place = axes.get_position(original=True)
        middle = (place.y0 + place.y1) / 2
        picture.text(
            (left - 0.1) / across, middle, f"layer {layer}", fontsize=LABEL_SIZE, rotation=90,
            ha="right", va="center",
        )  # fmt: skip


def _write_over(picture: Picture, top: float, title: str, families: Sequence[str]) -> None:
    """Write a title over all that is drawn."""
    up = picture.get_size_inches()[1]
    left = picture.axes[0].get_position(original=True).x0
    picture.text(
        left, (top + 0.1) / up, title, fontsize=TITLE_SIZE, family=list(families), parse_math=False
    )
