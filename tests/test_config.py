from types import SimpleNamespace

import pytest
import yaml
from tiny_models import OPTIONS, tiny_config

from keras_transformer.config import PRESETS, TransformerConfig

VOCABULARIES = {"source_vocab_size": 100, "target_vocab_size": 80}


def tokenizer(vocab_size=100, pad_id=0, unk_id=1, bos_id=2, eos_id=3):
    return SimpleNamespace(
        vocab_size=vocab_size, pad_id=pad_id, unk_id=unk_id, bos_id=bos_id, eos_id=eos_id
    )


@pytest.mark.parametrize(
    ("name", "layers", "d_model", "d_ff", "heads"),
    [
        ("tiny", 4, 128, 256, 4),
        ("small", 6, 512, 1024, 4),
        ("base", 6, 512, 2048, 8),
        ("big", 6, 1024, 4096, 16),
    ],
)
def test_presets_are_the_published_sizes(name, layers, d_model, d_ff, heads):
    config = TransformerConfig.preset(name, **VOCABULARIES)
    assert (config.num_encoder_layers, config.num_decoder_layers) == (layers, layers)
    assert (config.d_model, config.d_ff, config.num_heads) == (d_model, d_ff, heads)
    assert not config.norm_first
    assert config.key_size == config.value_size == d_model // heads


def test_a_field_wins_over_its_preset_and_the_number_of_one_stack_over_that_of_both():
    config = TransformerConfig.preset(
        "tiny", num_layers=2, num_decoder_layers=1, d_ff=64, **VOCABULARIES
    )
    assert (config.num_encoder_layers, config.num_decoder_layers, config.d_ff) == (2, 1, 64)
    assert config.d_model == PRESETS["tiny"]["d_model"]


def test_tokenizers_give_sizes_ids_and_the_kind_of_embeddings():
    source, target = tokenizer(100), tokenizer(80, unk_id=4, bos_id=1)
    config = TransformerConfig.for_tokenizers("tiny", source, target, norm_first=True)
    assert (config.source_vocab_size, config.target_vocab_size) == (100, 80)
    assert (config.unk_id, config.bos_id, config.eos_id, config.pad_id) == (4, 1, 3, 0)
    assert (config.embeddings, config.norm_first) == ("tied", True)
    assert TransformerConfig.for_tokenizers("tiny", source, source).embeddings == "shared"
    with pytest.raises(ValueError, match=r"must agree on pad_id and eos_id.*target pad 0, eos 5"):
        TransformerConfig.for_tokenizers("tiny", source, tokenizer(80, eos_id=5))


def test_the_start_and_the_banned_ids_follow_the_special_ids():
    assert tiny_config().start_id == 2
    assert tiny_config().banned_ids == (0, 2)
    assert tiny_config(decoder_start_id=0).banned_ids == (0,)
    assert tiny_config(decoder_start_id=3).banned_ids == (0,)  # it must be able to end


def test_a_config_cannot_be_changed_in_place():
    with pytest.raises(ValueError, match=r"frozen"):
        tiny_config().d_model = 3


@pytest.mark.parametrize("fields", OPTIONS.values(), ids=OPTIONS)
def test_every_architecture_round_trips_through_plain_values(fields):
    config = tiny_config(**fields)
    assert TransformerConfig(**yaml.safe_load(yaml.safe_dump(config.model_dump()))) == config


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"d_model": 7, "num_heads": 1}, "d_model must be even for sinusoidal .*d_model=7"),
        ({"num_heads": 3}, "multiple of num_heads, or give key_dim and value_dim.*num_heads=3"),
        ({"num_heads": 3, "key_dim": 4}, "multiple of num_heads"),
        ({"num_heads": 3, "value_dim": 4}, "multiple of num_heads"),
        (
            {"embeddings": "shared"},
            "needs one vocabulary.*source_vocab_size=11, target",
        ),
        ({"unk_id": 0}, "pad_id and unk_id must differ.*pad_id=0, unk_id=0"),
        ({"pad_id": 3}, "pad_id and eos_id must differ.*pad_id=3, eos_id=3"),
        ({"unk_id": 11}, "unk_id must be inside both vocabularies, below 11.*unk_id=11"),
        ({"decoder_start_id": 12}, "decoder_start_id must be inside both .*decoder_start_id=12"),
        ({"dropout": 1.0}, "dropout: .*less than 1.*dropout=1.0"),
        ({"embedding_dropout": -0.1}, "embedding_dropout: .*embedding_dropout=-0.1"),
        ({"num_heads": 0}, "num_heads: .*num_heads=0"),
        ({"layer_norm_epsilon": 0}, "layer_norm_epsilon: .*greater than 0"),
        ({"source_vocab_size": 4}, "source_vocab_size: .*source_vocab_size=4"),
        ({"positions": "rotry"}, "positions: .*'sinusoidal'.*'rotary'.*positions='rotry'"),
        ({"positions": "rotary", "key_dim": 3}, "positions='rotary' .*even.*3 components a head"),
        ({"similarity": "cosin"}, "similarity must be one of.*Did you mean 'cosine'.*='cosin'"),
        ({"activation": "tanh"}, "activation: .*activation='tanh'"),
        ({"d_modl": 8}, "d_modl: unknown setting. Did you mean 'd_model'?.*d_modl=8"),
        ({"zzz": 8}, "zzz: unknown setting. Choose from activation, "),
    ],
)
def test_a_contradiction_is_one_clear_error(fields, message):
    with pytest.raises(ValueError, match=message) as caught:
        tiny_config(**fields)
    assert type(caught.value) is ValueError
    assert len(str(caught.value).splitlines()) == 1
    assert "pydantic" not in str(caught.value)


def test_uneven_sizes_are_allowed_where_they_make_sense():
    assert tiny_config(d_model=7, num_heads=1, positions="learned").d_model == 7
    assert tiny_config(num_heads=3, key_dim=4, value_dim=5).value_size == 5


def test_every_fault_is_named_at_once():
    with pytest.raises(ValueError) as caught:
        TransformerConfig(d_model=-1, dropuot=0.1)
    lines = str(caught.value).splitlines()
    assert [line.split(":")[0] for line in lines] == [
        "source_vocab_size",
        "target_vocab_size",
        "d_model",
        "dropuot",
    ]
    assert "Did you mean 'dropout'?" in lines[3]


def test_an_unknown_preset_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match=r"preset: unknown name. Did you mean 'small'?"):
        TransformerConfig.preset("smal", **VOCABULARIES)
