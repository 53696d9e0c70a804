"""Compare the speed of the whole model with KerasHub's layers and with torch.nn.Transformer.

One training step and one forward pass of equal models on equal shapes (layer_contestants.py), 64
sentences of 32 + 32 tokens:

    python benchmarks/layers.py --rounds 7

It needs the extras [train], [jax] and [references]. Every contestant lives in a process of its own,
because a process has one Keras backend. They take turns, one step each, while the others are
stopped, so that all see the same machine.

Printed: medians; the ratio to the fastest peer, round by round, its median; the share of what the
machine does in a plain float32 matrix product (NumPy), measured in the same rounds. Exit code 1 if
a contestant failed.
"""

import argparse
import math
import resource
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from layer_contestants import CONTESTANTS, MATRIX, NAMES, WORK, floating_point_operations
from turns import Answer, Runner, print_failures


def main() -> None:
    """Start the contestants, let them take turns, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", nargs="+", choices=CONTESTANTS, metavar="NAME", help=NAMES)
    options = parser.parse_args()
    wanted = {"matrix product", *options.only} if options.only else set(CONTESTANTS)
    names = [name for name in CONTESTANTS if name in wanted]
    with tempfile.TemporaryDirectory() as logs:
        contestants = [Contestant(Runner(name, Path(logs, name))) for name in names]
        try:
            for contestant in contestants:
                contestant.start(options.threads)
            for number in range(options.rounds):
                turn = number % len(contestants)  # nobody always comes after the same neighbour
                for contestant in contestants[turn:] + contestants[:turn]:
                    contestant.take_turn()
        finally:
            for contestant in contestants:
                contestant.runner.end()
    print_table(contestants, options.threads)
    sys.exit(print_failures([contestant.runner for contestant in contestants]))


# What runs in the parent: one object for each process.


@dataclass
class Contestant:
    """A process and what was measured of it."""

    runner: Runner
    parameters: int = 0
    loss: float = math.nan  # of the first step
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

    def start(self, threads: int) -> None:
        """Start the process and wait until its first steps are compiled and made."""
        _, environment = CONTESTANTS[self.name]
        ready = self.runner.start(get_ready, (self.name, threads), environment, threads)
        if ready:
            self.parameters, self.loss = ready

    def take_turn(self) -> None:
        """Measure each kind of work once."""
        answer = self.runner.ask(WORK)
        for work, (seconds, cpu) in (answer or {}).items():
            self.seconds[work].append(seconds)
            self.cpu[work].append(cpu)


def print_table(contestants: list[Contestant], threads: int) -> None:
    """Print a line for each contestant; `ratio` above 1 is faster than the fastest peer."""
    machine = next(c for c in contestants if c.name == "matrix product")
    speed = None
    if not machine.error and machine.seconds["train"]:
        seconds = median(machine.seconds["train"])
        speed = 2 * MATRIX**3 / seconds
        cores = median(machine.cpu["train"]) / seconds
        print(f"\nmatrix product: {speed / 1e9:.1f} GFLOP/s on {cores:.1f} cores of {threads}")
        if cores < 0.9 * threads:
            print("The machine was busy with something else: the CPU ms say more than the ms.")
    for work in WORK:
        runners = [c for c in contestants if c is not machine and c.seconds[work]]
        peers = [c for c in runners if not c.name.startswith("ours")]
        best = min(peers, key=lambda c: median(c.seconds[work]), default=None)
        operations = floating_point_operations(work)
        print(f"\n{work}, {operations / 1e9:.1f} GFLOP, medians of {len(machine.seconds[work])}")
        head = f"{'':26}{'ms':>8}{'fastest':>9}{'CPU ms':>8}{'ratio':>8}{'of the product':>16}"
        print(head + f"{'parameters':>12}{'first loss':>12}")
        for c in contestants:
            if c.error:
                print(f"{c.name:26}  failed: {c.error.strip().splitlines()[-1][:100]}")
            if c not in runners:
                continue
            times = c.seconds[work]
            rounds = zip(best.seconds[work], times, strict=False) if best else ()
            ratio = median([peer / own for peer, own in rounds] or [math.nan])
            share = operations / median(times) / speed if speed else math.nan
            print(
                f"{c.name:26}{1e3 * median(times):8.0f}{1e3 * min(times):9.0f}"
                f"{1e3 * median(c.cpu[work]):8.0f}{ratio:8.2f}{share:16.1%}"
                f"{c.parameters:12,}{c.loss:12.3f}"
            )


# What runs in the processes.


def get_ready(name: str, threads: int) -> tuple[tuple[int, float], Answer]:
    """Make the contestant and its first steps; return parameters and loss, and the measurement."""
    make, _ = CONTESTANTS[name]
    parameters, steps = make(threads)
    loss = steps["train"]()

    def measure(works: Any) -> dict[str, tuple[float, float]]:
        measured = {}
        for work in works:
            begun, used = time.perf_counter(), cpu_seconds()
            steps[work]()
            measured[work] = (time.perf_counter() - begun, cpu_seconds() - used)
        return measured

    measure(WORK)
    return (parameters, loss), measure


def cpu_seconds() -> float:
    """Return what all threads of this process have used so far."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
