"""`Tokenizer`: training, ids, files."""

import copy
import os
import pickle
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from keras_transformer.config import TransformerConfig
from keras_transformer.text.tokenizer import Tokenizer

LINES = [f"{a} {b} {c}" for a in ("the", "a") for b in ("big", "dog", "den") for c in ("ran", "g")]
MODEL_TYPES = ["unigram", "bpe", "char", "word"]


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train(LINES, 60, "bpe")


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_special_ids_are_0_to_3_and_pieces_follow(model_type):
    tokenizer = Tokenizer.train(LINES, 60, model_type)
    ids = (tokenizer.pad_id, tokenizer.unk_id, tokenizer.bos_id, tokenizer.eos_id)
    assert ids == (0, 1, 2, 3)
    assert tokenizer.tokens(range(4)) == ["<pad>", "<unk>", "<s>", "</s>"]
    assert min(min(row) for row in tokenizer.encode(LINES)) >= 4
    assert max(max(row) for row in tokenizer.encode(LINES)) < tokenizer.vocab_size


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_known_texts_survive_encode_and_decode(model_type):
    tokenizer = Tokenizer.train(LINES, 60, model_type)
    assert tokenizer.decode(tokenizer.encode(LINES)) == LINES


def test_char_and_word_models_have_one_piece_for_each():
    assert Tokenizer.train(["ab b", "c"], 50, "char").vocab_size == 4 + len("abc▁")
    words = Tokenizer.train(["ab b", "c ab"], 50, "word")
    assert words.vocab_size == 4 + 3
    assert words.tokens(words.encode(["c ab b"])[0]) == ["▁c", "▁ab", "▁b"]


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_vocab_size_is_a_maximum(model_type):
    assert Tokenizer.train(LINES, 100_000, model_type).vocab_size < 200
    assert Tokenizer.train(LINES, 17, model_type).vocab_size <= 17


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_training_is_deterministic_also_in_another_process(model_type):
    tokenizer = Tokenizer.train(LINES, 30, model_type)
    assert Tokenizer.train(iter(LINES), 30, model_type) == tokenizer
    code = (
        "import sys, hashlib\n"
        "from keras_transformer.text.tokenizer import Tokenizer\n"
        f"t = Tokenizer.train({LINES!r}, 30, {model_type!r})\n"
        "print(t.serialized.hex()[-64:], hash(t.serialized) and len(t.serialized))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert result.stderr == ""
    expected = f"{tokenizer.serialized.hex()[-64:]} {len(tokenizer.serialized)}"
    assert result.stdout.strip() == expected


def test_training_prints_nothing(capfd):
    Tokenizer.train(LINES, 30, "unigram")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_very_long_lines_are_learned_from(model_type):
    tokenizer = Tokenizer.train(["a b " * 20_000 + "z", "q" * 9_000], 60, model_type)
    known = tokenizer.encode(["z" if model_type != "char" else "zq"])[0]
    assert tokenizer.unk_id not in known


def test_scores_of_unigram_models_add_up_exactly():
    import sentencepiece

    tokenizer = Tokenizer.train(LINES, 40, "unigram")
    processor = sentencepiece.SentencePieceProcessor(model_proto=tokenizer.serialized)
    scores = [processor.get_score(i) for i in range(4, tokenizer.vocab_size)]
    assert all(score * 32 == round(score * 32) for score in scores)
    assert len(set(scores)) > 3


def test_unknown_text_gives_the_unknown_id_and_bytes_with_byte_fallback(tokenizer):
    assert tokenizer.unk_id in tokenizer.encode(["日本"])[0]
    assert tokenizer.decode([[tokenizer.unk_id]]) == [" ⁇ "]
    bytewise = Tokenizer.train(LINES, 300, "char", byte_fallback=True)
    assert bytewise.unk_id not in bytewise.encode(["日本"])[0]
    assert bytewise.decode(bytewise.encode(["日本 dog"])) == ["日本 dog"]


def test_a_nul_byte_piece_is_left_out():
    tokenizer = Tokenizer.train(LINES, 300, "char", byte_fallback=True)
    nul = tokenizer.tokens(range(tokenizer.vocab_size)).index("<0x00>")
    assert tokenizer.skipped_ids == (tokenizer.pad_id, tokenizer.bos_id, nul)
    (dog,) = tokenizer.encode(["dog"])
    assert tokenizer.decode([[nul, *dog[:2], nul, *dog[2:]]]) == ["dog"]


def test_decode_cuts_at_the_first_end_and_skips_padding_and_begin(tokenizer):
    (dog,) = tokenizer.encode(["dog"])
    rows = [[2, *dog, 3, *dog], [0, 0, *dog, 0], [3, *dog], [0, 0], [], [2, 3, 0]]
    assert tokenizer.decode(rows) == ["dog", "dog", "", "", "", ""]
    assert tokenizer.decode([]) == []
    assert tokenizer.decode(np.array([[*dog, 3, 0]], np.int64)) == ["dog"]


def test_no_texts_and_empty_texts(tokenizer):
    assert tokenizer.encode([]) == []
    assert tokenizer.encode(["", "   ", "\t\n"]) == [[], [], []]


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([[5], [4, 999]], r"from 0 to \d+.*ids\[1\]\[1\]=999"),
        ([[-1]], r"ids\[0\]\[0\]=-1"),
        ([[2**70]], r"from 0 to"),
        ([[1.5]], r"integers.*ids\[0\]\[0\]=1.5"),
        ([[True]], "integers"),
        ([["a"]], "integers"),
        ([4, 5], r"rows of integers.*ids\[0\]=4"),
        (["ab"], "rows of integers"),
    ],
)
def test_ids_that_no_tokenizer_made_are_refused_with_their_place(tokenizer, ids, message):
    with pytest.raises(ValueError, match=message):
        tokenizer.decode(ids)


