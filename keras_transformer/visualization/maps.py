"""A map of numbers with tokens at its sides: what most pictures are made of."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.image import AxesImage

from keras_transformer.visualization.figures import COLOURS, LABEL_SIZE, Picture

BAR_WIDTH, BAR_GAP, BAR_HEIGHT = 0.12, 0.1, 3.0  # inches
SMALLEST_SIDE = 1.2  # of the longer side of a map


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
