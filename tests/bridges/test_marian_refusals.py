"""What is no Marian checkpoint of this kind is refused by name, and what may be missing."""

import json
import pickle
import sys
import traceback

import make_marian_goldens as goldens
import numpy as np
import pytest
from marian_changes import REASON, change, change_weights

from keras_transformer.bridges import from_marian
from keras_transformer.bridges.marian_tokenizers import read_tokenizers
from keras_transformer.bridges.marian_weights import SHARED


def test_separate_vocabularies_must_have_their_padding_at_one_id(folder):
    pieces = list(json.loads((folder / "vocab.json").read_text(encoding="utf-8")))
    last = len(pieces) - 1
    pieces[last - 1], pieces[last] = pieces[last], pieces[last - 1]
    turned = {piece: index for index, piece in enumerate(pieces)}
    (folder / "target_vocab.json").write_text(json.dumps(turned), encoding="utf-8")
    change(folder / "config.json", share_encoder_decoder_embeddings=False)
    with pytest.raises(ValueError, match=f"'<pad>' at the same id.*{last} and {last - 1}$"):
        from_marian(folder)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model_type": "bart"}, "model_type must be 'marian'.*model_type='bart'"),
        ({"model_type": None}, "model_type must be 'marian'.*model_type=None"),
        ({"activation_function": "gelu_new"}, "one of swish, .*activation_function='gelu_new'"),
        ({"activation_function": ["relu"]}, r"activation_function=\['relu'\]"),
        ({"normalize_before": True}, "normalize_before must be False.*normalize_before=True"),
        ({"encoder_layerdrop": 0.1}, "encoder_layerdrop must be 0.0"),
        ({"static_position_embeddings": False}, "static_position_embeddings must be True"),
        ({"decoder_ffn_dim": 32}, "encoder_ffn_dim=24, decoder_ffn_dim=32"),
        ({"decoder_attention_heads": 2}, "encoder_attention_heads and decoder_attention_heads"),
        ({"tie_word_embeddings": False}, "tie_word_embeddings must be True"),
        ({"d_model": None}, "d_model must be an integer from 0. Received: d_model=None"),
        ({"d_model": 18}, "d_model must be a multiple of num_heads"),
        ({"eos_token_id": [0, 1]}, r"eos_token_id must be an integer.*\[0, 1\]"),
        ({"eos_token_id": 1}, "the source vocabulary must have '</s>' at 1. Received: eos_id=0"),
        ({"pad_token_id": 3}, "must have '<pad>' at 3"),
        ({"decoder_start_token_id": 999}, "decoder_start_id must be inside both vocabularies"),
        ({"vocab_size": 100}, "inside both vocabularies|vocab_size must be the number of pieces"),
        ({"dropout": "much"}, "dropout: "),
    ],
)
def test_an_unsupported_setting_is_refused_with_its_name_and_file(settings, message, folder):
    change(folder / "config.json", **settings)
    if settings.get("decoder_start_token_id"):
        assert not (folder / "generation_config.json").exists()
    with pytest.raises(ValueError, match=rf"config\.json: (.|\n)*{message}"):
        from_marian(folder)


def test_the_start_id_may_stand_in_the_generation_config(folder):
    change(folder / "config.json", decoder_start_token_id=None)
    (folder / "generation_config.json").write_text('{"decoder_start_token_id": 7}')
    assert from_marian(folder).config.start_id == 7


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda a: a.update(odd=a.pop("model.encoder.layers.1.fc1.bias")),
            "missing model.encoder.layers.1.fc1.bias; unknown odd$",
        ),
        (lambda a: a.pop("model.shared.weight"), "missing model.shared.weight; unknown none"),
        (
            lambda a: [a.pop(name) for name in list(a) if ".decoder.layers.0." in name],
            "missing model.decoder.layers.0.self_attn.q_proj.weight, .* and 23 more; unknown none",
        ),
        (
            lambda a: a.update({"model.encoder.layers.2.fc1.bias": np.zeros(24, "float32")}),
            "missing none; unknown model.encoder.layers.2.fc1.bias",
        ),
        (
            lambda a: a.update({"model.encoder.layers.0.fc2.weight": np.zeros((24, 16), "f4")}),
            r"model.encoder.layers.0.fc2.weight must have the shape \(16, 24\).*\(24, 16\)",
        ),
        (
            lambda a: a.update({"lm_head.weight": a["model.shared.weight"] + 1}),
            "model.shared.weight, lm_head.weight must be equal",
        ),
        (
            lambda a: a.update({"model.encoder.embed_positions.weight": np.ones((9, 16), "f4")}),
            "embed_positions.weight must be Marian's sinusoidal positions",
        ),
        (
            lambda a: a.update({"final_logits_bias": a["final_logits_bias"].astype("int32")}),
            "final_logits_bias must hold floats. Received: dtype=int32",
        ),
    ],
)
def test_other_tensors_than_the_models_are_refused_by_name(change, message, folder):
    change_weights(folder, change)
    with pytest.raises(ValueError, match=rf"model\.safetensors: .*{message}"):
        from_marian(folder)


def test_a_missing_output_bias_is_zero_and_a_missing_table_of_positions_is_no_loss(folder, golden):
    def drop(arrays):
        arrays.pop("final_logits_bias")
        assert not any("embed_positions" in name for name in arrays)

    change_weights(folder, drop)
    translator = from_marian(folder)
    assert not np.asarray(translator.model.output_bias).any()


