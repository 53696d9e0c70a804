"""A map of numbers with tokens at its sides: what most pictures are made of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.image import AxesImage

from keras_transformer.visualization.figures import (
    COLOURS,
    LABEL_SIZE,
    Picture,
    add_axes,
    new_picture,
    shrink_wrap,
    spread,
    write_title,
)
from keras_transformer.visualization.labels import POINTS, SMALLEST_SIZE, name_ticks

BAR_WIDTH, BAR_GAP, BAR_HEIGHT = 0.12, 0.1, 3.0  # inches
SMALLEST_SIDE = 1.2  # of the longer side of a map
PANELS_A_ROW = 3
NUMBER_SIZE = LABEL_SIZE - 1  # points
DIGIT = 0.65  # a digit, point or sign is at most so many times as wide as its font is high
DARK = 0.6  # of the scale of colours: numbers on what is below are white


class Sides(NamedTuple):
    """What stands at the two sides of a map: a label for each row and column, and their names."""

    rows: list[str]
    columns: list[str]
    row_name: str
    column_name: str
    families: list[str]  # of fonts


def cell_size(counts: Sequence[int], largest: float, longest: float) -> float:
    """Return inches from one cell to the next.

    They are at most `largest`, but for a few tokens, whose map would be too small to see; and all
    cells fit within `longest`.
    """
    return min(max(largest, SMALLEST_SIDE / max(counts)), longest / max(counts))


def draw_map(
    axes: Axes, values: np.ndarray, least: float | None = None, most: float | None = None
) -> AxesImage:
    """Draw `[T, S]` with row 0 on top; colours go from `least` to `most`, or fit the values."""
    return axes.imshow(
        values, cmap=COLOURS, vmin=least, vmax=most, aspect="auto", interpolation="nearest"
    )


def draw_maps(
    maps: Sequence[tuple[str, np.ndarray]],
    sides: Sides,
    cell: float,
    what: str,
    scale: tuple[float, float] | None = None,
    numbers: bool = False,
) -> Picture:
    """Draw maps `[T, S]` of equal size side by side, at most three in a row, and four as a square.

    Args:
        maps: titles and numbers; an empty title is not written.
        sides: labels of rows and columns.
        cell: inches from one cell to the next.
        what: name of the numbers.
        scale: least and most of the colours of all maps; None: each has colours of its own.
        numbers: whether each number is written in its cell.
    """
    picture = new_picture()
    for title, values in maps:
        axes = add_axes(picture, 0, 0, cell * len(sides.columns), cell * len(sides.rows))
        image = draw_map(axes, values, *(scale or ()))
        if numbers:
            write_numbers(axes, image, values, cell)
        if scale is None:
            add_colour_bar(picture, axes, image, what)
        name_ticks(axes, "y", sides.rows, sides.families, sides.row_name, cell)
        name_ticks(axes, "x", sides.columns, sides.families, sides.column_name, cell)
        write_title(axes, title, sides.families)
    if len(maps) > 1:
        spread(picture, picture.axes, 2 if len(maps) == 4 else PANELS_A_ROW)
    if scale is not None:  # one bar says it for all
        add_colour_bar(picture, picture.axes[-1], picture.axes[-1].images[0], what)
    return shrink_wrap(picture)


def number_cell(maps: Iterable[np.ndarray]) -> float:
    """Return inches of a cell in which the longest number of some maps can be written."""
    return max(len(_written(value)) for values in maps for value in values.flat) * (
        DIGIT * NUMBER_SIZE / POINTS
    )


def _written(value: float) -> str:
    return f"{value:z.2f}"  # z: no minus before 0.00


def write_numbers(axes: Axes, image: AxesImage, values: np.ndarray, cell: float) -> None:
    """Write each number of a map in its cell, with two decimals.

    Raises:
        ValueError: cells too small for numbers that can be read.
    """
    size = min(NUMBER_SIZE, NUMBER_SIZE * cell / number_cell([values]))
    if size < SMALLEST_SIZE:
        raise ValueError(
            "numbers=True needs fewer tokens, or there is no room for the numbers in their cells. "
            f"Draw a part of the map. Received: {values.shape[0]} rows, {values.shape[1]} columns"
        )
    shades = np.asarray(image.norm(values))
    for (row, column), value in np.ndenumerate(values):
        axes.text(
            column, row, _written(value), fontsize=size, ha="center", va="center",
            color="white" if shades[row, column] < DARK else "black",
        )  # fmt: skip


def add_colour_bar(picture: Picture, axes: Axes, image: AxesImage, what: str) -> None:
    """Put a scale of the colours at the right of a map, named and no higher than the map."""
    width, height = axes.get_position(original=True).size * picture.get_size_inches()
    high = min(1.0, BAR_HEIGHT / height)
    place = axes.inset_axes((1 + BAR_GAP / width, 1 - high, BAR_WIDTH / width, high))
    bar = picture.colorbar(image, cax=place)
    bar.set_label(what, fontsize=LABEL_SIZE)
    bar.ax.tick_params(labelsize=LABEL_SIZE - 1)
    if height < 1:  # inches: few numbers have room
        bar.ax.locator_params(axis="y", nbins=3)
