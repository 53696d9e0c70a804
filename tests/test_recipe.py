import pytest
import yaml

from keras_transformer.config import TransformerConfig
from keras_transformer.recipe import (
    DataConfig,
    ModelConfig,
    RunConfig,
    TokenizerConfig,
    TrainingConfig,
    find_recipe,
    recipe_names,
)

VOCABULARIES = {"source_vocab_size": 100, "target_vocab_size": 80}


@pytest.mark.parametrize(
    ("section", "values", "message"),
    [
        (DataConfig, {"kind": "pairs"}, "data.pairs must name a file when kind is 'pairs'"),
        (DataConfig, {"kind": "parallel", "source": "a"}, "data.target must name a file"),
        (DataConfig, {"kind": "reverse", "pairs": "a"}, "data.pairs must be left out.*'reverse'"),
        (
            DataConfig,
            {"kind": "reverse", "folder": "a"},
            "--data. must be left out.*reads no files",
        ),
        (
            DataConfig,
            {"kind": "reverse", "validation_source": "a"},
            "validation_source and validation_target together",
        ),
        (
            DataConfig,
            {
                "kind": "reverse",
                "validation_pairs": "p",
                "validation_source": "a",
                "validation_target": "b",
            },
            "validation_pairs or validation_source, not both",
        ),
        (
            DataConfig,
            {"kind": "reverse", "validation_fraction": 0.5, "test_fraction": 0.5},
            "must leave pairs to train on.*test_fraction=0.5",
        ),
        (TokenizerConfig, {"target_vocab_size": 9}, "target_model_type and target_vocab_size"),
        (ModelConfig, {"overrides": {"pad_id": 7}}, "overrides.pad_id comes from the tokenizers"),
        (TrainingConfig, {"peak_learning_rate": float("inf")}, "peak_learning_rate: .*finite"),
        (TrainingConfig, {"max_steps": 0}, "max_steps: .*max_steps=0"),
        (TrainingConfig, {"schedule": "linear"}, "schedule: .*schedule='linear'"),
        (TrainingConfig, {"subword_nbest": 0}, "subword_nbest: .*subword_nbest=0"),
        (TrainingConfig, {"patience": 0}, "patience: .*patience=0"),
        (TrainingConfig, {"quality_examples": -1}, "quality_examples: .*quality_examples=-1"),
        (TrainingConfig, {"best_by": "blue"}, "best_by: .*best_by='blue'"),
        (
            TrainingConfig,
            {"best_by": "bleu"},
            "quality_examples must be above 0 .*quality_examples=0, best_by='bleu'",
        ),
        (ModelConfig, {"overrides": {"d_modl": 8}}, "overrides.d_modl: unknown.*'d_model'"),
        (ModelConfig, {"overrides": {"num_heads": 3}}, "overrides.d_model must be a multiple"),
        (
            ModelConfig,
            {"start_from": "runs/a", "preset": "tiny"},
            "preset must be left out beside start_from.*preset='tiny'",
        ),
        (
            ModelConfig,
            {"start_from": "runs/a", "overrides": {"d_ff": 8, "dropout": 0.3}},
            "overrides.d_ff must be left out beside start_from.*Only .*dropout.*d_ff=8",
        ),
        (ModelConfig, {"start_from": "a", "overrides": {"dropout": 2}}, "overrides.dropout: "),
        (
            ModelConfig,
            {"start_from": "a", "architecture": {**VOCABULARIES, "d_modl": 8}},
            "architecture.d_modl: unknown",
        ),
        (ModelConfig, {"architecture": {}}, "architecture is added by a run that has start_from"),
    ],
)
def test_a_contradiction_in_a_section_is_one_clear_error(section, values, message):
    with pytest.raises(ValueError, match=message) as caught:
        section(**values)
    assert type(caught.value) is ValueError
    assert len(str(caught.value).splitlines()) == 1


MINIMAL = {"name": "mine", "data": {"kind": "reverse"}}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"training": {"max_step": 3}},
            "training.max_step: unknown setting. Did you mean 'max_steps'",
        ),
        ({"training": {"max_steps": 0}}, "training.max_steps: .*Received: max_steps=0"),
        ({"training": {"max_steps": True}}, "training.max_steps: .*number.*max_steps=True"),
        ({"training": {"clip_norm": False}}, "training.clip_norm: .*number.*clip_norm=False"),
        ({"trainning": {}}, "trainning: unknown setting. Did you mean 'training'"),
        ({"data": {}}, "data.kind: is required"),
        ({"data": {"kind": "pairs"}}, "^[^ ]*data.pairs must name a file"),
        ({"tokenizer": {"target_vocab_size": 9}}, "tokenizer: give target_model_type"),
        ({"model": {"preset": "huge"}}, "model.preset: .*preset='huge'"),
        ({"model": {"overrides": {"dropuot": 0}}}, "model.overrides.dropuot: .*mean 'dropout'"),
        (
            {"model": {"overrides": {"positions": "learned", "max_positions": 9}}},
            "model.overrides.max_positions must reach.*to 256.*max_positions=9",
        ),
        (
            {"model": {"start_from": "runs/a"}, "tokenizer": {"vocab_size": 99}},
            "tokenizer must be left out beside model.start_from.*'runs/a'",
        ),
        (
            {
                "model": {
                    "start_from": "runs/a",
                    "architecture": {
                        "source_vocab_size": 9,
                        "target_vocab_size": 9,
                        "positions": "learned",
                        "max_positions": 9,
                    },
                }
            },
            "max_source_length and data.max_target_length to 9. Received: max_positions=9",
        ),
        ({"name": "../evil"}, "name: .*'../evil'"),
        ({"training": 5}, "training: .*Received: training=5"),
    ],
)
def test_a_fault_in_a_recipe_names_section_and_key(values, message, tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(MINIMAL | values))
    with pytest.raises(ValueError, match=message) as caught:
        RunConfig(**(MINIMAL | values))
    assert len(str(caught.value).splitlines()) == 1
    with pytest.raises(ValueError) as from_file:
        RunConfig.load(path)
    assert str(from_file.value) == f"{path}: {caught.value}"


