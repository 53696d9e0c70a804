import keras
import pytest
import yaml

from keras_transformer.config import TransformerConfig
from keras_transformer.recipe import RunConfig
from keras_transformer.run_folder import RunFolder

VALUES = {
    "name": "mine",
    "data": {"kind": "reverse"},
    "model": {"preset": "tiny", "overrides": {"dropout": 0.3}},
    "training": {"max_steps": 10, "max_minutes": 1.0},
}


def recipe(**sections):
    return RunConfig(**(VALUES | sections))


def trained(folder, **changes):
    """A run with a checkpoint."""
    run = RunFolder.create(folder, recipe(**changes))
    (run.path / "checkpoints").mkdir()
    (run.path / "checkpoints/step-000000001.npz").touch()
    return run


def test_a_new_folder_holds_the_recipe(tmp_path):
    run = RunFolder.create(tmp_path / "runs" / "mine", recipe())
    assert RunFolder.open(run.path).recipe == recipe()


def test_the_same_recipe_reopens_it_and_only_the_limits_may_change(tmp_path):
    trained(tmp_path)
    longer = recipe(training={"max_steps": 99, "max_minutes": None})
    assert RunFolder.create(tmp_path, longer).recipe == longer
    assert RunFolder.open(tmp_path).recipe == longer


def test_a_run_of_a_version_that_knew_fewer_settings_reopens(tmp_path):
    trained(tmp_path)
    values = yaml.safe_load((tmp_path / "config.yaml").read_text())
    for name in ("quality_examples", "best_by", "patience", "tensorboard", "clip_norm"):
        del values["training"][name]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(values))
    assert RunFolder.create(tmp_path, recipe()).recipe == recipe()
    changed = recipe(training=VALUES["training"] | {"clip_norm": 9.0})
    with pytest.raises(ValueError, match="training.clip_norm was None, is 9.0"):
        RunFolder.create(tmp_path, changed)


def test_what_the_best_model_is_and_what_is_written_may_change(tmp_path):
    values = VALUES["training"] | {"quality_examples": 9}
    trained(tmp_path, training=values)
    other = recipe(training=values | {"best_by": "wer", "patience": 3, "tensorboard": True})
    assert RunFolder.create(tmp_path, other).recipe == other


def test_how_translations_are_measured_may_change_unless_the_best_was_chosen_by_it(tmp_path):
    trained(tmp_path)
    measured = VALUES["training"] | {"quality_examples": 9, "best_by": "bleu"}
    RunFolder.create(tmp_path, recipe(training=measured))
    more = measured | {"quality_examples": 10, "best_by": "loss"}
    with pytest.raises(ValueError, match="training.quality_examples was 9, is 10"):
        RunFolder.create(tmp_path, recipe(training=more))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "other"}, "name was 'mine', is 'other'"),
        ({"training": {"seed": 7}}, "training.seed was 0, is 7"),
        ({"tokenizer": {"vocab_size": 99}}, "tokenizer.vocab_size was 8000, is 99"),
        (
            {"model": {"preset": "tiny", "overrides": {"dropout": 0.1}}},
            "model.overrides.dropout was 0.3, is 0.1",
        ),
        (
            {"model": {"preset": "tiny", "overrides": {}}},
            "model.overrides.dropout was 0.3, is None",
        ),
        (
            {"model": {"preset": "tiny", "overrides": {"dropout": 0.3, "d_ff": 64}}},
            "model.overrides.d_ff was None, is 64",
        ),
    ],
)
def test_a_changed_recipe_is_refused_and_the_field_is_named(change, message, tmp_path):
    trained(tmp_path)
    with pytest.raises(ValueError, match=f"run with other settings.*{message}"):
        RunFolder.create(tmp_path, recipe(**change))
    assert RunFolder.open(tmp_path).recipe == recipe()


@pytest.mark.parametrize(
    "change",
    [{"training": {"seed": 7}}, {"data": {"kind": "reverse", "overlong": "cut"}}],
)
def test_what_tokenizers_do_not_depend_on_may_change_before_the_first_checkpoint(change, tmp_path):
    """Advice such as "use overlong=cut" must not lead to a folder that refuses it."""
    RunFolder.create(tmp_path, recipe())
    RunFolder.create(tmp_path, recipe(**change))
    assert RunFolder.open(tmp_path).recipe == recipe(**change)
    with pytest.raises(ValueError, match=r"tokenizer.vocab_size was 8000, is 99"):
        RunFolder.create(tmp_path, recipe(**change, tokenizer={"vocab_size": 99}))


def test_what_killed_processes_were_writing_goes(tmp_path):
    run = trained(tmp_path)
    parts = [run.path / name / ".part-x.npz" for name in (".", "checkpoints", "snapshots", "ids/a")]
    for part in parts:
        part.parent.mkdir(parents=True, exist_ok=True)
        part.touch()
    RunFolder.create(tmp_path, recipe())
    assert not any(part.exists() for part in parts)


def test_every_changed_field_is_named(tmp_path):
    trained(tmp_path)
    with pytest.raises(ValueError) as caught:
        RunFolder.create(tmp_path, recipe(training={"seed": 7, "warmup_steps": 3}))
    assert "training.seed was 0, is 7" in str(caught.value)
    assert "training.warmup_steps was 1000, is 3" in str(caught.value)


