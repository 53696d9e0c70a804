"""Folders that one process keeps to itself. Files that appear whole: see those who write them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from keras_transformer.files import held

ROOT = Path(__file__).parents[1]
HOLDER = """
import sys
from keras_transformer.files import held
with held(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the folder `run`."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, tmp_path / "run"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_folder_is_one_process_s_until_it_ends_even_by_force(holder, tmp_path):
    message = r"run must not be in use.*give another --run-folder"
    with pytest.raises(ValueError, match=message), held(tmp_path / "run"):
        raise AssertionError("two have it")
    assert (tmp_path / "run").is_dir()
    holder.kill()
    holder.wait()
    with held(tmp_path / "run"):
        pass


def test_a_new_folder_goes_where_nothing_was_put_into_it(tmp_path):
    with held(tmp_path / "a/b"):
        assert (tmp_path / "a/b").is_dir()
    assert not (tmp_path / "a/b").exists()
    with held(tmp_path / "a/b"):
        (tmp_path / "a/b/file").touch()
    assert (tmp_path / "a/b/file").exists()


def test_an_empty_folder_that_was_there_stays(tmp_path):
    with held(tmp_path):
        pass
    assert tmp_path.is_dir()


def test_a_file_is_left_to_others_to_complain_of(tmp_path):
    (tmp_path / "file").touch()
    with held(tmp_path / "file"):
        pass
