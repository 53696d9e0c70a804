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
import contextlib
import math
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from statistics import median
from typing import Any

from layer_contestants import CONTESTANTS, MATRIX, NAMES, WORK, floating_point_operations

PATIENCE = 300  # seconds for a contestant to get ready, or to make a step


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
        contestants = [Contestant(name, Path(logs, name)) for name in names]
        try:
            for contestant in contestants:
                contestant.start(options.threads)
            for number in range(options.rounds):
                turn = number % len(contestants)  # nobody always comes after the same neighbour
                for contestant in contestants[turn:] + contestants[:turn]:
                    contestant.take_turn()
        finally:
            for contestant in contestants:
                contestant.end()
    print_table(contestants, options.threads)
    for contestant in contestants:
        if contestant.error:
            print(f"\n{contestant.name} failed:\n{contestant.error}", file=sys.stderr)
    sys.exit(any(contestant.error for contestant in contestants))


# What runs in the parent: one object for each process.


@dataclass
class Contestant:
    """A process that makes one step when told, and is stopped in between."""

    name: str
    log: Path  # what the process writes to the screen
    error: str = ""
    parameters: int = 0
    loss: float = math.nan  # of the first step
    seconds: dict[str, list[float]] = field(default_factory=lambda: {w: [] for w in WORK})
    cpu: dict[str, list[float]] = field(default_factory=lambda: {w: [] for w in WORK})
    process: BaseProcess | None = None
    pipe: Any = None

    def start(self, threads: int) -> None:
        """Start the process and wait until its first steps are compiled and made."""
        _, environment = CONTESTANTS[self.name]
        before = dict(os.environ)
        os.environ.update(environment, OMP_NUM_THREADS=str(threads))
        context = get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(
            target=serve, args=(self.name, self.log, threads, theirs), daemon=True
        )
        begun = time.monotonic()
        self.process.start()
        os.environ.clear()
        os.environ.update(before)
        theirs.close()
        answer = self.receive()
        if answer:
            self.parameters, self.loss = answer
            took = time.monotonic() - begun
            print(f"{self.name}: ready after {took:.0f} s", flush=True)
            self.signal(signal.SIGSTOP)

    def take_turn(self) -> None:
        """Measure each kind of work once."""
        if self.error:
            return
        self.signal(signal.SIGCONT)
        for work in WORK:
            with contextlib.suppress(OSError):  # if it died, `receive` finds out how
                self.pipe.send(work)
            answer = self.receive()
            if not answer:
                return
            self.seconds[work].append(answer[0])
            self.cpu[work].append(answer[1])
        self.signal(signal.SIGSTOP)

    def receive(self) -> Any:
        """Return the answer of the process, or None: then `error` says why there is none."""
        try:
            if self.pipe.poll(PATIENCE):
                kind, answer = self.pipe.recv()
            else:
                kind, answer = "failed", f"no answer within {PATIENCE} s"
        except (EOFError, ConnectionError):
            assert self.process is not None
            self.process.join(5)
            said = self.log.read_text(errors="replace") if self.log.exists() else ""
            end = f"the process ended with exit code {self.process.exitcode}"
            kind, answer = "failed", f"{said[-2000:]}\n{end}"
        if kind == "failed":
            self.error = answer
            print(f"{self.name}: FAILED, {answer.strip().splitlines()[-1]}", flush=True)
            return None
        return answer

    def signal(self, number: int) -> None:
        """Stop the process or let it go on."""
        assert self.process is not None
        assert self.process.pid is not None
        os.kill(self.process.pid, number)

    def end(self) -> None:
        """Kill the process, also where it is stopped."""
        if self.process is not None:
            self.process.kill()
            self.process.join()


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


def serve(name: str, log: Path, threads: int, pipe: Connection) -> None:
    """Make the contestant, then one step for each word that comes through the pipe."""
    with open(log, "wb") as file:
        os.dup2(file.fileno(), 2)
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    warnings.simplefilter("ignore")
    try:
        make, _ = CONTESTANTS[name]
        parameters, steps = make(threads)
        loss = steps["train"]()
        for work in WORK:
            steps[work]()
        pipe.send(("ready", (parameters, loss)))
        while True:
            work = pipe.recv()
            begun, used = time.perf_counter(), cpu_seconds()
            steps[work]()
            pipe.send(("done", (time.perf_counter() - begun, cpu_seconds() - used)))
    except EOFError:
        pass
    except BaseException:
        pipe.send(("failed", traceback.format_exc()))


def cpu_seconds() -> float:
    """Return what all threads of this process have used so far."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
