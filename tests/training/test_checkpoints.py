import contextlib
import random

import keras
import numpy as np
import pytest
from tiny_models import source_ids, target_ids, tiny_model

from keras_transformer.array_files import read_arrays, write_arrays
from keras_transformer.files import replacing
from keras_transformer.training.checkpoints import (
    Progress,
    restore_checkpoint,
    save_checkpoint,
    state_variables,
)
from keras_transformer.training.losses import SmoothedCrossEntropy
from keras_transformer.training.schedules import InverseSquareRoot

SMALL = {"d_ff": 8}


def compiled(seed=0, *, use_ema=False, precision="float32", **fields):
    keras.config.set_dtype_policy(precision)
    model = tiny_model(seed, **{**SMALL, "dropout": 0.4, "attention_dropout": 0.2, **fields})
    schedule = InverseSquareRoot(warmup_steps=3, peak=0.01)
    optimizer = keras.optimizers.Adam(schedule, use_ema=use_ema)
    model.compile(optimizer, SmoothedCrossEntropy(0.1), run_eagerly=True)
    model.optimizer.build(model.trainable_variables)  # in float16 it scales the loss, too
    return model


def train(model, first, count):
    """Steps `first` to `first + count - 1` of one endless stream; the losses are returned."""
    losses = []
    for step in range(first, first + count):
        inputs = source_ids(model.config, (4, 2), step), target_ids(model.config, (3, 5), step)
        outputs = np.where(inputs[1] == 0, 0, 5)
        losses.append(model.train_on_batch(inputs, outputs))
    return losses


def state(model):
    return [variable.numpy() for variable in state_variables(model)]


def assert_same_state(first, second):
    for one, other in zip(state(first), state(second), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    "options", [{}, {"use_ema": True}, {"precision": "mixed_float16"}], ids=str
)
def test_promise_5_resumed_equals_uninterrupted_dropout_included(tmp_path, options):
    whole = compiled(**options)
    train(whole, 0, 3)
    save_checkpoint(tmp_path, whole, Progress(step=3, seconds=1.5, best=2.5))
    resumed = compiled(seed=9, **options)
    progress, damaged = restore_checkpoint(tmp_path, resumed)
    assert (progress, damaged) == (Progress(step=3, seconds=1.5, best=2.5), [])
    assert_same_state(resumed, whole)
    assert train(resumed, 3, 3) == train(whole, 3, 3)
    assert_same_state(resumed, whole)
    assert int(resumed.optimizer.iterations) == 6


def test_a_checkpoint_of_an_older_version_has_its_best_by_loss(tmp_path):
    model = compiled()
    path = save_checkpoint(tmp_path, model, Progress(3, 1.5, 2.5, best_by="bleu", waited=4))
    arrays, about = read_arrays(path)
    del about["best_by"], about["waited"]
    write_arrays(path, arrays, about)
    assert restore_checkpoint(tmp_path, model)[0] == Progress(3, 1.5, 2.5, None, "loss", 0)


def test_a_checkpoint_of_a_version_to_come_is_refused_by_name(tmp_path):
    model = compiled()
    path = save_checkpoint(tmp_path, model, Progress(3, 1.5, 2.5))
    arrays, about = read_arrays(path)
    write_arrays(path, arrays, about | {"weather": "fine"})
    with pytest.raises(ValueError, match=r"step-000000003.npz must be .*version.*'weather'"):
        restore_checkpoint(tmp_path, model)


def test_the_state_holds_weights_dropout_seeds_and_optimizer_but_no_metrics():
    model = compiled()
    paths = [variable.path for variable in state_variables(model)]
    assert len(paths) == len({id(v) for v in state_variables(model)})
    assert {id(w) for w in model.weights} <= {id(v) for v in state_variables(model)}
    assert any("seed_generator" in path for path in paths)
    assert any("iteration" in path for path in paths)
    assert not any("loss_per_token" in path for path in paths)


def test_without_a_checkpoint_nothing_is_restored(tmp_path):
    model = compiled()
    before = state(model)
    assert restore_checkpoint(tmp_path / "none", model) == (None, [])
    for one, other in zip(before, state(model), strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_newest_two_are_kept(tmp_path):
    model = compiled()
    for step in (5, 10, 100, 1000):
        save_checkpoint(tmp_path, model, Progress(step, 0.0, None))
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "step-000000100.npz",
        "step-000001000.npz",
    ]
    assert restore_checkpoint(tmp_path, model)[0].step == 1000


@pytest.fixture(scope="module")
def two_checkpoints():
    """Bytes of an older and a newer checkpoint, and the older one's model."""
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        model = compiled()
        older = save_checkpoint(Path(folder), model, Progress(1, 0.0, None)).read_bytes()
        expected = state(model)
        train(model, 0, 1)
        newer = save_checkpoint(Path(folder), model, Progress(2, 0.0, None)).read_bytes()
    return older, newer, expected


def cut(data, generator):
    return data[: generator.randrange(len(data))]


def flip(data, generator):
    place = generator.randrange(len(data))
    return data[:place] + bytes([data[place] ^ (1 << generator.randrange(8))]) + data[place + 1 :]


def flip_in_the_directory(data, generator):
    place = generator.randrange(len(data) - 3000, len(data))
    return data[:place] + bytes([data[place] ^ 255]) + data[place + 1 :]