def starting(**model):
    return RunConfig(name="mine", data={"kind": "reverse"}, model={"start_from": "runs/a", **model})


ARCHITECTURE = TransformerConfig.preset("tiny", source_vocab_size=9, target_vocab_size=9)


def test_the_architecture_that_a_run_started_from_is_kept_and_need_not_be_given_again(tmp_path):
    run = RunFolder.create(tmp_path, starting())
    run.record_architecture(ARCHITECTURE.model_dump())
    again = RunFolder.create(tmp_path, starting())
    assert again.recipe == run.recipe == RunFolder.open(tmp_path).recipe
    assert again.recipe.model.architecture == ARCHITECTURE.model_dump()
    with pytest.raises(ValueError, match=r"start_from was 'runs/a', is 'runs/b'"):
        RunFolder.create(tmp_path, starting(start_from="runs/b"))
    with pytest.raises(ValueError, match=r"runs/a must hold the model .* d_ff was 256, is 8"):
        run.record_architecture(ARCHITECTURE.model_copy(update={"d_ff": 8}).model_dump())


def test_a_run_has_weights_from_its_first_checkpoint_on(tmp_path):
    run = RunFolder.create(tmp_path, starting())
    assert not run.has_weights
    (tmp_path / "checkpoints").mkdir()
    assert not run.has_weights
    (tmp_path / "checkpoints" / "step-000000000.npz").write_bytes(b"")
    assert run.has_weights


def test_a_folder_with_something_else_in_it_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(ValueError, match=r"must be a new folder or a training run"):
        RunFolder.create(tmp_path, recipe())
    with pytest.raises(ValueError, match=r"thesis.tex must be a new folder or a training run"):
        RunFolder.create(tmp_path / "thesis.tex", recipe())
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("name", ["", "missing"])
def test_opening_what_is_no_run_says_what_to_do(name, tmp_path):
    with pytest.raises(ValueError, match=r"must be the folder of a training run.*train RECIPE"):
        RunFolder.open(tmp_path / name)


def test_a_missing_or_damaged_best_model_is_refused_by_name(tmp_path):
    run = RunFolder.create(tmp_path, recipe())
    with pytest.raises(ValueError, match=r"best.keras is missing: train this run further"):
        run.load_best_model()
    (tmp_path / "best.keras").write_bytes(b"PK\x03\x04 and then nothing")
    with pytest.raises(ValueError, match=r"best.keras is damaged"):
        run.load_best_model()
    keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]).save(tmp_path / "best.keras")
    with pytest.raises(ValueError, match=r"best.keras must hold a Transformer.*Sequential"):
        run.load_best_model()


def test_held_out_texts_come_back_with_their_references(tmp_path):
    run = RunFolder.create(tmp_path, recipe())
    examples = [("read", ["R EH D", "R IY D"]), ("größe 日本", ["x"]), ("🙂", ["a"])]
    run.save_held_out(examples)
    assert run.held_out() == examples


def test_tabs_and_line_breaks_in_held_out_texts_become_spaces(tmp_path):
    run = RunFolder.create(tmp_path, recipe())
    run.save_held_out([("a\tb", ["c\rd\u2028e"]), ("f", ["g"])])
    assert run.held_out() == [("a b", ["c d e"]), ("f", ["g"])]


def test_a_trained_run_opens_with_all_its_parts(tiny_run):
    run = RunFolder.open(tiny_run.path)
    model = run.load_best_model()
    assert run.source_tokenizer() == run.target_tokenizer()
    assert model.config.source_vocab_size == run.source_tokenizer().vocab_size
    assert all(source and references for source, references in run.held_out())


def test_a_row_of_metrics_that_a_full_disk_has_cut_goes_when_the_run_resumes(tmp_path):
    run = RunFolder.create(tmp_path, recipe())
    whole = "epoch,step,val_loss\r\n0,10,2.5\r\n1,20,2.25\r\n"
    for cut in ("2", "2,3", "2,30,1.9"):
        (tmp_path / "metrics.csv").write_bytes((whole + cut).encode())
        run.trim_metrics(20)
        assert (tmp_path / "metrics.csv").read_bytes() == whole.encode()


def test_metrics_get_a_column_for_what_an_older_version_did_not_log(tmp_path):
    run = RunFolder.create(tmp_path, recipe())
    run.add_metrics({"epoch": 0, "step": 10, "val_loss": 2.5, "loss": 3.0})
    run.add_metrics({"epoch": 1, "step": 20, "loss": 2.0, "learning_rate": 0.5, "val_loss": 1.5})
    assert (tmp_path / "metrics.csv").read_bytes() == (
        b"epoch,loss,step,val_loss,learning_rate\r\n0,3.0,10,2.5,\r\n1,2.0,20,1.5,0.5\r\n"
    )
    run.trim_metrics(10)
    run.add_metrics({"epoch": 1, "step": 20})
    assert (tmp_path / "metrics.csv").read_text().splitlines()[1:] == ["0,3.0,10,2.5,", "1,,20,,"]


@pytest.mark.parametrize("left", [b"", b"epoch,st"])
def test_metrics_of_a_run_killed_before_its_first_row_begin_anew_with_a_header(left, tmp_path):
    run = RunFolder.create(tmp_path, recipe())
    (tmp_path / "metrics.csv").write_bytes(left)
    run.trim_metrics(0)
    assert not (tmp_path / "metrics.csv").exists()
