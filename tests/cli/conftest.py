"""What the tests of the commands share: ways to run one, and small data."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from keras_transformer.cli import app
from keras_transformer.hypothesis import Hypothesis

ROOT = Path(__file__).parents[2]
MAIN = "from keras_transformer.cli import main; main()"


@pytest.fixture(scope="session")
def run():
    """Run the command in this process, on a terminal of 80 columns: (*args, **options)."""

    def run_here(*args, **options):
        return CliRunner(env={"COLUMNS": "80"}).invoke(app, list(map(str, args)), **options)

    return run_here


@pytest.fixture(scope="session")
def start():
    """Start the command in a process of its own; after it, the code may look around."""

    def start_apart(*args, code=MAIN, **options):
        path = os.pathsep.join([str(ROOT), str(ROOT / "export")])
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        return subprocess.Popen(
            [sys.executable, "-c", code, *map(str, args)],
            env={**os.environ, "PYTHONPATH": path, "COLUMNS": "80"},
            **{**pipes, **options},
        )

    return start_apart


@pytest.fixture
def look_around():
    """Code for `start`: the command, and which heavy packages it loaded."""
    return LOOK_AROUND


LOOK_AROUND = """
import sys
from keras_transformer.cli import main
try:
    main()
finally:
    heavy = {"tensorflow", "keras", "sentencepiece"}
    loaded = sorted(heavy & set(sys.modules))
    print("loaded:", loaded, file=sys.stderr)
"""


@pytest.fixture
def pairs_file(tmp_path):
    path = tmp_path / "numbers.tsv"
    path.write_text("".join(f"{n}\tthe number {n}\n" for n in range(100)), encoding="utf-8")
    return path


def several(texts):
    """Two hypotheses of each text, and one of "x"."""
    return [
        [Hypothesis(text.upper(), -1.0, [], True), Hypothesis(text * 2, -2.5, [], False)][
            : 2 - (text == "x")
        ]
        for text in texts
    ]


@pytest.fixture
def given(monkeypatch):
    """The options that the run's translator was called with; it gives what `several` gives."""
    from keras_transformer.translator import Translator

    given = []

    def translate(self, texts, **options):
        given.append(options)
        return several(texts)

    monkeypatch.setattr(Translator, "translate", translate)
    return given