def test_faults_of_several_sections_are_named_at_once():
    values = {"training": {"max_step": 3, "seeed": 1}, "tokenizer": {"vocab_size": 0}}
    with pytest.raises(ValueError) as caught:
        RunConfig(**(MINIMAL | values))
    assert [line.split(":")[0] for line in str(caught.value).splitlines()] == [
        "tokenizer.vocab_size",
        "training.max_step",
        "training.seeed",
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"name: [", "is not a YAML file"),
        (b"\xff\xfe\x00", "is not a YAML file"),
        (b"", "must hold sections"),
        (b"- a\n- b\n", "must hold sections"),
        (b"1: 2\n", "recipe.yaml: "),
        (b"name: a\ndata:\n  kind: reverse\n  kind: pairs\n", "line 4: 'kind' is there twice"),
        (b"data: !!map abc\n", "is not a YAML file"),
        (b"a: 1\na: 2\n", "line 2: 'a' is there twice, remove one"),
    ],
)
def test_a_file_that_is_no_recipe_is_refused_by_name(content, message, tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        RunConfig.load(path)


def test_a_missing_recipe_file_is_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match=r"none.yaml: cannot be read \(No such file"):
        RunConfig.load(tmp_path / "none.yaml")


def test_a_recipe_round_trips_through_yaml(tmp_path):
    recipe = RunConfig(
        name="Größe: 'mine'",
        data={"kind": "parallel", "source": "a.en", "target": "b.de", "test_fraction": 0.1},
        tokenizer={"model_type": "char", "target_model_type": "word", "target_vocab_size": 99},
        model={"preset": "base", "overrides": {"norm_first": True, "dropout": 0.3}},
        training={"epsilon": 1e-9, "max_minutes": 0.5, "clip_norm": None},
    )
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe.to_yaml(), encoding="utf-8")
    assert RunConfig.load(path) == recipe
    assert set(yaml.safe_load(recipe.to_yaml())) == set(RunConfig.model_fields)


def test_a_recipe_that_starts_from_a_model_round_trips_without_what_the_model_brings(tmp_path):
    architecture = TransformerConfig.preset("tiny", **VOCABULARIES).model_dump()
    model = {"start_from": "runs/a", "overrides": {"dropout": 0.2}, "architecture": architecture}
    recipe = RunConfig(**MINIMAL, model=model)
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe.to_yaml(), encoding="utf-8")
    assert RunConfig.load(path) == recipe
    written = yaml.safe_load(recipe.to_yaml())
    assert "tokenizer" not in written
    assert written["model"] == model
    assert set(RunConfig(**MINIMAL).model_dump()["model"]) == {"preset", "overrides"}


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_of_the_package_is_whole_and_named_after_its_file(name):
    recipe = find_recipe(name)
    assert recipe.name == name
    assert RunConfig(**yaml.safe_load(recipe.to_yaml())) == recipe


def test_an_unknown_recipe_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match=r"Did you mean 'reverse'"):
        find_recipe("revers")


@pytest.mark.parametrize(
    "tokenizer",
    [
        {"model_type": "bpe", "vocab_size": 100},
        {
            "model_type": "unigram",
            "vocab_size": 100,
            "target_model_type": "word",
            "target_vocab_size": 100,
        },
    ],
)
def test_only_unigram_pieces_can_be_drawn(tokenizer):
    def recipe(**training):
        return RunConfig(name="a", data={"kind": "reverse"}, tokenizer=tokenizer, training=training)

    with pytest.raises(ValueError, match="model_type must be unigram .*subword_nbest=8"):
        recipe(subword_nbest=8)
    assert recipe(subword_nbest=1).training.subword_nbest == 1
    unigram = {"model_type": "unigram", "vocab_size": 100}
    given = RunConfig(
        name="a", data={"kind": "reverse"}, tokenizer=unigram, training={"subword_nbest": 8}
    )
    assert given.training.subword_nbest == 8
