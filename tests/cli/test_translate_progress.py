"""The bar of `translate`."""

import contextlib
import io
import os
import re
import subprocess
import sys

import pytest
from rich.console import Console

from keras_transformer.commands import line_progress

# With a stand-in for the model, so that nothing is loaded.
TRANSLATE_BY_ECHO = """
from keras_transformer.commands import translate
from keras_transformer.hypothesis import Hypothesis
translate._open = lambda *_: lambda texts: [[Hypothesis(t.upper(), -1.0, [], True)] for t in texts]
from keras_transformer.cli import main
main()
"""


@pytest.mark.parametrize(
    ("text", "count"),
    [("", 0), ("a", 1), ("a\n", 1), ("a\nb", 2), ("\n\n", 2), ("a\n" * 3000, 3000)],
)
def test_lines_are_counted_and_the_file_stays_where_it_was(tmp_path, monkeypatch, text, count):
    monkeypatch.setattr(line_progress, "BLOCK", 7)
    path = tmp_path / "lines"
    path.write_text(text)
    with path.open("rb") as file:
        assert line_progress.lines_left(file) == count
        assert file.read() == text.encode()
        assert line_progress.lines_left(file) == 0


def test_only_a_file_is_a_file(tmp_path):
    (tmp_path / "lines").write_text("a")
    with (tmp_path / "lines").open("rb") as file:
        assert line_progress.is_file(file)
    assert not line_progress.is_file(file)  # closed
    assert not line_progress.is_file(io.BytesIO(b"a"))
    with open(os.devnull, "rb") as device:
        assert not line_progress.is_file(device)
    reader, writer = map(os.fdopen, os.pipe(), ("rb", "wb"))
    with reader, writer:
        assert not line_progress.is_file(reader)


def test_the_bar_tells_lines_done_and_lines_a_second():
    terminal = Console(file=io.StringIO(), force_terminal=True, width=80, color_system=None)
    with line_progress.bar(1234, terminal) as advance:
        for _ in range(1000):
            advance()
    shown = terminal.file.getvalue()
    assert "1000/1234" in shown
    assert re.search(r"[\d,]+ lines/s", shown)


def translate_on_a_terminal(start, lines, stdin=None, stdout=subprocess.PIPE):
    """Translate by echo with standard error on a terminal; returns it and standard output."""
    primary, secondary = os.openpty()
    process = start(
        *("translate", "model"),
        code=TRANSLATE_BY_ECHO,
        stdin=stdin or subprocess.PIPE,
        stdout=secondary if stdout == "terminal" else stdout,
        stderr=secondary,
    )
    os.close(secondary)
    found, _ = process.communicate(None if stdin else lines, timeout=60)
    shown = b""
    with contextlib.suppress(OSError):  # the end of a terminal whose other side was closed
        while block := os.read(primary, 1 << 16):
            shown += block
    os.close(primary)
    assert process.returncode == 0, shown
    return shown.decode(), found


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_a_file_gets_a_bar_on_the_terminal_and_only_results_on_stdout(start, tmp_path):
    lines = b"a\n\nb\n" * 50
    (tmp_path / "in.txt").write_bytes(lines)
    with (tmp_path / "in.txt").open("rb") as file:
        shown, found = translate_on_a_terminal(start, lines, stdin=file)
    assert "150/150" in shown
    assert "lines/s" in shown
    assert found == lines.upper()
    shown, found = translate_on_a_terminal(start, lines)  # through a pipe
    assert (shown, found) == ("", lines.upper())
    with (tmp_path / "in.txt").open("rb") as file:
        shown, _ = translate_on_a_terminal(start, lines, stdin=file, stdout="terminal")
    assert shown.replace("\r", "") == lines.upper().decode()


def test_no_bar_stands_in_files_and_pipes(start, tmp_path):
    (tmp_path / "in.txt").write_bytes(b"a\nb")
    with (tmp_path / "in.txt").open("rb") as file:
        process = start("translate", "model", code=TRANSLATE_BY_ECHO, stdin=file)
        found, errors = process.communicate(timeout=60)
    assert (found, errors) == (b"A\nB\n", b"")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads kilobytes of memory")
def test_a_large_file_takes_no_more_memory_than_a_small_one(start, tmp_path):
    # Not ru_maxrss: what the process that started this one used would count, too.
    peak = (
        "import re, sys; peak = re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1]"
    )
    ending = f"try: main()\nfinally: {peak}; print(peak, file=sys.stderr)\n"
    code = TRANSLATE_BY_ECHO.replace("main()\n", ending)
    used = []
    for count in (2_000, 300_000):
        path = tmp_path / "in.txt"
        path.write_bytes(b"one two three four five six seven\n" * count)
        with path.open("rb") as file:
            process = start("translate", "model", code=code, stdin=file, stdout=subprocess.DEVNULL)
            used.append(int(process.communicate(timeout=120)[1]))
    assert used[1] < used[0] + 8_000  # kilobytes; the file has 10,000


@pytest.mark.slow
def test_a_run_folder_translates_without_a_word_on_stderr(start, tiny_run):
    process = start("translate", tiny_run.path)
    stdout, stderr = process.communicate(b"1 2\n3\n", timeout=120)
    assert (process.returncode, stderr) == (0, b"")
    assert stdout.count(b"\n") == 2
