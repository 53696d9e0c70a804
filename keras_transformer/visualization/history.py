"""How training went: losses and metrics, training beside validation."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from keras_transformer.visualization.figures import (
    BLUE,
    LABEL_SIZE,
    VERMILION,
    add_axes,
    new_picture,
    shrink_wrap,
    spread,
    write_title,
)

NOT_METRICS = ("epoch", "step", "seconds")
IN_PERCENT = ("wer", "per", "exact_match")  # of the package's own measures; others are as they come
PANEL, PANELS_A_ROW = (3.2, 2.2), 3  # inches, and how many stand side by side

Rows = dict[str, list[float | None]]  # None: not measured then


def plot_history(history: Any, *, metrics: Sequence[str] | None = None) -> Figure:
    """Draw the course of a training: a panel for each metric, validation beside training.

    Args:
        history: what `model.fit` returns, its `history` dict (a list of numbers for each name), or
            the path of a run folder or of its `metrics.csv`.
        metrics: names without `val_`, in the order to draw; None: all.

    Returns:
        A matplotlib `Figure`.

    Raises:
        ValueError: nothing was recorded, no such metric, lists of different lengths, or a file
            that is missing or damaged.

    Example:
        >>> figure = plot_history({"loss": [2.0, 1.0], "val_loss": [2.5, 1.5], "accuracy": [0, 1]})
        >>> [axes.get_title(loc="left") for axes in figure.axes]
        ['loss', 'accuracy']
    """
    rows = _rows_of(history)
    epochs = max(map(len, rows.values()))
    x_name = "step" if "step" in rows else "epoch"
    places = [float(epoch + 1) for epoch in range(epochs)]
    if x_name == "step":
        places = [math.nan if step is None else step for step in rows["step"]]
    picture = new_picture()
    for name in _chosen(rows, metrics):
        axes = add_axes(picture, 0, 0, *PANEL)
        _draw_line(axes, places, rows.get(name), "training", BLUE, "-o")
        _draw_line(axes, places, rows.get(f"val_{name}"), "validation", VERMILION, "--s")
        axes.set_xlabel(x_name, fontsize=LABEL_SIZE)
        unit = " (%)" if name.endswith(IN_PERCENT) else ""
        axes.set_ylabel(name.replace("_", " ") + unit, fontsize=LABEL_SIZE)
        axes.tick_params(labelsize=LABEL_SIZE - 1)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, min_n_ticks=1))
        _show_all(axes, places, x_name)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=LABEL_SIZE - 1)
        write_title(axes, name.replace("_", " "), axes.title.get_fontfamily())
    spread(picture, picture.axes, PANELS_A_ROW)
    return shrink_wrap(picture)


def _rows_of(history: Any) -> Rows:
    """Return a list for each name, all equally long."""
    if isinstance(history, str | Path):
        return _read(Path(history))
    values = getattr(history, "history", history)
    if not isinstance(values, Mapping):
        raise ValueError(
            "history must be what model.fit returns, its dict, or the path of a run folder. "
            f"Received: {type(history).__name__}"
        )
    try:
        rows: Rows = {str(name): [float(v) for v in column] for name, column in values.items()}
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"history must hold a list of numbers for each name. Received: {error}"
        ) from error
    lengths = {name: len(column) for name, column in rows.items()}
    if not lengths or set(lengths.values()) == {0}:
        raise ValueError(
            f"history must hold at least one epoch. Train first. Received: {lengths or '{}'}"
        )
    if len(set(lengths.values())) > 1:
        raise ValueError(
            f"history must hold equally many numbers for each name. Received: {lengths}"
        )
    return rows


def _read(path: Path) -> Rows:
    """Read `metrics.csv`; an empty field is a metric that was not measured then."""
    path = path / "metrics.csv" if path.is_dir() else path
    try:
        with open(path, newline="", encoding="utf-8") as file:
            lines = list(csv.DictReader(file))
        names = list(lines[0]) if lines else []
        rows: Rows = {
            name: [float(line[name]) if line[name] else None for line in lines] for name in names
        }
    except (OSError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is missing or damaged ({error}).") from error
    if not rows:
        raise ValueError(f"{path} must hold at least one epoch. Train this run further first.")
    return rows


def _chosen(rows: Rows, metrics: Sequence[str] | None) -> list[str]:
    """Return which metrics to draw.

    Raises:
        ValueError: one that was not recorded, or none.
    """
    names = [name.removeprefix("val_") for name in rows if name not in NOT_METRICS]
    known = list(dict.fromkeys(names))
    wanted = known if metrics is None else [metrics] if isinstance(metrics, str) else list(metrics)
    unknown = [name for name in wanted if name not in known]
    if unknown or not wanted:
        raise ValueError(
            f"metrics must be some of those that were recorded: {', '.join(known) or 'none'}. "
            f"Received: metrics={unknown or metrics!r}"
        )
    return wanted


def _show_all(axes: Axes, places: Sequence[float], x_name: str) -> None:
    """Let the x axis reach over all epochs, also those without a finite value."""
    known = [place for place in places if math.isfinite(place)]
    if known:
        margin = 0.5 if x_name == "epoch" else max(0.5, 0.05 * (max(known) - min(known)))
        axes.set_xlim(min(known) - margin, max(known) + margin)
    if not any(len(np.asarray(line.get_xdata())) for line in axes.lines):
        axes.set_yticks([])
        axes.text(
            0.5, 0.4, "no finite value", transform=axes.transAxes, ha="center", fontsize=LABEL_SIZE
        )


def _draw_line(
    axes: Axes,
    places: Sequence[float],
    values: Sequence[float | None] | None,
    label: str,
    colour: str,
    style: str,
) -> None:
    """Draw the values that were measured; those that are no finite numbers are counted."""
    measured = [(x, y) for x, y in zip(places, values or (), strict=False) if y is not None]
    if not measured:
        return
    finite = [(x, y) for x, y in measured if math.isfinite(y)]
    if len(finite) < len(measured):
        label += f" ({len(measured) - len(finite)} not finite)"
    axes.plot(
        [x for x, _ in finite], [y for _, y in finite], style, color=colour, label=label,
        markersize=3 if len(finite) <= 50 else 0, linewidth=1.5,
    )  # fmt: skip
