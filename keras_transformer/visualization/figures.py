"""A figure that fits what is drawn in it, and shows once in Jupyter."""

from __future__ import annotations

import io
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Affine2D, Bbox

MARGIN = 0.1  # inches around a picture
TITLE_SIZE = 11  # points
LABEL_SIZE = 9
COLOURS = "cividis"  # a map that is even, also for readers who see few colours, and in print
# Okabe and Ito's colours, which all readers can tell apart.
BLUE, VERMILION, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#7F7F7F"


class Picture(Figure):
    """A matplotlib figure that pyplot does not know.

    So none is left open, and `plt.show` is not needed: Jupyter draws what a cell returns.
    """

    def _repr_png_(self) -> bytes:
        with io.BytesIO() as file:
            self.savefig(file, format="png")
            return file.getvalue()


def new_picture(width: float = 6.0, height: float = 4.0) -> Picture:
    """Return an empty picture of a size in inches; `shrink_wrap` gives it its final one."""
    picture = Picture(figsize=(width, height), dpi=100)
    picture.set_layout_engine("none")  # whatever the user's settings are: sizes are given here
    FigureCanvasAgg(picture)
    return picture


def add_axes(picture: Picture, left: float, bottom: float, width: float, height: float) -> Axes:
    """Add axes at a place and of a size in inches; `shrink_wrap` moves the picture around it."""
    across, up = picture.get_size_inches()
    return picture.add_axes((left / across, bottom / up, width / across, height / up))


def extent(picture: Picture, part: Axes | Text | None = None) -> Bbox:
    """Return the box in inches around all that is drawn, or around one part with its labels."""
    renderer = picture.canvas.get_renderer()  # pyright: ignore[reportAttributeAccessIssue]
    if part is None:
        return picture.get_tightbbox(renderer)
    box = part.get_tightbbox(renderer)
    if box is None:
        raise RuntimeError("A part of a picture has nothing that is drawn.")
    return box.transformed(picture.dpi_scale_trans.inverted())


def shrink_wrap(picture: Picture, around_axes: Bbox | None = None) -> Picture:
    """Make a picture as large as what is drawn in it: no label is cut and nothing is moved.

    Axes and texts keep their places to each other and axes their sizes in inches.

    Args:
        picture: the picture.
        around_axes: the box around all but `picture.texts`, where it is known; None: measured.
    """
    across, up = picture.get_size_inches()
    if around_axes is None:
        box = extent(picture).padded(MARGIN)
    else:
        texts = [extent(picture, text) for text in picture.texts]
        box = Bbox.union([around_axes, *texts]).padded(MARGIN)
    width, height = box.width, box.height
    for axes in picture.axes:
        old = axes.get_position(original=True)
        axes.set_position(
            (
                (old.x0 * across - box.x0) / width,
                (old.y0 * up - box.y0) / height,
                old.width * across / width,
                old.height * up / height,
            )
        )
    for text in picture.texts:
        x, y = text.get_position()
        text.set_position(((x * across - box.x0) / width, (y * up - box.y0) / height))
    picture.set_size_inches(width, height)
    return picture


def spread(picture: Picture, panels: Sequence[Axes], columns: int, gap: float = 0.25) -> None:
    """Put panels of one size into rows, as near as their labels allow.

    Args:
        picture: the picture.
        panels: axes of equal size, each with its labels.
        columns: how many stand side by side.
        gap: inches between what is drawn of two panels.
    """
    across, up = picture.get_size_inches()
    scale = Affine2D().scale(across, up)
    inner = panels[0].get_position(original=True).transformed(scale)
    around = []
    for panel in panels:
        corner = panel.get_position(original=True).transformed(scale)
        around.append(extent(picture, panel).translated(-corner.x0, -corner.y0))
    all_around = Bbox.union(around)
    for index, panel in enumerate(panels):
        row, column = divmod(index, columns)
        panel.set_position(
            (
                column * (all_around.width + gap) / across,
                -row * (all_around.height + gap) / up,
                inner.width / across,
                inner.height / up,
            )
        )


def write_title(axes: Axes, title: str | None, families: Sequence[str]) -> None:
    """Write a title over axes, at their left edge, where there is one."""
    if title:
        axes.set_title(
            title, loc="left", fontsize=TITLE_SIZE, family=list(families), parse_math=False
        )
