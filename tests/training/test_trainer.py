"""Tiny runs; that a model learns something worth having is shown by the end-to-end tests."""

import csv
import errno
import io
import os
import re
import shutil
import signal
import subprocess
import sys

import make_marian_goldens as goldens
import numpy as np
import pytest
from rich.console import Console

from keras_transformer.array_files import read_arrays
from keras_transformer.bridges import from_marian
from keras_transformer.data.pipeline import make_dataset
from keras_transformer.data.splits import open_splits
from keras_transformer.recipe import RunConfig, TokenizerConfig
from keras_transformer.run_folder import RunFolder
from keras_transformer.text.tokenizer import Tokenizer
from keras_transformer.training import callbacks, trainer
from keras_transformer.training.best import Best
from keras_transformer.training.checkpoints import restore_checkpoint
from keras_transformer.training.compilation import compiled_model
from keras_transformer.training.losses import SmoothedCrossEntropy
from keras_transformer.training.quality import METRICS
from keras_transformer.training.translation_quality import quality_of


def run(recipe, folder, **limits):
    """Train; returns the result and what was printed."""
    values = recipe.model_dump()
    values["training"] |= limits
    screen = io.StringIO()
    result = trainer.train(RunConfig(**values), folder, Console(file=screen, width=100))
    return result, screen.getvalue()


def losses(folder):
    with open(folder / "metrics.csv", newline="") as file:
        return [(float(row["loss"]), float(row["val_loss"])) for row in csv.DictReader(file)]


def weights(result):
    with np.load(max((result.run.path / "checkpoints").iterdir())) as file:
        return {name: file[name] for name in file.files if name not in ("progress", "sha256")}


def test_a_run_leaves_everything_that_comes_after_it_needs(tiny_training):
    result, screen = tiny_training
    assert (result.reason, result.step) == ("steps", 12)
    names = {path.name for path in result.run.path.iterdir()}
    assert names == {
        "config.yaml",
        "source.model",
        "target.model",
        "held_out.tsv",
        "ids",
        "checkpoints",
        "best.keras",
        "metrics.csv",
        "curve.png",
    }
    assert len(losses(result.run.path)) == 3
    assert result.best.value == pytest.approx(min(val for _, val in losses(result.run.path)))
    assert [line.split()[0] for line in screen.splitlines()[:4]] == [
        "Data",
        "Tokenizers",
        "Model",
        "Batches",
    ]
    assert max(map(len, screen.splitlines())) <= 100


def test_the_loss_goes_down(tiny_run):
    first, *_, last = losses(tiny_run.path)
    assert last[0] < first[0]
    assert last[1] < first[1]


def test_held_out_texts_are_not_trained_on(tiny_run):
    splits = open_splits(tiny_run.recipe.data)
    held_out = {source for source, _ in tiny_run.held_out()}
    assert held_out
    assert held_out <= {source for source, _ in splits.validation}
    assert not held_out & {source for source, _ in splits.train}


def test_best_keras_has_the_loss_that_was_reported(tiny_training, tiny_recipe):
    result, _ = tiny_training
    model = result.run.load_best_model()
    model.compile(loss=SmoothedCrossEntropy(tiny_recipe.training.label_smoothing))
    tokenizer = result.run.source_tokenizer()
    pairs = open_splits(tiny_recipe.data).validation
    data = make_dataset(pairs, tokenizer, tokenizer, batch_tokens=99, shuffle=False)
    assert model.evaluate(data, verbose=0) == pytest.approx(result.best.value, rel=1e-4)


@pytest.mark.slow
def test_promises_5_and_9_a_resumed_run_equals_an_uninterrupted_one(
    tiny_training, tiny_recipe, tmp_path
):
    whole, _ = tiny_training
    first, _ = run(tiny_recipe, tmp_path, max_steps=4)
    assert (first.reason, first.step) == ("steps", 4)
    second, screen = run(tiny_recipe, tmp_path)
    assert "Resuming at step 4" in screen
    assert second.step == 12
    assert losses(tmp_path) == losses(whole.run.path)
    for name, array in weights(whole).items():
        np.testing.assert_array_equal(weights(second)[name], array)
    assert second.seconds > first.seconds
    again, screen = run(tiny_recipe, tmp_path)
    assert (again.reason, again.step) == ("finished", 12)


