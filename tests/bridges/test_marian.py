"""Marian checkpoints beside transformers: kept arrays everywhere, and live where it is there."""

import json
import pickle
import random
import shutil
import sys
import traceback

import make_marian_goldens as goldens
import numpy as np
import pytest

from keras_transformer.bridges import from_marian
from keras_transformer.bridges.marian_tokenizers import read_tokenizers
from keras_transformer.bridges.marian_weights import SHARED
from keras_transformer.config import TransformerConfig
from keras_transformer.search_options import SearchOptions

TOLERANCE = 1e-4
REASON = "comes with the extra [references]"


@pytest.fixture(scope="module")
def golden():
    return goldens.load()


@pytest.fixture(scope="module")
def kept_folder(golden, tmp_path_factory):
    """The checkpoint as it was kept; read only."""
    return goldens.write_folder(golden, tmp_path_factory.mktemp("marian") / "checkpoint")


@pytest.fixture(scope="module")
def translator(kept_folder):
    return from_marian(kept_folder)


@pytest.fixture
def folder(kept_folder, tmp_path):
    """A copy of the checkpoint to be damaged."""
    return shutil.copytree(kept_folder, tmp_path / "checkpoint")


@pytest.fixture
def _transformers():
    pytest.importorskip("torch", reason=f"PyTorch is not installed: it {REASON}")
    pytest.importorskip("transformers", reason=f"transformers is not installed: it {REASON}")


def rows_of(padded, pad_id):
    return [[int(i) for i in row if i != pad_id] for row in padded]


def assert_same_ids(tokenizer, texts, padded):
    expected = rows_of(padded, tokenizer.pad_id)
    for text, row, wanted in zip(texts, tokenizer.encode(texts), expected, strict=True):
        assert [*row, tokenizer.eos_id] == wanted, ascii(text)


def assert_same_model(translator, arrays, about):
    inputs = (arrays["logits_source_ids"], arrays["target_in"])
    difference = np.abs(np.asarray(translator.model(inputs)) - arrays["logits"]).max()
    print(f"{about}: largest absolute error of the logits {difference:.1e}")
    assert difference < TOLERANCE
    assert np.abs(arrays["logits"]).mean() > 0.3
    options = SearchOptions(max_decoding_length=arrays["greedy_ids"].shape[1])
    found = translator.search(arrays["source_ids"], options).ids[:, 0]
    np.testing.assert_array_equal(found, arrays["greedy_ids"])


def change(path, **settings):
    """Set names of a JSON file; None removes one."""
    values = json.loads(path.read_text(encoding="utf-8")) | settings
    values = {name: value for name, value in values.items() if value is not None}
    path.write_text(json.dumps(values), encoding="utf-8")


def change_weights(folder, change):
    """Let `change` rewrite the dict of tensors."""
    from safetensors.numpy import load_file, save_file

    arrays = load_file(folder / "model.safetensors")
    change(arrays)
    save_file(arrays, folder / "model.safetensors")


# equal to transformers


def test_logits_and_greedy_ids_are_those_that_transformers_gave(translator, golden):
    assert_same_model(translator, golden, "kept Marian")
    lengths = {list(row).index(0) for row in golden["greedy_ids"] if 0 in row}
    assert len(lengths) > 3  # they end at different steps


def test_ids_of_texts_in_many_scripts_are_those_that_transformers_gave(translator, golden):
    assert_same_ids(translator.source, goldens.TEXTS, golden["source_ids"])
    assert_same_ids(translator.target, goldens.TARGET_TEXTS, golden["target_ids"])
    unknown, known = translator.source.unk_id, translator.config.target_vocab_size
    assert any(unknown in row for row in golden["source_ids"])
    assert golden["source_ids"].max() == known - 1


@pytest.mark.usefixtures("_transformers")
def test_the_kept_arrays_are_what_transformers_computes_now(golden):
    now = goldens.make()
    assert set(now) == set(golden)
    for name in ("source_ids", "target_ids", "greedy_ids", "logits_source_ids", "target_in"):
        np.testing.assert_array_equal(now[name], golden[name])
    np.testing.assert_allclose(now["logits"], golden["logits"], atol=1e-5)


@pytest.mark.usefixtures("_transformers")
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"activation_function": "relu", "scale_embedding": False},
        {"activation_function": "gelu", "encoder_layers": 1, "decoder_layers": 3},
        {"share_encoder_decoder_embeddings": False},
        {"share_encoder_decoder_embeddings": False, "tie_word_embeddings": False},
    ],
    ids=lambda fields: "-".join(fields) or "as-opus-mt",
)
def test_promise_a_random_marian_model_is_equal_to_transformers(fields, tmp_path):
    folder = goldens.make_folder(tmp_path, seed=1, **fields)
    assert_same_model(from_marian(folder), goldens.outputs(folder), f"live Marian {fields}")