@pytest.mark.parametrize("damage", [cut, flip, flip_in_the_directory])
def test_promise_7_a_damaged_newest_checkpoint_is_passed_over_and_said(
    damage, two_checkpoints, tmp_path
):
    older, newer, expected = two_checkpoints
    (tmp_path / "step-000000001.npz").write_bytes(older)
    model, generator = compiled(), random.Random(0)
    fell_back = 0
    for _ in range(25):
        (tmp_path / "step-000000002.npz").write_bytes(damage(newer, generator))
        progress, said = restore_checkpoint(tmp_path, model)
        if progress.step == 2:  # a byte that ZIP does not look at: the contents are whole
            assert said == []
            continue
        fell_back += 1
        assert "step-000000002.npz is damaged" in said[0]
        for one, other in zip(expected, state(model), strict=True):
            np.testing.assert_array_equal(one, other)
    assert fell_back >= 15


def test_a_damaged_checkpoint_that_training_went_on_before_does_not_count_as_kept(tmp_path):
    model = compiled()
    for step in (1, 2, 4):
        save_checkpoint(tmp_path, model, Progress(step, 0.0, None))
    (tmp_path / "step-000000004.npz").write_bytes(b"damaged")
    save_checkpoint(tmp_path, model, Progress(3, 0.0, None))
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["step-000000002.npz", "step-000000003.npz"]


def test_promise_7_nothing_but_damage_is_refused(tmp_path, two_checkpoints):
    for step in (1, 2):
        (tmp_path / f"step-00000000{step}.npz").write_bytes(two_checkpoints[0][:1000])
    with pytest.raises(ValueError, match=r"No whole checkpoint is left") as caught:
        restore_checkpoint(tmp_path, compiled())
    assert str(caught.value).count("is damaged") == 2


@pytest.mark.parametrize("fields", [{"d_ff": 10}, {"num_encoder_layers": 2}, {"output_bias": True}])
def test_promise_7_a_checkpoint_of_another_architecture_is_refused(fields, tmp_path):
    save_checkpoint(tmp_path, compiled(), Progress(1, 0.0, None))
    other = compiled(**fields)
    before = state(other)
    with pytest.raises(ValueError, match=r"must be of the model being trained"):
        restore_checkpoint(tmp_path, other)
    for one, same in zip(before, state(other), strict=True):
        np.testing.assert_array_equal(one, same)


@pytest.mark.parametrize("size", [0, 1, 5_000])
def test_a_full_disk_leaves_the_old_checkpoints_and_no_remains(tmp_path, files_limited, size):
    model = compiled()
    save_checkpoint(tmp_path, model, Progress(1, 0.0, None))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with files_limited(size), pytest.raises(OSError, match="File too large") as caught:
        save_checkpoint(tmp_path, model, Progress(2, 0.0, None))
    assert caught.value.filename == str(tmp_path / "step-000000002.npz")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_replacing_shows_the_old_file_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")
    with replacing(path) as aside:
        aside.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    with contextlib.suppress(RuntimeError), replacing(path) as aside:
        aside.write_text("half")
        raise RuntimeError
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_promise_7_whole_zip_entries_with_other_numbers_are_damage(tmp_path):
    path = tmp_path / "arrays.npz"
    write_arrays(path, {"a": np.arange(3.0), "b": np.ones((2, 2), "int32")}, {"step": 4})
    arrays, about = read_arrays(path)
    np.testing.assert_array_equal(arrays["a"], [0, 1, 2])
    assert (set(arrays), about) == ({"a", "b"}, {"step": 4})
    with np.load(path) as file:
        entries = dict(file)
    for changed in ({"a": np.arange(3.0) + 1}, {"b": np.ones((4, 1), "int32")}):
        np.savez(path, **(entries | changed))
        with pytest.raises(ValueError, match="arrays.npz is damaged .*SHA-256"):
            read_arrays(path)


def test_a_checkpoint_from_before_checksums_resumes(tmp_path):
    model = compiled()
    path = save_checkpoint(tmp_path, model, Progress(7, 0.0, None))
    with np.load(path) as file:
        entries = dict(file)
    entries["progress"] = np.frombuffer(b'{"step": 7, "seconds": 2.0, "best": 0.5}', "uint8")
    del entries["sha256"]
    np.savez(path, **entries)
    assert restore_checkpoint(tmp_path, compiled(seed=3), ["a", "b"]) == (Progress(7, 2.0, 0.5), [])


@pytest.mark.parametrize(
    ("given", "side"), [(["x", "b"], "source"), (["a", "x"], "target"), (["x", "y"], "source")]
)
def test_a_tokenizer_that_does_not_fit_the_checkpoint_is_refused(given, side, tmp_path):
    save_checkpoint(tmp_path, compiled(), Progress(1, 0.0, None, tokenizers=["a", "b"]))
    model = compiled(seed=3)
    before = state(model)
    with pytest.raises(ValueError, match=rf"{side}.model must be the tokenizer that .*expected"):
        restore_checkpoint(tmp_path, model, given)
    for one, same in zip(before, state(model), strict=True):
        np.testing.assert_array_equal(one, same)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_numbers_are_never_saved(value, tmp_path):
    model = compiled()
    save_checkpoint(tmp_path, model, Progress(1, 0.0, None))
    model.weights[0].assign(np.full(model.weights[0].shape, value))
    with pytest.raises(ValueError, match=r"must be finite.*Nothing was saved at step 2"):
        save_checkpoint(tmp_path, model, Progress(2, 0.0, None))
    assert [path.name for path in tmp_path.iterdir()] == ["step-000000001.npz"]
