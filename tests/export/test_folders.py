import os
import signal
import stat
import subprocess
import sys

import pytest

from keras_transformer_export import folders
from keras_transformer_export.folders import written_aside


def write(folder, text):
    with written_aside(folder) as aside:
        (aside / "inner").mkdir()
        (aside / "inner" / "file").write_text(text)


def write_half(folder, error):
    with written_aside(folder) as aside:
        (aside / "half").write_text("half")
        raise error


def test_a_folder_appears_whole(tmp_path):
    target = tmp_path / "new" / "bundle"
    with written_aside(target) as aside:
        (aside / "file").write_text("text")
        assert not target.exists()
    assert (target / "file").read_text() == "text"
    assert os.listdir(target.parent) == ["bundle"]
    assert stat.S_IMODE(target.stat().st_mode) == stat.S_IMODE(target.parent.stat().st_mode)


@pytest.mark.parametrize("can_exchange", [True, False])
def test_an_old_folder_is_replaced(tmp_path, monkeypatch, can_exchange):
    if not can_exchange:
        monkeypatch.setattr(folders, "_exchange", lambda one, other: False)
    write(tmp_path / "bundle", "old")
    write(tmp_path / "bundle", "new")
    assert (tmp_path / "bundle" / "inner" / "file").read_text() == "new"
    assert os.listdir(tmp_path) == ["bundle"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failure_leaves_the_old_folder_and_nothing_else(tmp_path, error):
    write(tmp_path / "bundle", "old")
    with pytest.raises(type(error)):
        write_half(tmp_path / "bundle", error)
    assert (tmp_path / "bundle" / "inner" / "file").read_text() == "old"
    assert os.listdir(tmp_path) == ["bundle"]


KILLED = """
import os, signal, sys
from pathlib import Path
from keras_transformer_export import folders
folder, moment = Path(sys.argv[1]), sys.argv[2]
def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)
setattr(folders, moment, die) if moment != "while writing" else None
with folders.written_aside(folder) as aside:
    (aside / "inner").mkdir()
    (aside / "inner" / "file").write_text("new")
    if moment == "while writing":
        die()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
@pytest.mark.parametrize(
    ("moment", "expected"),
    [("while writing", "old"), ("_put_in_place", "old"), ("flush_folder", "old or new")],
)
def test_a_kill_leaves_the_old_folder_or_the_new(tmp_path, moment, expected):
    write(tmp_path / "bundle", "old")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", KILLED, str(tmp_path / "bundle"), moment]
    finished = subprocess.run(command, env=environment, check=False)
    assert finished.returncode == -signal.SIGKILL
    assert (tmp_path / "bundle" / "inner" / "file").read_text() in expected.split(" or ")