@pytest.mark.usefixtures("_transformers")
@pytest.mark.parametrize("seed", [1, 2])
def test_ids_of_random_texts_are_those_of_marian_tokenizer(seed, tmp_path):
    goldens.make_tokenizer_files(tmp_path, seed)
    reference = goldens.marian_tokenizer(tmp_path)
    generator = random.Random(seed)
    words = " ".join((*goldens.SOURCE, *goldens.TARGET)).split()
    letters = "日本東京☃я„ aße語п▁"
    texts = [" ".join(generator.choices(words, k=generator.randint(1, 9))) for _ in range(300)]
    texts += ["".join(generator.choices(letters, k=generator.randint(0, 9))) for _ in range(300)]
    texts += [
        "".join(chr(generator.choice((generator.randint(1, 0xD7FF), 97))) for _ in range(12))
        for _ in range(300)
    ]
    source, target = read_tokenizers(tmp_path)
    expected = [reference(text).input_ids for text in texts]
    assert [[*row, 0] for row in source.encode(texts)] == expected
    expected = [reference(text_target=text).input_ids for text in texts]
    assert [[*row, 0] for row in target.encode(texts)] == expected


@pytest.mark.usefixtures("_transformers")
def test_texts_of_ids_are_those_of_marian_tokenizer(kept_folder, translator):
    reference = goldens.marian_tokenizer(kept_folder)
    generator = np.random.default_rng(0)
    # not the last: codes, before which we put a space, and padding
    ordinary = range(2, translator.config.pad_id - len(goldens.CODES))
    rows = generator.choice(ordinary, (200, 8)).tolist()
    assert [text.strip() for text in translator.target.decode(rows)] == [
        reference.decode(row, clean_up_tokenization_spaces=False) for row in rows
    ]


