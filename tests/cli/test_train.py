"""`train`, and `train --from` another model."""

import itertools
import shutil
import signal

import make_marian_goldens as goldens
import pytest

from keras_transformer.commands import own_data
from keras_transformer.recipe import find_recipe


def test_a_finished_run_says_so_and_is_left_alone(run, tiny_run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(tiny_run.path, folder)
    best = (folder / "best.keras").read_bytes()
    result = run("train", folder / "config.yaml", "--run-folder", folder)
    assert result.exit_code == 0, result.output
    assert "This run is finished: step 12" in result.stdout
    assert (folder / "best.keras").read_bytes() == best


def test_another_seed_in_the_same_folder_is_refused_and_named(run, tiny_run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(tiny_run.path, folder)
    result = run("train", folder / "config.yaml", "--run-folder", folder, "--seed", 7)
    assert result.exit_code == 2
    assert "training.seed was 1, is 7" in " ".join(result.stderr.split())


@pytest.mark.slow
def test_ctrl_c_saves_says_how_to_resume_and_the_same_command_resumes(
    run, start, tiny_run, tmp_path
):
    recipe = tmp_path / "long.yaml"
    text = (tiny_run.path / "config.yaml").read_text(encoding="utf-8")
    recipe.write_text(text.replace("max_steps: 12", "max_steps: 1000000"), encoding="utf-8")
    folder = tmp_path / "run"
    with start("train", recipe, "--run-folder", folder) as process:
        lines = itertools.takewhile(lambda line: b"step" not in line, process.stdout)
        list(lines)  # until the first validation
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 130
    assert b"Everything is saved" in stdout
    assert f"train {recipe} --run-folder {folder}".encode() in stdout
    assert stderr == b""
    stopped = int(next((folder / "checkpoints").glob("*.npz")).stem.removeprefix("step-"))
    result = run("train", recipe, "--run-folder", folder, "--max-steps", stopped + 20)
    assert result.exit_code == 0, result.output
    assert "Resuming at step" in result.stdout


@pytest.fixture
def marian_folder(tmp_path):
    return goldens.write_folder(goldens.load(), tmp_path / "opus-mt")


def test_a_marian_folder_translates_like_any_other_model(run, marian_folder):
    result = run("translate", marian_folder, input="hello world\n\n")
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    assert result.stdout.count("\n") == 2


@pytest.mark.slow
def test_own_data_train_a_marian_model_further_and_it_resumes_when_the_folder_has_gone(
    run, pairs_file, marian_folder, tmp_path
):
    folder = tmp_path / "run"
    command = ["train", "--from", marian_folder, "--pairs", pairs_file, "--run-folder", folder]
    result = run(*command, "--max-steps", 2)
    assert result.exit_code == 0, result.output
    for line in (
        f"that of {marian_folder}, with its tokenizers",
        "Start       ",
        "a Marian checkpoint",
        "Before      validation loss",
        "Trained 2 steps",
    ):
        assert line in result.stdout
    assert result.stderr.startswith("warning: the learning rate rises for 200 steps")
    assert result.stderr.count("\n") == 1
    shutil.rmtree(marian_folder)
    result = run(*command, "--max-steps", 4)
    assert result.exit_code == 0, result.output
    assert "Resuming at step 2" in result.stdout
    result = run("translate", folder, input="hello world\n\n")
    assert result.exit_code == 0, result.output
    assert result.stdout.count("\n") == 2


def test_a_recipe_gives_data_and_training_to_a_run_that_starts_from_another(
    tiny_run, tmp_path, monkeypatch
):
    from keras_transformer.commands import train

    monkeypatch.chdir(tmp_path)
    config, _ = train._choose("reverse", None, None, None, str(tiny_run.path))
    recipe = find_recipe("reverse")
    assert (config.data, config.training) == (recipe.data, recipe.training)
    assert config.name == "reverse-tuned"
    assert config.model.start_from == str(tiny_run.path)
    (tmp_path / "mine.yaml").write_text(config.to_yaml(), encoding="utf-8")
    assert train._choose("mine.yaml", None, None, None, str(tiny_run.path)) == (config, None)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["mine.yaml", "--from", "other"], "--from other, model.start_from='runs/a'"),
        (["reverse", "--from", "it", "--run-folder", "./it"], "Received: it for both"),
        (["mine.yaml"], "runs/a must be the folder of a training run"),
        (["--pairs", "own.tsv", "--from", "x"], "x must be the folder of a training run"),
    ],
)
def test_what_contradicts_from_is_refused(run, args, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = "{name: mine, data: {kind: reverse}, model: {start_from: runs/a}}"
    (tmp_path / "mine.yaml").write_text(text)
    own_pairs(tmp_path)
    result = run("train", *args)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())
    assert result.stdout == ""
    assert {path.name for path in tmp_path.iterdir()} == {"mine.yaml", "own.tsv"}


def test_a_rate_for_training_from_nothing_is_warned_of(tiny_run, tmp_path, monkeypatch):
    from keras_transformer.commands import train

    said = []
    monkeypatch.setattr(train.screen, "warn", said.append)
    config, _ = train._choose("reverse", None, None, None, str(tiny_run.path))
    train._check_start(config, tmp_path)
    assert "peak_learning_rate 0.003 is one for training from nothing" in said[0]
    own, _ = own_data.make_recipe(pairs=str(own_pairs(tmp_path)), start_from=str(tiny_run.path))
    train._check_start(own, tmp_path)
    assert len(said) == 1


@pytest.mark.parametrize(
    ("settings", "is_warned_of"),
    [
        ({"max_steps": 100, "warmup_steps": 200}, True),
        ({"max_steps": 200, "warmup_steps": 200}, False),
        ({"max_steps": 100, "warmup_steps": 200, "schedule": "constant"}, False),
    ],
)
def test_a_run_that_ends_while_its_rate_rises_is_warned_of(settings, is_warned_of, monkeypatch):
    from keras_transformer.commands import train

    said = []
    monkeypatch.setattr(train.screen, "warn", said.append)
    config, _ = train._choose("reverse", None, None, None, None)
    train._check_warmup(train.changed(config, training=settings))
    assert [text[:36] for text in said] == ["the learning rate rises for 200 step"] * is_warned_of


def own_pairs(folder):
    path = folder / "own.tsv"
    path.write_text("".join(f"{n}\t{n}\n" for n in range(100)), encoding="utf-8")
    return path
