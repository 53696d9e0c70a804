"""Tables and the picture of `training.py`."""

import math
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from layer_contestants import Sizes, floating_point_operations
from layers import Contestant, speed_of
from markdown_table import print_markdown
from real_batches import GIVING_BACK, Entry, Prepared, better
from turns import Runner

BLUE, ORANGE = "#0072B2", "#D55E00"  # told apart by the colour-blind, and in grey
LABELS = {
    "d_model": "d_model (d_ff = 4 d_model)",
    "layers": "layers of encoder and decoder, each",
    "vocabulary": "tokens of the vocabulary",
    "length": "source and target length (positions of a batch the same)",
}


@dataclass(frozen=True)
class Point:
    """A step of ours with one size varied, and the matrix product in the same rounds."""

    axis: str
    value: int
    machine: Contestant
    ours: Contestant

    @property
    def runners(self) -> tuple[Runner, Runner]:
        """Both processes."""
        return self.machine.runner, self.ours.runner

    @property
    def operations(self) -> int:
        """Those of a training step."""
        return floating_point_operations("train", self.ours.sizes)

    @property
    def seconds(self) -> float:
        """A step of ours, the median."""
        return median(self.ours.seconds["train"] or [math.nan])

    @property
    def least(self) -> float:
        """Seconds for as many operations at the speed of the matrix product."""
        speed = speed_of(self.machine)
        return self.operations / speed if speed else math.nan


def print_real(entries: list[Entry], prepared: Prepared, sizes: Sizes, steps: int) -> None:
    """Print a line for each contestant, and the ratio of the better settings."""
    ours, peer = better(entries, "ours"), better(entries, "KerasHub")
    print(f"\n## Real text: {prepared.pairs:,} pairs, {sizes}")
    print(
        f"\nThe fixed length of {sizes.source} cuts {prepared.cut:,} pairs "
        f"({prepared.cut / prepared.pairs:.1%}). A turn is {steps} steps."
    )
    rows = [
        [
            entry.runner.name,
            f"{median(entry.speeds):,.0f}",
            f"{max(entry.speeds):,.0f}",
            f"{median(t.tokens / t.cpu for t in entry.turns):,.0f}",
            f"{ratio(entry, peer):.2f}",
            f"{median(1e3 * t.seconds / steps for t in entry.turns):,.0f}",
            f"{median(t.tokens / steps for t in entry.turns):,.0f}",
            f"{entry.padding:.1%}",
            f"{entry.shapes}",
            f"{entry.turns[-1].peak / 1e6:,.0f}",
            f"{entry.parameters:,}",
        ]
        for entry in entries
        if entry.turns
    ]
    head = (
        *("", "target tokens/s", "fastest", "tokens/CPU s", "ratio", "ms a step"),
        *("tokens a step", "padding", "shapes", "peak MB", "parameters"),
    )
    rounds = max((len(entry.turns) for entry in entries), default=0)
    print_markdown(f"Medians of {rounds} turns; the ratio is to {name_of(peer)}", head, rows)
    if ours and peer:
        each = sorted(a / b for a, b in zip(ours.speeds, peer.speeds, strict=False))
        print(
            f"\n**{ours.runner.name} / {peer.runner.name}: {median(each):.2f} x** real target "
            f"tokens a second ({each[0]:.2f} to {each[-1]:.2f} in {len(each)} rounds)"
        )


def ratio(entry: Entry, peer: Entry | None) -> float:
    """Return the median over the rounds of how much faster it is than the peer."""
    rounds = zip(entry.speeds, peer.speeds, strict=False) if peer else ()
    return median([own / theirs for own, theirs in rounds] or [math.nan])


def name_of(entry: Entry | None) -> str:
    """Return its name, or that there is none."""
    return entry.runner.name if entry else "nobody"


def print_memory(memory: list[tuple[str, str, int]]) -> None:
    """Print the most memory of each process: (part, name, bytes)."""
    rows = [[f"{part}: {name}", f"{peak / 1e6:,.0f}"] for part, name, peak in memory]
    print_markdown("## Peak memory of each process", ("", "peak MB"), rows)
    peaks = {name: peak for part, name, peak in memory if part == "real text"}
    if GIVING_BACK in peaks and "ours, TensorFlow" in peaks:
        more = peaks["ours, TensorFlow"] / peaks[GIVING_BACK]
        print(f"\nKeeping freed memory takes {more:.2f} x the memory of giving it back.")


def print_costs(points: list[Point]) -> None:
    """Print a line for each point of the grid."""
    rows = [
        [
            f"{point.axis} {point.value:,}",
            f"{1e3 * point.seconds:,.0f}",
            f"{1e3 * min(point.ours.seconds['train']):,.0f}",
            f"{1e3 * median(point.ours.cpu['train']):,.0f}",
            f"{point.operations / 1e9:.1f}",
            f"{point.least / point.seconds:.1%}",
            f"{point.ours.peak / 1e6:,.0f}",
            f"{point.ours.parameters:,}",
        ]
        for point in points
        if point.ours.seconds["train"]
    ]
    head = ("", "ms", "fastest", "CPU ms", "GFLOP", "of the product", "peak MB", "parameters")
    print_markdown("## What a training step costs", head, rows)


def draw(path: Path, points: list[Point]) -> None:
    """Draw ms of a step against each size, and what the matrix product would take."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(2, 2, figsize=(10, 7))
    for panel, axis in zip(panels.flat, LABELS, strict=True):
        shown = [p for p in points if p.axis == axis and p.ours.seconds["train"]]
        values = [point.value for point in shown]
        times = [1e3 * point.seconds for point in shown]
        fastest = [1e3 * min(point.ours.seconds["train"]) for point in shown]
        slowest = [1e3 * max(point.ours.seconds["train"]) for point in shown]
        panel.fill_between(values, fastest, slowest, color=BLUE, alpha=0.2, linewidth=0)
        panel.plot(values, times, "o-", color=BLUE, label="a training step, median and range")
        least = [1e3 * point.least for point in shown]
        panel.plot(values, least, "s--", color=ORANGE, label="its operations as a matrix product")
        panel.set_xlabel(LABELS[axis])
        panel.set_ylabel("ms")
        panel.set_xticks(values, [f"{value:,}" for value in values])
        panel.set_xlim(left=0)
        panel.set_ylim(bottom=0)
        panel.spines[["top", "right"]].set_visible(False)
    panels.flat[0].legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None)
    pyplot.close(figure)