@pytest.mark.usefixtures("_transformers")
def test_pytorch_model_bin_gives_the_same_weights(folder, translator):
    import torch
    from transformers import MarianMTModel

    state = MarianMTModel.from_pretrained(folder).state_dict()
    assert {"lm_head.weight", "model.encoder.embed_positions.weight"} <= set(state)
    torch.save(state, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    for ours, same in zip(from_marian(folder).model.weights, translator.model.weights, strict=True):
        np.testing.assert_array_equal(ours, same)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_weights_in_half_precision_are_read(dtype, folder, translator):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    half = np.float16 if dtype == "float16" else ml_dtypes.bfloat16

    def halve(arrays):
        arrays.update({name: array.astype(half) for name, array in arrays.items()})

    change_weights(folder, halve)
    for ours, whole in zip(
        from_marian(folder).model.weights, translator.model.weights, strict=True
    ):
        np.testing.assert_array_equal(ours, np.asarray(whole).astype(half).astype("float32"))


@pytest.fixture
def save_torch(folder):
    """Save what it is given as the folder's pytorch_model.bin, its only weights."""
    torch = pytest.importorskip("torch", reason=f"PyTorch is not installed: it {REASON}")
    (folder / "model.safetensors").unlink()
    return lambda content: torch.save(content, folder / "pytorch_model.bin")


@pytest.fixture
def tensors(kept_folder):
    """The checkpoint's weights as torch would have them."""
    torch = pytest.importorskip("torch", reason=f"PyTorch is not installed: it {REASON}")
    from safetensors.numpy import load_file

    arrays = load_file(kept_folder / "model.safetensors")
    return {name: torch.tensor(array) for name, array in arrays.items()}


def test_parameters_that_want_gradients_are_read(folder, tensors, save_torch, translator):
    from torch.nn import Parameter

    save_torch({name: Parameter(tensor) for name, tensor in tensors.items()})
    for ours, same in zip(from_marian(folder).model.weights, translator.model.weights, strict=True):
        np.testing.assert_array_equal(ours, same)


# what comes back


def test_the_architecture_and_the_ids_are_the_checkpoints(translator):
    size = translator.config.target_vocab_size
    assert translator.config == TransformerConfig(
        source_vocab_size=size, target_vocab_size=size, num_encoder_layers=2, num_decoder_layers=1,
        d_model=16, d_ff=24, num_heads=4, activation="silu", position_layout="halves",
        embeddings="shared", output_bias=True, embedding_scale=True, pad_id=size - 1, unk_id=1,
        bos_id=size - 1, eos_id=0, decoder_start_id=size - 1,
    )  # fmt: skip
    for tokenizer in (translator.source, translator.target):
        assert (tokenizer.pad_id, tokenizer.unk_id, tokenizer.eos_id) == (size - 1, 1, 0)
        assert tokenizer.bos_id == size - 1
        assert tokenizer.vocab_size == size


def test_padding_is_never_an_output(kept_folder):
    translator = from_marian(kept_folder)
    most = np.eye(translator.config.target_vocab_size)[translator.config.pad_id] * 50
    translator.model.output_bias.assign(most)
    for size in (1, 3):
        options = SearchOptions(size, size, max_decoding_length=5)
        found = translator.search(np.array([[5, 6, 0]]), options)
        lengths = (found.ids != translator.config.pad_id).sum(axis=-1)
        assert (lengths[~found.finished] == 5).all()
        assert (lengths > 0).all()


def test_scores_are_those_of_the_full_model(translator):
    texts = ["hello world", "", "日本 ☃", ">>rus<< a dog"]
    finished = [h[0] for h in translator.translate(texts, length_penalty=0)]
    rows = [[*h.tokens, 0] if h.finished else h.tokens for h in finished]
    sources = [[*row, 0] for row in translator.source.encode(texts)]
    np.testing.assert_allclose(
        translator.score_ids(sources, rows), [h.score for h in finished], rtol=1e-4
    )


def test_special_pieces_inside_a_text_are_text(translator):
    for text in ("</s>", "a</s>b", "<pad>", "<unk> <pad> </s>"):
        (row,) = translator.source.encode([text])
        assert not {translator.source.eos_id, translator.source.pad_id} & set(row)


def test_a_language_code_in_mid_text_is_one_where_a_space_stands_before_it(translator):
    vocabulary = translator.source
    (code,) = vocabulary.encode([">>rus<<"])[0]
    assert vocabulary.tokens([code]) == ["▁>>rus<<"]
    (a, dog) = vocabulary.encode(["a dog"])[0]
    assert vocabulary.encode(["a dog >>rus<< a dog"]) == [[a, dog, code, a, dog]]
    assert vocabulary.encode(["a >>rus<<", ">>rus<< >>rus<<"]) == [[a, code], [code, code]]
    assert vocabulary.decode([[a, dog, code, a, dog]]) == ["a dog >>rus<< a dog"]
    assert code not in vocabulary.encode(["a dog>>rus<< a dog"])[0]


def test_tokenizers_are_the_same_after_saving(translator, tmp_path):
    from keras_transformer.text.tokenizer import Tokenizer

    translator.source.save(tmp_path / "source.model")
    again = Tokenizer.load(tmp_path / "source.model")
    assert again == translator.source
    assert again.encode(list(goldens.TEXTS)) == translator.source.encode(list(goldens.TEXTS))


def test_a_rewritten_model_that_was_cut_is_refused(translator):
    from keras_transformer.text.protobuf import fields
    from keras_transformer.text.tokenizer import Tokenizer

    whole = translator.source.serialized
    ends = [end for _, _, end in fields(whole)]
    assert ends[-1] == len(whole)
    for end in ends[:-1]:  # between two fields, SentencePiece would take it for whole
        with pytest.raises(ValueError, match="must be a whole SentencePiece model"):
            Tokenizer.from_bytes(whole[:end])


def test_separate_vocabularies_are_read(folder, golden):
    vocabulary = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    pieces = list(vocabulary)
    pieces[2:-1] = reversed(pieces[2:-1])
    turned = {piece: index for index, piece in enumerate(pieces)}
    (folder / "target_vocab.json").write_text(json.dumps(turned), encoding="utf-8")
    change(folder / "config.json", share_encoder_decoder_embeddings=False)

    def separate(arrays):
        shared = arrays.pop("model.shared.weight")
        arrays["model.encoder.embed_tokens.weight"] = shared
        arrays["model.decoder.embed_tokens.weight"] = 2 * shared

    change_weights(folder, separate)
    translator = from_marian(folder)
    assert translator.config.embeddings == "tied"
    assert_same_ids(translator.source, goldens.TEXTS, golden["source_ids"])
    last = len(pieces) - 1
    found = [
        [i if i in (0, 1, last) else last + 1 - i for i in row] for row in golden["target_ids"]
    ]
    assert_same_ids(translator.target, goldens.TARGET_TEXTS, found)


# refused


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
