"""A disk that takes no more, by a limit that the system itself enforces, and the run after it."""

import csv

import numpy as np
import pytest

from keras_transformer.run_folder import RunFolder

CLOCKS = ("seconds", "epoch", "target_tokens_per_second")  # what two equal runs need not share


@pytest.fixture(scope="module")
def recipe(tiny_recipe, tmp_path_factory):
    path = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    path.write_text(tiny_recipe.to_yaml(), encoding="utf-8")
    return path


def files_of(folder):
    """All but the limit of steps, which is another now, and the log of every step."""
    changing = ("config.yaml", "metrics.csv")
    return {p.name: p.read_bytes() for p in folder.rglob("*.*") if p.name not in changing}


def state_of(folder):
    """The last checkpoint, best.keras and every row of the metrics but for its clock."""
    newest = max((folder / "checkpoints").iterdir())
    with np.load(newest) as file:
        state = {k: file[k] for k in file.files if k not in ("progress", "sha256")}
    best = RunFolder.open(folder).load_best_model().get_weights()
    state |= {f"best {i}": weight for i, weight in enumerate(best)}
    with open(folder / "metrics.csv", newline="", encoding="utf-8") as file:
        rows = [sorted((row | dict.fromkeys(CLOCKS, "")).items()) for row in csv.DictReader(file)]
    return newest.name, rows, state


@pytest.mark.slow
def test_promise_5_a_full_disk_costs_nothing_but_the_steps_since_the_last_checkpoint(
    run, recipe, tiny_run, tmp_path, files_limited
):
    filled = tmp_path / "filled"
    assert run("train", recipe, "--run-folder", filled, "--max-steps", 4).exit_code == 0
    best, checkpoint = filled / "best.keras", filled / "checkpoints" / "step-000000004.npz"
    smaller, larger = best.stat().st_size, checkpoint.stat().st_size
    assert smaller < larger, "a limit between the two stops the checkpoint alone"
    before = files_of(filled)
    with files_limited(smaller - 1000):
        result = run("train", recipe, "--run-folder", filled)
    assert_refused(result, "best.keras")
    assert files_of(filled) == before
    with files_limited((smaller + larger) // 2):
        result = run("train", recipe, "--run-folder", filled)
    assert_refused(result, "checkpoints/step-000000008.npz")
    assert files_of(filled).keys() == before.keys()
    assert checkpoint.read_bytes() == before[checkpoint.name]

    result = run("train", recipe, "--run-folder", filled)
    assert result.exit_code == 0, result.output
    assert "Resuming at step 4" in result.stdout
    (newest, rows, state), expected = state_of(filled), state_of(tiny_run.path)
    assert (newest, rows, state.keys()) == (*expected[:2], expected[2].keys())
    for name, array in state.items():
        np.testing.assert_array_equal(array, expected[2][name], name)


def assert_refused(result, file):
    """It says what happened, to which file, that nothing is lost, and what to do; no traceback."""
    said = " ".join(result.stderr.split())
    assert result.exit_code == 1
    assert said.startswith("error: File too large: ")
    assert f"/{file}. Nothing saved before is lost: raise the limit" in said.replace("/ ", "/")
    assert said.endswith("and give the same command again.")