def averaged_losses(folder):
    with open(folder / "metrics.csv", newline="") as file:
        return [float(row["val_averaged_loss"]) for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def averaging(tiny_recipe, tmp_path_factory):
    """A run that was ended after step 8 of 12, and that takes the mean of two states."""
    return run(tiny_recipe, tmp_path_factory.mktemp("mean"), average_last=2, max_steps=8)[0]


def test_a_damaged_snapshot_is_passed_over_and_said(averaging, tiny_recipe, tmp_path):
    shutil.copytree(averaging.run.path, tmp_path, dirs_exist_ok=True)
    newest = max((tmp_path / "snapshots").iterdir())
    newest.write_bytes(newest.read_bytes()[:-100])
    with pytest.warns(UserWarning, match="mean will be of fewer"):
        result, _ = run(tiny_recipe, tmp_path, average_last=2)
    assert result.step == 12
    assert len([*(tmp_path / "snapshots").iterdir()]) <= 4


def test_the_mean_of_the_last_weights_is_validated_and_kept_where_it_is_better(
    averaging, tiny_training, tiny_recipe, tmp_path
):
    plain, _ = tiny_training
    shutil.copytree(averaging.run.path, tmp_path, dirs_exist_ok=True)
    second, screen = run(tiny_recipe, tmp_path, average_last=2)
    assert "averaged" in screen
    for name, array in weights(plain).items():
        np.testing.assert_array_equal(weights(second)[name], array)
    assert losses(tmp_path) == losses(plain.run.path)
    averaged = averaged_losses(tmp_path)
    own = [validation for _, validation in losses(tmp_path)]
    assert averaged[0] == own[0], "there is one state as yet"
    assert second.best.value == min(averaged + own)
    paths = sorted((tmp_path / "snapshots").iterdir())
    arrays = [read_arrays(path)[0] for path in paths[-2:]]
    model = averaging.run.load_best_model()
    model.set_weights([(arrays[0][n] + arrays[1][n]) / 2 for n in sorted(arrays[0])])
    model.compile(loss=SmoothedCrossEntropy(tiny_recipe.training.label_smoothing))
    splits = open_splits(tiny_recipe.data)
    tokenizer = second.run.source_tokenizer()
    data = make_dataset(splits.validation, tokenizer, tokenizer, batch_tokens=99, shuffle=False)
    assert model.evaluate(data, verbose=0) == pytest.approx(averaged[-1], rel=1e-4)


def column(folder, name):
    with open(folder / "metrics.csv", newline="") as file:
        return [float(row[name]) for row in csv.DictReader(file)]


def test_measuring_translations_changes_no_step_and_judges_the_mean_of_weights_too(
    tiny_training, tiny_recipe, tmp_path, monkeypatch
):
    translate, wrong = callbacks.TranslationQuality._translate, iter([3, 3, 2, 4, 1])

    def scripted(self):
        assert len(translate(self)) == 4
        count = next(wrong)
        return [""] * count + [references[0] for _, references in self.examples[count:]]

    monkeypatch.setattr(callbacks.TranslationQuality, "_translate", scripted)
    plain, _ = tiny_training
    quality = {"quality_examples": 4, "quality_metric": "wer", "best_by": "exact_match"}
    result, screen = run(tiny_recipe, tmp_path, average_last=2, **quality)
    for name, array in weights(plain).items():
        np.testing.assert_array_equal(weights(result)[name], array)
    assert losses(tmp_path) == losses(plain.run.path)
    assert {f"val_{name}" for name in METRICS} <= header(tmp_path)
    assert column(tmp_path, "val_wer") == [75.0, 75.0, 100.0]
    assert column(tmp_path, "val_exact_match") == [25.0, 25.0, 0.0]
    # there is one state as yet; then those of the means
    assert column(tmp_path, "val_averaged_exact_match") == [25.0, 50.0, 75.0]
    assert result.best == Best("exact_match", 75.0)
    first, second = (read_arrays(p)[0] for p in sorted((tmp_path / "snapshots").iterdir())[-2:])
    for name, kept in zip(sorted(first), result.run.load_best_model().get_weights(), strict=True):
        np.testing.assert_allclose(kept, (first[name] + second[name]) / 2, rtol=1e-6)
    lines = screen.splitlines()
    at = next(i for i, line in enumerate(lines) if "step 12 " in line)
    assert lines[at].endswith("exact match 0.0  averaged 75.0")
    assert [line.split()[0] for line in lines[at + 1 :]] == ["source", "reference", "output"] * 2
    assert max(map(len, lines[at:])) <= 80


def header(folder):
    with open(folder / "metrics.csv", newline="") as file:
        return set(next(csv.reader(file)))


def test_patience_and_the_best_so_far_last_through_a_resume(tiny_recipe, tmp_path, monkeypatch):
    wrong = {1: 3, 2: 2, 3: 3, 4: 2}  # of four, after so many steps

    def scripted(self):
        count = wrong[int(self.model.optimizer.iterations)]
        return [""] * count + [references[0] for _, references in self.examples[count:]]

    monkeypatch.setattr(callbacks.TranslationQuality, "_translate", scripted)
    training = {"evaluate_every": 1, "quality_examples": 4, "best_by": "wer", "patience": 2}
    first, _ = run(tiny_recipe, tmp_path, **training, max_steps=3)
    assert (first.reason, first.best) == ("steps", Best("wer", 50.0, waited=1))
    second, _ = run(tiny_recipe, tmp_path, **training)
    assert (second.reason, second.step) == ("patience", 4)
    assert second.best == Best("wer", 50.0, waited=2)
    assert run(tiny_recipe, tmp_path, **training)[0].reason == "finished"
    model = compiled_model(second.run.load_best_model().config, tiny_recipe.training)
    progress, _ = restore_checkpoint(tmp_path / "checkpoints", model)
    assert trainer._best_so_far(progress, "wer") == second.best
    other = trainer._best_so_far(progress, "exact_match")
    assert other == Best("exact_match"), "by another measure the best begins anew"


def test_only_examples_that_the_model_may_be_given_are_translated(tiny_recipe, tiny_run):
    values = tiny_recipe.model_dump()
    values["data"]["max_source_length"] = 4
    values["training"] |= {"quality_examples": 9, "bleu_tokenize": "none"}
    tokenizer, recipe = tiny_run.source_tokenizer(), RunConfig(**values)
    pairs = open_splits(recipe.data).validation
    quality = quality_of(recipe, pairs, tokenizer, tokenizer)
    lengths = [len(source.split()) for source, _ in quality.examples]
    assert max(lengths) == 3, "three digits and the end symbol"
    assert len(lengths) == 9
    assert quality.tokenize == "none"


@pytest.fixture(scope="module")
def marian_folder(tmp_path_factory):
    return goldens.write_folder(goldens.load(), tmp_path_factory.mktemp("marian") / "opus")


def further(tiny_recipe, start_from, **model):
    """A recipe that trains a model further on `tiny_recipe`'s data."""
    values = tiny_recipe.model_dump(exclude={"tokenizer", "model"})
    values["training"] |= {"max_steps": 6, "evaluate_every": 2, "peak_learning_rate": 0.003}
    return RunConfig(**values, model={"start_from": str(start_from), **model})


def run_up_to_training(recipe, folder, monkeypatch):
    """All that comes before the first step: it must not be refused."""

    def stop(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "_fit", stop)
        with pytest.raises(KeyboardInterrupt):
            run(recipe, folder)


def test_a_run_from_a_run_has_its_tokenizers_sizes_and_weights(tiny_run, tiny_recipe, tmp_path):
    recipe = further(tiny_recipe, tiny_run.path, overrides={"dropout": 0.2})
    result, screen = run(recipe, tmp_path)
    assert f"Start       {tiny_run.path}, a training run" in screen
    before = float(re.search(r"Before      validation loss (\S+)", screen)[1])
    with open(tiny_run.path / "metrics.csv", newline="") as file:
        best = min(float(row["val_loss"]) for row in csv.DictReader(file))
    assert before == pytest.approx(best, abs=1e-3)
    assert losses(tmp_path)[-1][1] < before
    assert (tmp_path / "source.model").read_bytes() == (tiny_run.path / "source.model").read_bytes()
    start, now = tiny_run.load_best_model().config, result.run.load_best_model().config
    assert now == start.model_copy(update={"dropout": 0.2})
    recorded = RunFolder.open(tmp_path).recipe
    assert recorded.model.start_from == str(tiny_run.path)
    assert recorded.model.architecture == start.model_dump()


def test_a_run_from_a_marian_checkpoint_begins_with_its_weights(
    marian_folder, tiny_recipe, tmp_path, monkeypatch
):
    run_up_to_training(further(tiny_recipe, marian_folder), tmp_path, monkeypatch)
    taken = RunFolder.open(tmp_path)
    assert taken.has_weights
    translator = from_marian(marian_folder)
    assert (taken.source_tokenizer(), taken.target_tokenizer()) == (
        translator.source,
        translator.target,
    )
    assert taken.recipe.model.architecture == translator.model.config.model_dump()
    model = compiled_model(translator.model.config, taken.recipe.training)
    progress, _ = restore_checkpoint(tmp_path / "checkpoints", model)
    assert progress.step == 0
    for ours, theirs in zip(model.weights, translator.model.weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.slow
def test_promise_5_a_run_from_a_model_resumes_bit_for_bit_when_its_start_has_gone(
    tiny_run, tiny_recipe, tmp_path
):
    start = shutil.copytree(tiny_run.path, tmp_path / "it")
    recipe = further(tiny_recipe, start)
    whole, _ = run(recipe, tmp_path / "whole")
    run(recipe, tmp_path / "run", max_steps=2)
    shutil.rmtree(start)
    second, screen = run(recipe, tmp_path / "run")
    assert "Resuming at step 2" in screen
    assert "Start " not in screen
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")
    for name, array in weights(whole).items():
        np.testing.assert_array_equal(weights(second)[name], array)


def test_a_model_that_is_not_the_one_the_recipe_was_made_for_is_refused(
    marian_folder, tiny_run, tiny_recipe, tmp_path
):
    other = tiny_run.load_best_model().config.model_dump()
    with pytest.raises(ValueError, match=r"opus must hold the model .* d_ff was 64, is 24"):
        run(further(tiny_recipe, marian_folder, architecture=other), tmp_path)


@pytest.mark.parametrize("kind", ["run", "marian"])
def test_a_start_that_cannot_be_loaded_leaves_nothing_that_blocks_another(
    kind, marian_folder, tiny_run, tiny_recipe, tmp_path, monkeypatch
):
    start = shutil.copytree(marian_folder if kind == "marian" else tiny_run.path, tmp_path / "it")
    weights_file = start / ("model.safetensors" if kind == "marian" else "best.keras")
    weights_file.write_bytes(weights_file.read_bytes()[:1000])
    with pytest.raises(ValueError, match=rf"{weights_file.name}.*damaged"):
        run(further(tiny_recipe, start), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    run_up_to_training(further(tiny_recipe, tiny_run.path), tmp_path / "run", monkeypatch)


def test_settings_that_cannot_be_trained_leave_nothing_that_blocks_better_ones(
    tiny_recipe, tmp_path, monkeypatch
):
    tokenizer = {"model_type": "unigram", "vocab_size": 8}  # fewer than digits
    with pytest.raises(ValueError, match="vocab_size"):
        run(tiny_recipe.model_copy(update={"tokenizer": TokenizerConfig(**tokenizer)}), tmp_path)
    assert not any(tmp_path.iterdir())
    run_up_to_training(tiny_recipe, tmp_path, monkeypatch)


def test_without_its_checkpoints_a_run_needs_its_start_again(
    tiny_run, tiny_recipe, tmp_path, monkeypatch
):
    start = shutil.copytree(tiny_run.path, tmp_path / "start")
    run_up_to_training(further(tiny_recipe, start), tmp_path / "run", monkeypatch)
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    shutil.rmtree(start)
    with pytest.raises(ValueError, match=r"start must be the folder of a training run.*no such"):
        run(further(tiny_recipe, start), tmp_path / "run")


def test_ctrl_c_leaves_a_checkpoint_to_resume_from(tiny_recipe, tmp_path, monkeypatch):
    end_of_batch = callbacks.StopAt.on_train_batch_end

    def interrupt(self, batch, logs=None):
        if self.step == 1:
            self._interrupt(None, None)
        end_of_batch(self, batch, logs)

    monkeypatch.setattr(callbacks.StopAt, "on_train_batch_end", interrupt)
    result, _ = run(tiny_recipe, tmp_path)
    assert (result.reason, result.step) == ("interrupt", 2)
    assert restore_step(result) == 2


def restore_step(result):
    config = result.run.load_best_model().config
    model = compiled_model(config, result.run.recipe.training)
    progress, damaged = restore_checkpoint(result.run.path / "checkpoints", model)
    assert damaged == []
    return progress.step


def test_files_that_have_changed_since_are_told_of(tiny_recipe, tmp_path):
    lines = [f"{n}\t{n}\n" for n in range(100)]
    (tmp_path / "own.tsv").write_text("".join(lines))
    values = tiny_recipe.model_dump()
    values["data"] = {"kind": "pairs", "pairs": str(tmp_path / "own.tsv")}
    values["data"]["validation_fraction"] = 0.2
    recipe = RunConfig(**values)
    run(recipe, tmp_path / "run", max_steps=1, evaluate_every=1)
    _, screen = run(recipe, tmp_path / "run", max_steps=2, evaluate_every=1)
    assert "have changed" not in screen
    (tmp_path / "own.tsv").write_text("".join(lines[:60]))
    _, screen = run(recipe, tmp_path / "run", max_steps=3, evaluate_every=1)
    assert "The files of the training pairs have changed since they were tokenized" in screen


@pytest.mark.parametrize("side", ["training", "validation"])
def test_pairs_that_are_all_too_long_are_named_and_the_advice_works(side, tiny_recipe, tmp_path):
    for name, words in (("train", 9 if side == "training" else 1), ("val", 9)):
        text = "".join(f"{'a ' * words}{n}\tb\n" for n in range(20))
        (tmp_path / f"{name}.tsv").write_text(text)
    values = tiny_recipe.model_dump()
    values["data"] = {
        "kind": "pairs",
        "pairs": str(tmp_path / "train.tsv"),
        "validation_pairs": str(tmp_path / "val.tsv"),
        "max_source_length": 5,
    }
    with pytest.raises(ValueError, match=rf"{side} pairs must have .*overlong=.cut"):
        run(RunConfig(**values), tmp_path / "run", max_steps=1)
    values["data"]["overlong"] = "cut"
    result, _ = run(RunConfig(**values), tmp_path / "run", max_steps=1)
    assert result.step == 1


def test_a_changed_recipe_is_refused_before_anything_is_touched(tiny_run, tiny_recipe):
    before = {path: path.read_bytes() for path in tiny_run.path.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match=r"training.batch_tokens was 64, is 128"):
        run(tiny_recipe, tiny_run.path, batch_tokens=128)
    assert {p: p.read_bytes() for p in tiny_run.path.rglob("*") if p.is_file()} == before


def test_a_loss_that_is_not_a_number_is_an_error_with_advice(tiny_recipe, tmp_path):
    with pytest.raises(ValueError, match=r"not a number.*peak_learning_rate"):
        run(tiny_recipe, tmp_path, peak_learning_rate=1e30, max_steps=2, evaluate_every=2)


@pytest.mark.parametrize("empty", ["training", "validation"])
def test_data_without_a_pair_on_one_side_is_refused_before_anything_is_made(
    empty, tiny_recipe, tmp_path
):
    (tmp_path / "pairs.tsv").write_text("1 2\t2 1\n")  # its hash puts it on one side
    fraction = 0.999 if empty == "training" else 0.001
    data = {"kind": "pairs", "pairs": str(tmp_path / "pairs.tsv"), "validation_fraction": fraction}
    recipe = RunConfig(**(tiny_recipe.model_dump() | {"data": data}))
    with pytest.raises(ValueError, match=rf"at least one {empty} pair.*={fraction}"):
        run(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_another_tokenizer_of_the_same_size_is_refused_at_resume(tiny_run, tiny_recipe, tmp_path):
    folder = shutil.copytree(tiny_run.path, tmp_path / "run")
    lines = [" ".join(reversed("0123456789")), "9 8 7 9 8 9"]  # the same pieces, in another order
    other = Tokenizer.train(lines, 32, "word")
    assert other.vocab_size == tiny_run.source_tokenizer().vocab_size
    other.save(folder / "source.model")
    other.save(folder / "target.model")
    with pytest.raises(ValueError, match=r"source.model must be the tokenizer that .*step-0"):
        run(tiny_recipe, folder, max_steps=16)


KILLED_WHILE_SAVING = """
import os, signal, sys
import numpy as np
from keras_transformer.cli import main

whole, saves = np.savez, []

def half(path, **entries):
    whole(path, **entries)
    if "checkpoints" in str(path):
        saves.append(path)
    if len(saves) == 2:
        with open(path, "rb+") as file:
            file.truncate(1000)
        os.kill(os.getpid(), signal.SIGKILL)

np.savez = half
main()
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="has no SIGKILL")
def test_promise_5_a_run_killed_while_it_saved_resumes_and_equals_an_uninterrupted_one(
    tiny_training, tiny_recipe, tmp_path
):
    recipe, folder = tmp_path / "tiny.yaml", tmp_path / "run"
    recipe.write_text(tiny_recipe.to_yaml())
    command = [sys.executable, "-c", KILLED_WHILE_SAVING]
    killed = subprocess.run(
        [*command, "train", str(recipe), "--run-folder", str(folder)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, sys.path))},
        capture_output=True,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    files = sorted(path.name for path in (folder / "checkpoints").iterdir())
    assert files[0].startswith(".part-")
    assert files[1:] == ["step-000000004.npz"]
    result, screen = run(tiny_recipe, folder)
    assert "Resuming at step 4" in screen
    whole = tiny_training[0]
    assert losses(folder) == losses(whole.run.path)
    for name, array in weights(whole).items():
        np.testing.assert_array_equal(weights(result)[name], array)
    best, expected = (r.run.load_best_model().get_weights() for r in (result, whole))
    for one, other in zip(best, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_optimizer_is_the_recipes(tiny_run, tiny_recipe):
    config = tiny_run.load_best_model().config
    settings = {"schedule": "inverse_square_root", "warmup_steps": 10, "clip_norm": 1.5}
    training = tiny_recipe.training.model_copy(update=settings)
    optimizer = compiled_model(config, training).optimizer
    assert float(optimizer.learning_rate) == pytest.approx(training.peak_learning_rate / 10)
    assert (optimizer.beta_2, optimizer.epsilon) == (training.beta_2, training.epsilon)
    assert optimizer.global_clipnorm == 1.5
    constant = compiled_model(config, tiny_recipe.training).optimizer
    assert float(constant.learning_rate) == pytest.approx(training.peak_learning_rate)


def test_a_folder_of_a_run_reopens(tiny_run, tiny_recipe):
    assert RunFolder.open(tiny_run.path).recipe == tiny_recipe


def test_a_failing_fit_gives_the_cursor_and_ctrl_c_back(tiny_recipe, tmp_path, monkeypatch):
    before = signal.getsignal(signal.SIGINT)
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=80)

    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("keras_transformer.training.callbacks.save_checkpoint", full)
    with pytest.raises(OSError, match="No space left"):
        trainer.train(tiny_recipe, tmp_path / "run", console)
    assert screen.getvalue().count("\x1b[?25l") == screen.getvalue().count("\x1b[?25h") == 1
    assert signal.getsignal(signal.SIGINT) is before
