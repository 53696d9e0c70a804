"""What runs in the process of a contestant of `decode.py`."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from decode_contestants import CONTESTANTS, Call
from decode_tasks import Setting, Task
from turns import Answer


@dataclass(frozen=True)
class First:
    """What a task gives the first time, which is not measured.

    Attributes:
        refusal: why the task cannot be done; the rest is then empty.
        batches: which batches were decoded.
        rows: the real tokens of each sentence, batch by batch.
    """

    refusal: str
    batches: list[int]
    rows: list[list[list[int]]]


def get_ready(name: str, setting: Setting, tasks: dict[str, Task]) -> tuple[float, Answer]:
    """Load the engine; return the seconds that took, and what answers.

    It is asked `("first", task)`, `("again", task)` for seconds and CPU seconds of each batch, and
    `("memory", "")` for the most bytes the process has held.
    """
    begun = time.perf_counter()
    contestant = CONTESTANTS[name]
    engine = contestant.make(setting)
    took = time.perf_counter() - begun
    calls: dict[str, list[Call]] = {}

    def first(task: Task) -> First:
        refusal = engine.refusal(task)
        share = [] if refusal else task.share(contestant.slow)
        calls[task.name] = [engine.prepare(task.batches[i], task) for i in share]
        return First(refusal, share, [engine.rows(call()) for call in calls[task.name]])

    def answer(question: tuple[str, str]) -> Any:
        kind, task = question
        if kind == "memory":
            return most_bytes()
        return first(tasks[task]) if kind == "first" else [timed(call) for call in calls[task]]

    return took, answer


def timed(call: Call) -> tuple[float, float]:
    """Return seconds and CPU seconds (of all threads) of a call."""
    begun, used = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - begun, time.process_time() - used


def most_bytes() -> int:
    """Return the most memory this process has held, as Linux counts it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