def test_encode_refuses_one_string_and_nul(tokenizer):
    with pytest.raises(ValueError, match="Put it in a list"):
        tokenizer.encode("the dog")
    with pytest.raises(ValueError, match=r"position 1\b.*texts\[1\]"):
        tokenizer.encode(["a", "b\x00"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"vocab_size": 4}, "vocab_size must be from 5"),
        ({"vocab_size": 2**31}, "vocab_size must be from 5"),
        ({"vocab_size": True}, "vocab_size must be an integer"),
        ({"vocab_size": 10}, r"vocab_size must be at least \d+ for these lines"),
        ({"model_type": "wordpiece"}, "model_type must be one of unigram, bpe, char, word"),
        ({"normalization": "nfd"}, "normalization must be one of"),
        ({"character_coverage": 0.5}, "character_coverage must be from 0.98 to 1"),
        ({"byte_fallback": True, "vocab_size": 100}, "byte_fallback must be used with"),
        ({"byte_fallback": True, "model_type": "word"}, "byte_fallback must be used with"),
        ({"add_dummy_prefix": False, "model_type": "word"}, "add_dummy_prefix must be True"),
        ({"num_threads": 0}, "num_threads must be from 1"),
        ({"lines": "one string"}, "lines must be an iterable of strings"),
        ({"lines": []}, "at least one text that is not blank"),
        ({"lines": ["", "  "]}, "Received: lines with 2 texts, all blank"),
        ({"lines": ["a", "b\x00"]}, r"Received: lines\[1\]="),
        ({"lines": [("a", "b")]}, r"lines\[0\] must be a str"),
    ],
)
def test_training_on_what_cannot_work_says_why(arguments, message):
    with pytest.raises(ValueError, match=message):
        Tokenizer.train(**{"lines": LINES, "vocab_size": 300, "model_type": "bpe", **arguments})


def test_an_error_of_the_lines_reaches_the_caller_as_it_is():
    def lines():
        yield "the dog"
        raise ValueError("corpus.tsv:2: broken")

    with pytest.raises(ValueError, match=r"^corpus.tsv:2: broken$"):
        Tokenizer.train(lines(), 30, "char")


def test_save_and_load_keep_every_byte(tmp_path, tokenizer):
    path = tmp_path / "source.model"
    tokenizer.save(path)
    loaded = Tokenizer.load(str(path))
    assert loaded == tokenizer
    assert path.read_bytes() == tokenizer.serialized
    assert loaded.encode(LINES) == tokenizer.encode(LINES)
    assert os.listdir(tmp_path) == ["source.model"]
    assert stat.S_IMODE(path.stat().st_mode) & 0o400


def test_a_save_that_fails_leaves_the_old_file(tmp_path, tokenizer, monkeypatch):
    path = tmp_path / "source.model"
    path.write_bytes(b"old")

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        tokenizer.save(path)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["source.model"]


def test_tokenizers_copy_pickle_and_compare_by_their_bytes(tokenizer):
    other = Tokenizer.train(LINES, 30, "char")
    for twin in (pickle.loads(pickle.dumps(tokenizer)), copy.deepcopy(tokenizer)):
        assert twin == tokenizer
        assert hash(twin) == hash(tokenizer)
    assert tokenizer != other
    assert Tokenizer.from_bytes(tokenizer.serialized) == tokenizer


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x00" * 50, "é".encode() * 9])
def test_a_foreign_file_is_refused_by_name(tmp_path, content):
    path = tmp_path / "foreign.model"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"foreign\.model"):
        Tokenizer.load(path)


def test_a_missing_file_is_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match=r"No such file.*gone\.model"):
        Tokenizer.load(tmp_path / "gone.model")


def test_a_model_cut_anywhere_is_refused():
    whole = Tokenizer.train(LINES, 18, "char", normalization="identity").serialized
    for length in range(len(whole)):
        with pytest.raises(ValueError, match="whole SentencePiece model"):
            Tokenizer.from_bytes(whole[:length])


def test_a_model_without_padding_is_refused():
    import io

    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(LINES), model_writer=model, vocab_size=16, minloglevel=2
    )
    with pytest.raises(ValueError, match="it defines no pad id"):
        Tokenizer.from_bytes(model.getvalue())


def test_where_a_model_has_no_begin_padding_begins():
    import io

    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(LINES), model_writer=model, vocab_size=16, minloglevel=2,
        eos_id=0, unk_id=1, pad_id=2, bos_id=-1,
    )  # fmt: skip
    tokenizer = Tokenizer.from_bytes(model.getvalue())
    assert (tokenizer.eos_id, tokenizer.pad_id, tokenizer.bos_id) == (0, 2, 2)
    assert tokenizer.skipped_ids == (2,)
    assert tokenizer.decode(tokenizer.encode(LINES)) == LINES
    config = TransformerConfig.for_tokenizers("tiny", tokenizer, tokenizer)
    assert (config.start_id, config.banned_ids) == (2, (2,))


def test_threads_share_one_tokenizer(tokenizer):
    expected = tokenizer.encode(LINES)
    with ThreadPoolExecutor(8) as threads:
        results = list(threads.map(lambda _: tokenizer.encode(LINES), range(64)))
    assert all(result == expected for result in results)


def test_without_sentencepiece_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(ImportError, match=r'pip install "\.\[train\]"'):
        Tokenizer.train(LINES, 30, "char")
