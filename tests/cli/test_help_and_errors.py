"""Help, suggestions and errors of all commands."""

import errno
import os

import pytest
import typer

from keras_transformer.commands import screen
from keras_transformer.recipe import recipe_names

RECIPES = "g2p, g2p-large, multi30k, reverse"
COMMANDS = ("demo", "train", "evaluate", "translate", "export", "verify")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_each_command_teaches_by_example_on_80_columns(run, command):
    result = run(command, "--help")
    assert result.exit_code == 0
    examples = [
        line for line in result.stdout.splitlines() if f"keras-transformer {command}" in line
    ]
    assert len(examples) >= 2  # usage, and an example
    assert max(map(len, result.stdout.splitlines())) <= 80


def test_help_of_train_names_every_recipe(run):
    assert ", ".join(recipe_names()) == RECIPES
    assert f"{RECIPES}, or" in " ".join(run("train", "--help").stdout.replace("│", "").split())


def test_help_without_arguments_lists_all_commands(run):
    result = run()
    assert all(f" {command} " in result.output for command in COMMANDS)
    assert run("--version").stdout.startswith("keras-transformer 0.")


@pytest.mark.parametrize(
    ("args", "suggestion"),
    [
        (["trian", "g2p"], "Did you mean 'train'"),
        (["train", "g2p", "--max-minute", "1"], "--max-minutes"),
        (["train", "multi30"], "Did you mean 'multi30k'?"),
        (["train", "revers"], "Did you mean 'reverse'?"),
        (["train", "zzz"], f"Choose from {RECIPES}."),
    ],
)
def test_the_nearest_name_is_suggested(run, args, suggestion):
    result = run(*args)
    assert result.exit_code == 2
    assert suggestion in result.stderr


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["train"], f"Give the name of a recipe ({RECIPES}), a YAML file, --pairs"),
        (["train", "g2p", "--pairs", "a.tsv"], "Give a recipe or your own data, not both."),
        (
            ["train", "--source", "a.txt"],
            "--source and --target together. Received: --source a.txt",
        ),
        (["train", "--pairs", "a", "--target", "b"], "Received: --pairs a, --target b"),
        (["train", "--pairs", "missing.tsv"], "missing.tsv: must be a readable text file."),
        (["train", "missing.yaml"], "missing.yaml: cannot be read"),
        (["train", "multi30k"], "train.en must be an existing file. Say which folder"),
        (["train", "multi30k", "--data", "nowhere"], "nowhere/train.en must be an existing file."),
        (["train", "g2p", "--max-minutes", "-1"], "max_minutes: Input should be greater than 0"),
        (["train", "g2p", "--max-steps", "many"], "Invalid value for '--max-steps'"),
        (
            ["train", "reverse", "--from", "nowhere"],
            "nowhere must be the folder of a training run, with config.yaml in it",
        ),
        (["train", "--from", "nowhere"], "What to train on is missing."),
        (["evaluate", "nowhere"], "nowhere must be the folder of a training run"),
        (["translate", "nowhere"], "Check the name: it does not exist. Received: 'nowhere'"),
        (["translate", "nowhere.onnx"], "there is no such file"),
        (["translate", "."], "Check the name: it is none of these."),
        (["export", "nowhere", "exported"], "nowhere must be the folder of a training run"),
        (["verify", "nowhere"], "nowhere must be a folder that keras-transformer export wrote"),
    ],
)
def test_wrong_input_is_one_message_on_stderr_and_exit_code_2(
    run, args, message, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    result = run(*args)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())
    assert len(result.stderr.splitlines()) < 12
    assert "Traceback" not in result.output
    assert result.stdout == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("args", [["train", "--help"], ["train", "g2pp"], ["evaluate", "nowhere"]])
def test_help_and_errors_come_without_waiting_for_tensorflow(look_around, start, args):
    process = start(*args, code=look_around)
    _, stderr = process.communicate(timeout=60)
    assert stderr.decode().splitlines()[-1] == "loaded: []"


WARN = """
import sys, warnings
from keras_transformer import cli
cli.app = lambda: warnings.warn("pool-0.npz is damaged.", stacklevel=2)
cli.main()
"""


def test_what_is_warned_of_has_no_place_in_the_code(start):
    process = start(code=WARN)
    _, stderr = process.communicate(timeout=60)
    assert stderr.decode() == "warning: pool-0.npz is damaged.\n"


def test_a_full_disk_is_said_with_advice_and_without_traceback(capsys):
    with pytest.raises(typer.Exit) as stopped, screen.errors():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "runs/a")
    assert stopped.value.exit_code == screen.FAILED
    message = capsys.readouterr().err
    assert message.startswith("error: No space left on device: runs/a. Nothing saved before is")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ValueError("x"), 2),
        (RuntimeError("x"), 1),
        (ImportError("x"), 1),
        (KeyboardInterrupt(), 130),
    ],
)
def test_every_kind_of_error_has_its_exit_code(error, code):
    with pytest.raises(typer.Exit) as stopped, screen.errors():
        raise error
    assert stopped.value.exit_code == code


def test_a_traceback_is_shown_when_asked_for(monkeypatch, capsys):
    monkeypatch.setenv(screen.TRACEBACK, "1")
    with pytest.raises(typer.Exit), screen.errors():
        raise ValueError("the reason")
    assert "Traceback" in capsys.readouterr().err


def test_sizes_and_times_read_well():
    assert [screen.size(n) for n in (12, 12_300, 999_600, 3_860_000)] == [
        "12 B",
        "12 kB",
        "1.0 MB",
        "3.9 MB",
    ]
    assert [screen.duration(s) for s in (5.2, 485, 7685)] == ["0:05", "8:05", "2:08:05"]
