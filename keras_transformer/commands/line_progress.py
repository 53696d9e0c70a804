"""How far a command is with the lines of a file, on standard error."""

from __future__ import annotations

import contextlib
import os
import stat
import sys
from collections.abc import Callable, Iterator
from typing import BinaryIO

from rich.console import Console

from keras_transformer.commands import screen

BLOCK = 1 << 20


@contextlib.contextmanager
def line_progress() -> Iterator[Callable[[], None] | None]:
    """Show lines done and lines a second while standard input is worked on.

    Only where it is a file, standard error is a terminal, and standard output, which the bar
    would write into, is none. Nowhere is anything written to standard output.

    Returns:
        A context manager; what it gives is to be called after each line, or None: nothing is shown.
    """
    if sys.stderr.isatty() and not sys.stdout.isatty() and is_file(sys.stdin.buffer):
        with bar(lines_left(sys.stdin.buffer), screen.messages) as advance:
            yield advance
    else:
        yield None


def is_file(stream: BinaryIO) -> bool:
    """Return whether a stream reads a file, not a pipe, a terminal or a device."""
    try:
        return stat.S_ISREG(os.fstat(stream.fileno()).st_mode)
    except (OSError, ValueError):  # closed, or only in memory
        return False


def lines_left(file: BinaryIO) -> int:
    """Return how many lines there are from here to the end of a file; it is not moved."""
    start = file.tell()
    count, last = 0, b"\n"
    while block := file.read(BLOCK):
        count, last = count + block.count(b"\n"), block
    file.seek(start)
    return count if last.endswith(b"\n") else count + 1


@contextlib.contextmanager
def bar(total: int, console: Console) -> Iterator[Callable[[], None]]:
    """Show a bar of so many lines; what this context manager gives moves it by one."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class LinesPerSecond(ProgressColumn):
        def render(self, task: Task) -> Text:
            seconds = task.finished_time if task.finished else task.elapsed
            speed = screen.number(task.completed / seconds) if seconds else "-"
            return Text(f"{speed} lines/s")

    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        LinesPerSecond(),
        TimeRemainingColumn(elapsed_when_finished=True),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("", total=total)
        yield lambda: progress.advance(task)
