"""Marian checkpoints beside transformers: kept arrays everywhere, and live where it is there."""

import json
import random

import make_marian_goldens as goldens
import numpy as np
import pytest
from marian_changes import REASON, change, change_weights

from keras_transformer.bridges import from_marian
from keras_transformer.bridges.marian_tokenizers import read_tokenizers
from keras_transformer.config import TransformerConfig
from keras_transformer.search_options import SearchOptions

TOLERANCE = 1e-4


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
