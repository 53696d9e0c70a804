"""The curve of a training run: losses, translation quality and learning rate as a picture."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np

from keras_transformer.backend import install_hint
from keras_transformer.evaluation import LABELS
from keras_transformer.files import replacing

# Of the eight colours that Okabe and Ito chose for every kind of sight; lines and marks differ too.
TRAINING = {"color": "#0072B2", "linestyle": "-", "marker": "."}
VALIDATION = {"color": "#D55E00", "linestyle": "--", "marker": "o", "markersize": 3}
AVERAGED = {"color": "#009E73", "linestyle": ":", "marker": "s", "markersize": 3}
RATE = {"color": "#000000", "linestyle": "-", "marker": "."}

Line = tuple[str, str, dict[str, Any]]  # column, label, style


def draw_curve(metrics: Path, picture: Path, metric: str = "loss") -> None:
    """Write the picture of a `metrics.csv` as a PNG file, which appears whole or not at all.

    Arguments and errors as in `curve_of`; an OSError also where it cannot be written.
    """
    figure = curve_of(metrics, metric)
    with replacing(picture) as aside:
        figure.savefig(aside, format="png", dpi=120)


def curve_of(metrics: Path, metric: str = "loss") -> Any:
    """Return a figure of the rows of a `metrics.csv` against steps and hours.

    There is a panel for the losses, one for the translation quality where it was measured, and one
    for the learning rate where it was logged.

    Args:
        metrics: the file; it needs the columns `step` and `seconds`, and at least one row.
        metric: the measure whose column `val_<metric>` is drawn; `loss`: none.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ImportError: matplotlib is not installed.
        OSError: the file cannot be read.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(f"A curve needs matplotlib. {install_hint('train')}") from error
    columns = _read(metrics)
    panels = _panels(columns, metric)
    figure = Figure(figsize=(8, 1 + 2.5 * len(panels)), layout="constrained")
    axes = figure.subplots(len(panels), sharex=True, squeeze=False)[:, 0]
    for axis, (label, lines) in zip(axes, panels, strict=True):
        for column, name, style in lines:
            axis.plot(columns["step"], columns[column], label=name, **style)
        axis.set_ylabel(label)
        axis.grid(alpha=0.3)
        if len(lines) > 1:
            axis.legend(frameon=False)
    axes[-1].set_xlabel("steps")
    axes[-1].set_xlim(left=0)
    _add_hours(axes[0], columns["step"], columns["seconds"])
    return figure


def _read(metrics: Path) -> dict[str, np.ndarray]:
    """Return the columns as numbers; what is no number, as in a row without it, is NaN."""
    with open(metrics, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {name: np.array([_number(row[name]) for row in rows]) for name in rows[0]}


def _number(text: str | None) -> float:
    try:
        return float(text or "nan")
    except ValueError:
        return float("nan")


def _panels(columns: dict[str, np.ndarray], metric: str) -> list[tuple[str, list[Line]]]:
    """Return the label of each panel and its lines: those of which there are numbers."""
    wanted: list[tuple[str, list[Line]]] = [
        (
            "loss (nats a token)",
            [
                ("loss", "training", TRAINING),
                ("val_loss", "validation", VALIDATION),
                ("val_averaged_loss", "validation, mean of weights", AVERAGED),
            ],
        ),
        (
            LABELS.get(metric, ""),
            [
                (f"val_{metric}", "validation", VALIDATION),
                (f"val_averaged_{metric}", "validation, mean of weights", AVERAGED),
            ],
        ),
        ("learning rate", [("learning_rate", "learning rate", RATE)]),
    ]
    found = [
        (
            label,
            [line for line in lines if line[0] in columns and np.isfinite(columns[line[0]]).any()],
        )
        for label, lines in wanted
        if label
    ]
    return [(label, lines) for label, lines in found if lines]


def _add_hours(axis: Any, steps: np.ndarray, seconds: np.ndarray) -> None:
    """Say above the picture how much training time each marked step took; minutes, if few."""
    unit, length = ("hours", 3600) if seconds[-1] >= 3600 else ("minutes", 60)
    marks = [mark for mark in axis.get_xticks() if steps[0] <= mark <= steps[-1]]
    top = axis.twiny()
    top.set_xlim(axis.get_xlim())
    top.set_xticks(marks, [f"{time:.2g}" for time in np.interp(marks, steps, seconds) / length])
    top.set_xlabel(unit)
