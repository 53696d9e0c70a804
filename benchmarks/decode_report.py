"""Tables, files and the picture of `decode.py`."""

import csv
import json
import math
import platform
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from decode_process import First
from decode_tasks import Task

HEAD = f"{'':24}{'sentences':>10}{'tokens':>9}{'s':>9}{'tokens/s':>10}{'ratio':>8}{'CPU ratio':>11}"


@dataclass(frozen=True)
class Footprint:
    """Seconds to import and load, and the most bytes held by the process."""

    load: float
    memory: float


@dataclass
class Entry:
    """A task done by a contestant.

    Attributes:
        first: its outputs.
        rounds: for each round seconds and CPU seconds of each batch.
        ratio, cpu_ratio: tokens for each second, of the clock and of CPU, to those of the baseline.
        same: outputs that are those of Keras, of `compared`.
    """

    first: First
    rounds: list[list[tuple[float, float]]] = field(default_factory=list)
    ratio: float = math.nan
    cpu_ratio: float = math.nan
    same: int = 0
    compared: int = 0

    @property
    def sentences(self) -> int:
        """How many were decoded."""
        return sum(len(rows) for rows in self.first.rows)

    @property
    def tokens(self) -> int:
        """Real tokens of all outputs, end symbols included."""
        return self.tokens_of(self.first.batches)

    @property
    def seconds(self) -> float:
        """The median over the rounds."""
        return median([sum(s for s, _ in times) for times in self.rounds] or [math.nan])

    @property
    def cpu_seconds(self) -> float:
        """The median over the rounds."""
        return median([sum(cpu for _, cpu in times) for times in self.rounds] or [math.nan])

    def tokens_of(self, batches: list[int]) -> int:
        """Return the tokens of some of its batches."""
        rows = dict(zip(self.first.batches, self.first.rows, strict=True))
        return sum(len(row) for batch in batches for row in rows[batch])

    def costs_of(self, batches: list[int], clock: int) -> list[float]:
        """Return for each round what some of its batches took: clock 0, or CPU 1."""
        places = [self.first.batches.index(batch) for batch in batches]
        return [sum(times[place][clock] for place in places) for times in self.rounds]

    def compare(self, baseline: "Entry | None", keras: "Entry | None") -> None:
        """Fill in the ratios, and how many outputs are the same."""
        batches = self.first.batches
        if baseline is not None:
            work = self.tokens / baseline.tokens_of(batches)
            self.ratio, self.cpu_ratio = (
                work * median([b / a for a, b in zip(own, theirs, strict=False)] or [math.nan])
                for own, theirs in (
                    (self.costs_of(batches, clock), baseline.costs_of(batches, clock))
                    for clock in (0, 1)
                )
            )
        if keras is not None:
            right = dict(zip(keras.first.batches, keras.first.rows, strict=True))
            both = [i for i in batches if i in right]
            rows = dict(zip(batches, self.first.rows, strict=True))
            pairs = [pair for i in both for pair in zip(rows[i], right[i], strict=True)]
            self.compared, self.same = len(pairs), sum(a == b for a, b in pairs)


Entries = dict[tuple[str, str], Entry]


def print_tables(
    tasks: dict[str, Task], entries: Entries, footprints: dict[str, Footprint], rounds: int
) -> None:
    """Print one table for each search and batch size, one of lengths, one of load and memory."""
    names = list(dict.fromkeys(name for _, name in entries))
    for task in tasks.values():
        if task.forced_length:
            continue
        print(f"\n{task.name}, medians of {rounds}\n{HEAD}  as Keras")
        for name in names:
            if (task.name, name) in entries:
                print(row(name, entries[task.name, name]))
    lengths = [task for task in tasks.values() if task.forced_length]
    if lengths:
        head = "".join(f"{task.forced_length:>10}" for task in lengths)
        print(f"\nms for one output of so many tokens, greedy, batch 1\n{'':24}{head}")
    for name in names if lengths else ():
        cells = [entries.get((task.name, name)) for task in lengths]
        if any(cells):
            print(f"{name:24}" + "".join(f"{milliseconds(cell):>10}" for cell in cells))
    if footprints:
        print(f"\n{'':24}{'load s':>10}{'peak MB':>10}   (each in fresh processes)")
    for name, footprint in footprints.items():
        print(f"{name:24}{footprint.load:10.2f}{footprint.memory / 1e6:10.0f}")


def row(name: str, entry: Entry) -> str:
    """Return the line of a contestant."""
    same = f"{entry.same}/{entry.compared}" if entry.compared else "-"
    return (
        f"{name:24}{entry.sentences:10}{entry.tokens:9}{entry.seconds:9.3f}"
        f"{entry.tokens / entry.seconds:10.0f}{entry.ratio:8.2f}{entry.cpu_ratio:11.2f}  {same:>8}"
    )


def milliseconds(entry: Entry | None) -> str:
    """Return the time of one sentence."""
    return "-" if entry is None else f"{1e3 * entry.seconds / entry.sentences:.1f}"


def write(
    path: Path,
    options: dict[str, Any],
    tasks: dict[str, Task],
    entries: Entries,
    footprints: dict[str, Footprint],
) -> None:
    """Write a row for each task and contestant as CSV, or all of it as JSON."""
    rows = [
        {
            "task": task,
            "contestant": name,
            "beam_size": tasks[task].beam_size,
            "batch_size": max(len(batch) for batch in tasks[task].batches),
            "sentences": entry.sentences,
            "tokens": entry.tokens,
            "seconds": entry.seconds,
            "cpu_seconds": entry.cpu_seconds,
            "tokens_per_second": entry.tokens / entry.seconds,
            "ratio": entry.ratio,
            "cpu_ratio": entry.cpu_ratio,
            "same_as_keras": entry.same,
            "compared": entry.compared,
        }
        for (task, name), entry in entries.items()
    ]
    if path.suffix == ".csv":
        with open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        return
    for one, entry in zip(rows, entries.values(), strict=True):
        one["rounds"] = [sum(seconds for seconds, _ in times) for times in entry.rounds]
    contents = {
        "machine": f"{platform.machine()}, {platform.system()}, Python {platform.python_version()}",
        "options": {name: str(value) for name, value in options.items()},
        "results": rows,
        "footprints": {name: asdict(footprint) for name, footprint in footprints.items()},
    }
    path.write_text(json.dumps(contents, indent=1) + "\n", encoding="utf-8")


def draw(path: Path, tasks: dict[str, Task], entries: Entries) -> None:
    """Draw tokens/s of each contestant, a panel for each search and batch size."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    shown = [name for name, task in tasks.items() if not task.forced_length]
    if not shown:
        return
    rows = math.ceil(len(shown) / 2)
    figure, panels = pyplot.subplots(rows, 2, figsize=(10, 2.8 * rows), squeeze=False)
    for panel in panels.flat[len(shown) :]:
        panel.axis("off")
    for panel, task in zip(panels.flat, shown, strict=False):
        found = {name: entry for (of, name), entry in entries.items() if of == task}
        speeds = [entry.tokens / entry.seconds for entry in found.values()]
        colours = ["tab:blue" if name.startswith("ours") else "tab:gray" for name in found]
        bars = panel.barh(list(found), speeds, color=colours)
        panel.bar_label(bars, [f"{entry.ratio:.2f} x" for entry in found.values()], padding=3)
        panel.invert_yaxis()
        panel.margins(x=0.2)
        panel.set_title(f"{task}: output tokens/s")
        panel.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None)
    pyplot.close(figure)