@pytest.mark.parametrize("name", goldens.FILES)
def test_a_missing_or_cut_file_is_refused_by_name(name, folder):
    path = folder / name
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=path.name.replace(".", r"\.")):
        from_marian(folder)
    path.unlink()
    with pytest.raises(ValueError, match=path.name.replace(".", r"\.")):
        from_marian(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1, 2]", "must hold a JSON object. Received: list"),
        ('{"a": 0, "b": 2}', "0 to 1 for 2 pieces"),
        ('{"a": 0, "b": true}', "0 to 1 for 2 pieces"),
        ('{"a": 0, "b": 1}', "must have the pieces '</s>', '<pad>', '<unk>'"),
        ('{"</s>": 0, "<unk>": 1, "\\ud800": 2, "<pad>": 3}', "pieces of Unicode text"),
        ('{"</s>": 0, "<unk>": 1, "": 2, "<pad>": 3}', "none empty"),
        ("[" * 100_000, "is damaged"),
    ],
)
def test_a_vocabulary_that_is_none_is_refused(content, message, folder):
    (folder / "vocab.json").write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=rf"vocab\.json: .*{message}"):
        from_marian(folder)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model_type": "bpe"}, "model_type must be unigram"),
        ({"add_dummy_prefix": False}, "add_dummy_prefix must be True.*'>>cmn_Hans<<'"),
        ({"remove_extra_whitespaces": False}, "remove_extra_whitespaces must be True"),
        ({"treat_whitespace_as_suffix": True}, "treat_whitespace_as_suffix must be False"),
    ],
)
def test_sentencepiece_models_of_another_kind_are_refused(options, message, folder):
    goldens.make_tokenizer_files(folder, **options)
    with pytest.raises(ValueError, match=rf"source\.spm: .*{message}"):
        from_marian(folder)


def test_without_language_codes_each_side_keeps_its_rules_for_spaces(tmp_path, monkeypatch):
    monkeypatch.setattr(goldens, "CODES", ())
    goldens.make_tokenizer_files(tmp_path, add_dummy_prefix=False)
    source, _ = read_tokenizers(tmp_path)
    assert source.tokens(source.encode(["dog"])[0])[0][0] == "d"


def test_a_file_of_weights_that_runs_code_is_refused(folder):
    pytest.importorskip("torch", reason=f"PyTorch is not installed: it {REASON}")
    (folder / "model.safetensors").unlink()
    marker = folder / "was run"

    class Hostile:
        def __reduce__(self):
            return open, (str(marker), "w")

    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Hostile(), protocol=2))
    with pytest.raises(ValueError, match=r"pytorch_model\.bin: is damaged, or holds more than"):
        from_marian(folder)
    assert not marker.exists()


POINTER = (
    "version https://git-lfs.github.com/spec/v1\n"
    "oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\n"
    "size 301234567\n"
)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors"])
def test_a_pointer_of_git_lfs_is_refused_without_advice_to_trust_the_file(name, folder):
    if name == "pytorch_model.bin":
        pytest.importorskip("torch", reason=f"PyTorch is not installed: it {REASON}")
    (folder / "model.safetensors").unlink()
    (folder / name).write_text(POINTER)
    with pytest.raises(ValueError, match=rf"{name}: is damaged.*only a pointer") as caught:
        from_marian(folder)
    assert "weights_only" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: {"model": t}, "must hold tensors by name.* 'model' is a dict"),
        (lambda t: list(t.values()), "must hold tensors by name.* a list"),
        (lambda t: dict(enumerate(t.values())), "must hold tensors by name.* the name 0"),
        (lambda t: t | {SHARED: t[SHARED].int()}, f"{SHARED} must hold floats.*=int32"),
        (lambda t: t | {SHARED: t[SHARED] > 0}, f"{SHARED} must hold floats.*=bool"),
        (lambda t: t | {SHARED: t[SHARED] * 1j}, f"{SHARED} must hold floats.*=complex64"),
        (lambda t: t | {SHARED: t[SHARED].to("meta")}, f"{SHARED} must be a dense .* on meta"),
        (lambda t: t | {SHARED: t[SHARED].to_sparse()}, f"{SHARED} must be a dense .*sparse_coo"),
    ],
    ids=["nested", "list", "numbered", "int", "bool", "complex", "meta", "sparse"],
)
def test_what_is_no_flat_dict_of_floats_is_refused(change, message, folder, tensors, save_torch):
    save_torch(change(tensors))
    with pytest.raises(ValueError, match=rf"pytorch_model\.bin: {message}"):
        from_marian(folder)


@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "float8_e5m2"])
def test_float8_in_safetensors_is_refused_with_what_is_taken(dtype, folder, tensors):
    import torch
    from safetensors.torch import save_file

    tensors[SHARED] = tensors[SHARED].to(getattr(torch, dtype))
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(ValueError, match=rf"must hold floats of 16, 32 or 64 bits.*{dtype}"):
        from_marian(folder)


def test_without_pytorch_the_error_says_what_would_do(folder, monkeypatch):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ImportError, match=r"PyTorch is needed.*model.safetensors.*references"):
        from_marian(folder)


def test_a_folder_without_weights_says_which_files_would_do(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"in model.safetensors or pytorch_model.bin"):
        from_marian(folder)
