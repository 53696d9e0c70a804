"""Processes that take turns: each answers when asked, and is stopped while the others work."""

import contextlib
import ctypes
import os
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

PATIENCE = 300.0  # seconds
DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG of Linux

Answer = Callable[[Any], Any]
# Runs in the process: what it says when it is ready, and how it answers
Maker = Callable[..., tuple[Any, Answer]]


@dataclass
class Runner:
    """A process that is stopped between its answers, so that all see the same machine.

    Attributes:
        name: for the screen.
        log: what the process writes to stderr.
        error: why it cannot answer any more, or empty.
        quiet: do not say when it is ready.
        patience: seconds for it to get ready, or to answer.
    """

    name: str
    log: Path
    error: str = ""
    quiet: bool = False
    patience: float = PATIENCE
    process: BaseProcess | None = None
    pipe: Any = None

    def start(
        self, maker: Maker, arguments: tuple[Any, ...], environment: dict[str, str], threads: int
    ) -> Any:
        """Start the process; return what it says when it is ready, or None if it failed."""
        before = dict(os.environ)
        os.environ.update(environment, OMP_NUM_THREADS=str(threads))
        context = get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(
            target=serve, args=(maker, arguments, self.log, threads, theirs), daemon=True
        )
        begun = time.monotonic()
        self.process.start()
        os.environ.clear()
        os.environ.update(before)
        theirs.close()
        answer = self._receive()
        if not self.error:
            if not self.quiet:
                print(f"{self.name}: ready after {time.monotonic() - begun:.0f} s", flush=True)
            self._signal(signal.SIGSTOP)
        return answer

    def ask(self, question: Any) -> Any:
        """Let the process go on until it has answered; None if it failed, now or before."""
        if self.error:
            return None
        self._signal(signal.SIGCONT)
        with contextlib.suppress(OSError):  # if it died, `_receive` finds out how
            self.pipe.send(question)
        answer = self._receive()
        if not self.error:
            self._signal(signal.SIGSTOP)
        return answer

    def end(self) -> None:
        """Kill the process, also where it is stopped."""
        if self.process is not None:
            self.process.kill()
            self.process.join()

    def _receive(self) -> Any:
        try:
            if self.pipe.poll(self.patience):
                kind, answer = self.pipe.recv()
            else:
                kind, answer = "failed", f"no answer within {self.patience} s"
        except (EOFError, ConnectionError):
            assert self.process is not None
            self.process.join(5)
            said = self.log.read_text(errors="replace") if self.log.exists() else ""
            end = f"the process ended with exit code {self.process.exitcode}"
            kind, answer = "failed", f"{said[-2000:]}\n{end}"
        if kind != "failed":
            return answer
        self.error = answer
        print(f"{self.name}: FAILED, {answer.strip().splitlines()[-1]}", flush=True)
        return None

    def _signal(self, number: int) -> None:
        assert self.process is not None
        assert self.process.pid is not None
        os.kill(self.process.pid, number)


def print_failures(runners: list[Runner]) -> bool:
    """Print the errors, whole; return whether there are any."""
    for runner in runners:
        if runner.error:
            print(f"\n{runner.name} failed:\n{runner.error}", file=sys.stderr)
    return any(runner.error for runner in runners)


def serve(
    maker: Maker, arguments: tuple[Any, ...], log: Path, threads: int, pipe: Connection
) -> None:
    """Get ready, then answer whatever comes through the pipe: the life of the process."""
    ctypes.CDLL(None).prctl(DIE_WITH_PARENT, signal.SIGKILL)  # it may be stopped at that moment
    with open(log, "wb") as file:
        os.dup2(file.fileno(), 2)
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    warnings.simplefilter("ignore")
    try:
        ready, answer = maker(*arguments)
        pipe.send(("ready", ready))
        while True:
            pipe.send(("done", answer(pipe.recv())))
    except EOFError:
        pass
    except BaseException:
        pipe.send(("failed", traceback.format_exc()))
