"""Compare the speed of the whole model with KerasHub's layers and with torch.nn.Transformer.

One training step and one forward pass of equal models on equal shapes (layer_contestants.py), 64
sentences of 32 + 32 tokens:

    python benchmarks/layers.py --rounds 7

It needs the extras [train], [jax] and [references]. Every contestant lives in a process of its own,
because a process has one Keras backend. They take turns, one step each, while the others are
stopped, so that all see the same machine.

Printed: medians; the ratio to the fastest peer, round by round, its median; the share of what the
machine does in a plain float32 matrix product (NumPy), measured in the same rounds; the most memory
each process has held. Exit code 1 if a contestant failed.
"""

import argparse
import math
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from layer_contestants import (
    CONTESTANTS,
    MATRIX,
    NAMES,
    SIZES,
    WORK,
    Sizes,
    floating_point_operations,
)
from markdown_table import print_markdown
from turns import Answer, Runner, print_failures


def main() -> None:
    """Start the contestants, let them take turns, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--works", nargs="+", choices=WORK, default=list(WORK))
    parser.add_argument("--only", nargs="+", choices=CONTESTANTS, metavar="NAME", help=NAMES)
    options = parser.parse_args()
    contestants = compare(options.only, options.rounds, options.threads, options.works)
    print_table(contestants, options.threads, options.works)
    sys.exit(print_failures([contestant.runner for contestant in contestants]))


# What runs in the parent: one object for each process.


@dataclass
class Contestant:
    """A process and what was measured of it."""

    runner: Runner
    sizes: Sizes = SIZES
    parameters: int = 0
    loss: float = math.nan  # of the first step
    peak: int = 0  # most bytes held so far
    seconds: dict[str, list[float]] = field(default_factory=lambda: {w: [] for w in WORK})
    cpu: dict[str, list[float]] = field(default_factory=lambda: {w: [] for w in WORK})

    @property
    def name(self) -> str:
        """Its name in the table."""
        return self.runner.name

    @property
    def error(self) -> str:
        """Why it failed, or empty."""
        return self.runner.error

    def start(self, threads: int, works: Sequence[str] = WORK) -> None:
        """Start the process and wait until its first steps are compiled and made."""
        _, environment = CONTESTANTS[self.name]
        arguments = (self.name, threads, self.sizes, works)
        ready = self.runner.start(get_ready, arguments, environment, threads)
        if ready:
            self.parameters, self.loss = ready

    def take_turn(self, works: Sequence[str] = WORK) -> None:
        """Measure each kind of work once."""
        answer = self.runner.ask(works)
        if answer is None:
            return
        measured, self.peak = answer
        for work, (seconds, cpu) in measured.items():
            self.seconds[work].append(seconds)
            self.cpu[work].append(cpu)


def compare(
    only: Sequence[str] | None,
    rounds: int,
    threads: int,
    works: Sequence[str] = WORK,
    sizes: Sizes = SIZES,
) -> list[Contestant]:
    """Let the contestants take turns; None: all of them. The matrix product is always there."""
    wanted = {"matrix product", *only} if only else set(CONTESTANTS)
    names = [name for name in CONTESTANTS if name in wanted]
    with tempfile.TemporaryDirectory() as logs:
        contestants = [Contestant(Runner(name, Path(logs, name)), sizes) for name in names]
        try:
            for contestant in contestants:
                contestant.start(threads, works)
            for number in range(rounds):
                turn = number % len(contestants)  # nobody always comes after the same neighbour
                for contestant in contestants[turn:] + contestants[:turn]:
                    contestant.take_turn(works)
        finally:
            for contestant in contestants:
                contestant.runner.end()
    return contestants


HEAD = ("ms", "fastest", "CPU ms", "ratio", "of the product", "peak MB", "parameters", "first loss")


def print_table(contestants: list[Contestant], threads: int, works: Sequence[str] = WORK) -> None:
    """Print a line for each contestant; `ratio` above 1 is faster than the fastest peer."""
    machine = next(c for c in contestants if c.name == "matrix product")
    speed = speed_of(machine, works[0])
    if speed:
        cores = median(machine.cpu[works[0]]) / median(machine.seconds[works[0]])
        print(f"\nMatrix product: {speed / 1e9:.1f} GFLOP/s on {cores:.1f} cores of {threads}")
        if cores < 0.9 * threads:
            print("The machine was busy with something else: the CPU ms say more than the ms.")
    for work in works:
        runners = [c for c in contestants if c is not machine and c.seconds[work]]
        peers = [c for c in runners if not c.name.startswith("ours")]
        best = min(peers, key=lambda c: median(c.seconds[work]), default=None)
        operations = floating_point_operations(work, machine.sizes)
        title = f"{work}: {operations / 1e9:.1f} GFLOP, medians of {len(machine.seconds[work])}"
        rows = [row(c, work, best, operations / speed if speed else math.nan) for c in runners]
        print_markdown(title, ("", *HEAD), rows)


def row(c: Contestant, work: str, best: Contestant | None, least: float) -> list[str]:
    """Return the line of a contestant.

    Args:
        c: of it.
        work: what is shown.
        best: the fastest peer.
        least: seconds at the speed of the matrix product.
    """
    times = c.seconds[work]
    rounds = zip(best.seconds[work], times, strict=False) if best else ()
    ratio = median([peer / own for peer, own in rounds] or [math.nan])
    return [
        c.name,
        f"{1e3 * median(times):.0f}",
        f"{1e3 * min(times):.0f}",
        f"{1e3 * median(c.cpu[work]):.0f}",
        f"{ratio:.2f}",
        f"{least / median(times):.1%}",
        f"{c.peak / 1e6:,.0f}",
        f"{c.parameters:,}",
        f"{c.loss:.3f}",
    ]


def speed_of(machine: Contestant, work: str = "train") -> float | None:
    """Return the operations a second of the matrix product, the median; None if it failed."""
    seconds = machine.seconds[work]
    return 2 * MATRIX**3 / median(seconds) if seconds else None


# What runs in the processes.


def get_ready(
    name: str, threads: int, sizes: Sizes, works: Sequence[str]
) -> tuple[tuple[int, float], Answer]:
    """Make the contestant and its first steps; return parameters and loss, and the measurement."""
    make, _ = CONTESTANTS[name]
    parameters, steps = make(threads, sizes)
    loss = steps["train"]()

    def measure(works: Any) -> tuple[dict[str, tuple[float, float]], int]:
        measured = {}
        for work in works:
            begun, used = time.perf_counter(), cpu_seconds()
            steps[work]()
            measured[work] = (time.perf_counter() - begun, cpu_seconds() - used)
        return measured, peak_bytes()

    measure(works)
    return (parameters, loss), measure


def cpu_seconds() -> float:
    """Return what all threads of this process have used so far."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def peak_bytes() -> int:
    """Return the most memory this process has held so far (Linux counts in KB)."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    main()
