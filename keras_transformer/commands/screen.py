"""What commands share: two consoles, errors of one screen, exit codes, and how things are said."""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path

import typer
from rich.console import Console
from rich.markup import escape
from rich.text import Text

from keras_transformer import backend
from keras_transformer.files import FULL

FAILED = 1  # the disk is full, an export is not equal, a bundle was changed
BAD_INPUT = 2  # as the parser of options has it
BROKEN_PIPE = 141  # as shells say it of programs whose reader left
INTERRUPTED = 130  # as shells say it of programs ended by Ctrl-C
TRACEBACK = "KERAS_TRANSFORMER_TRACEBACK"

out = Console(highlight=False)
messages = Console(highlight=False, stderr=True)


@contextlib.contextmanager
def errors() -> Iterator[None]:
    """Turn what a command may raise into one message on stderr and an exit code.

    Wrong input is a `ValueError` everywhere in this project, and its message says what to do.
    With KERAS_TRANSFORMER_TRACEBACK=1 the traceback comes first.

    Raises:
        typer.Exit: with the code.
    """
    backend.quiet()
    try:
        yield
    except KeyboardInterrupt:
        messages.print("\nStopped.")
        raise typer.Exit(INTERRUPTED) from None
    except BrokenPipeError:
        _forget_stdout()
        raise typer.Exit(BROKEN_PIPE) from None
    except ValueError as error:
        _report(error)
        raise typer.Exit(BAD_INPUT) from None
    except (OSError, RuntimeError, ImportError) as error:
        _report(error)
        raise typer.Exit(FAILED) from None


def _report(error: Exception) -> None:
    if os.environ.get(TRACEBACK):
        traceback.print_exception(error)
    message = str(error)
    if isinstance(error, OSError) and error.strerror:
        # "[Errno 28] No space left on device: 'x'" without the number
        place = f": {error.filename}" if error.filename else ""
        message = f"{error.strerror}{place}"
    if isinstance(error, OSError) and error.errno in FULL:
        advice = f"{FULL[error.errno]} and give the same command again"
        message += f". Nothing saved before is lost: {advice}."
    warn(message or type(error).__name__, "error")


def _forget_stdout() -> None:
    # What is left in buffers must not fail a second time when Python exits.
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def warn(message: str, kind: str = "warning") -> None:
    """Write a line such as "warning: ..." to stderr."""
    style = "bold red" if kind == "error" else "bold yellow"
    text = Text.assemble((f"{kind}:", style), " ", message)
    messages.print(text, soft_wrap=not messages.is_terminal)


def say(text: str = "") -> None:
    """Write text with rich's [markup] to stdout; only a terminal gets its lines wrapped."""
    out.print(text, soft_wrap=not out.is_terminal)


def heading(name: str, text: str = "") -> None:
    """Write a line that begins a part of the output."""
    say(f"\n[bold]{escape(name)}[/]" + (f"  {escape(text)}" if text else ""))


def next_commands(commands: Sequence[str]) -> None:
    """Write the commands that a user may want to type next, ready to be copied."""
    heading("Next")
    for command in commands:
        out.print(f"  {command}", markup=False, soft_wrap=True)


def this_command() -> str:
    """Return the command line that started this process, ready to be typed again."""
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


def size(number: int) -> str:
    """Return a number of bytes as people read it: "3.9 MB"."""
    if number < 1000:
        return f"{number} B"
    return f"{number / 1e3:.0f} kB" if number < 999_500 else f"{number / 1e6:.1f} MB"


def folder_size(path: Path) -> int:
    """Return the bytes of a file, or of all files below a folder."""
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def duration(seconds: float) -> str:
    """Return seconds as "8:05" (minutes and seconds) or "2:08:05"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def number(value: float) -> str:
    """Return a rate with two or three digits that mean something: "1,234", "45", "3.1"."""
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}"
