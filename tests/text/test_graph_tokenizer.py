"""`GraphTokenizer` gives what `Tokenizer` gives, on any text."""

import random

import make_marian_goldens as goldens
import numpy as np
import pytest

from keras_transformer import backend
from keras_transformer.text.graph_tokenizer import GraphTokenizer
from keras_transformer.text.tokenizer import Tokenizer

tf = backend.import_tensorflow()

SETTINGS = [
    ("unigram", {}),
    ("unigram", {"normalization": "identity"}),
    ("unigram", {"byte_fallback": True}),
    ("bpe", {}),
    ("bpe", {"add_dummy_prefix": False, "byte_fallback": True}),
    ("char", {}),
    ("char", {"normalization": "nfkc_cf"}),
    ("word", {}),
]

WORDS = "the dog ate a big bagel and ran off gggg aab hej straße ñandú привет こんにちは 日本"

# First and last code point of scripts, marks, controls, private use, emoji and unassigned planes.
BLOCKS = [
    (0x01, 0x1F), (0x20, 0x7E), (0x7F, 0x9F), (0xA0, 0x24F), (0x300, 0x36F), (0x370, 0x3FF),
    (0x400, 0x4FF), (0x590, 0x5FF), (0x600, 0x6FF), (0x900, 0x97F), (0xE00, 0xE7F),
    (0x1100, 0x11FF), (0x2000, 0x206F), (0x3000, 0x30FF), (0x4E00, 0x9FFF), (0xAC00, 0xD7A3),
    (0xE000, 0xF8FF), (0xF900, 0xFFFF), (0x1F300, 0x1FAFF), (0x10000, 0x10FFFF),
]  # fmt: skip

ODD_TEXTS = [
    "", " ", "   ", "\t", "\n", "\r\n", "\u2028", "\u0085", "\x0c", "\x01a\x7f", "  a  b  ",
    "a ", " a", "▁", "a▁b", "<unk>", "<s> </s> <pad>", "<0x41>", "\u2047", "e\u0301", "é", "\u0301",
    "ﬁ", "ﷺ", "ａｂ", "①½", "İßſ", "일 각", "\U0001f468\u200d\U0001f469\u200d\U0001f467 🇩🇪👍🏽",
    "\u200b\ufeff", "\ufffd\uffff\U0010ffff", "gggggggg", "hmm!!! >>> aaaa",
    "the dog " * 1250, "g" * 10_000, "日本語" * 3_000,
]  # fmt: skip


def training_lines() -> list[str]:
    generator = random.Random(0)
    return [" ".join(generator.choices(WORDS.split(), k=6)) for _ in range(300)]


def random_texts(count: int, seed: int) -> list[str]:
    generator = random.Random(seed)

    def character() -> str:
        if generator.random() < 0.4:
            return generator.choice("g ab▁ deo")
        return chr(generator.randint(*generator.choice(BLOCKS)))

    return ["".join(character() for _ in range(generator.randint(0, 40))) for _ in range(count)]


@pytest.fixture(scope="module", params=SETTINGS, ids=lambda s: "-".join([s[0], *s[1]]))
def pair(request):
    model_type, settings = request.param
    tokenizer = Tokenizer.train(training_lines(), 320, model_type, **settings)
    return tokenizer, GraphTokenizer(tokenizer)


def test_ids_of_any_text_equal_those_of_tokenizer(pair):
    tokenizer, graph_tokenizer = pair
    texts = ODD_TEXTS + random_texts(400, seed=1)
    ids = graph_tokenizer.tokenize(tf.constant(texts)).numpy()
    assert ids.dtype == np.int32
    expected = [[*row, tokenizer.eos_id] for row in tokenizer.encode(texts)]
    for text, row, wanted in zip(texts, ids, expected, strict=True):
        assert row[: len(wanted)].tolist() == wanted, ascii(text[:60])
        assert (row[len(wanted) :] == tokenizer.pad_id).all()


def test_texts_of_any_ids_equal_those_of_tokenizer(pair):
    tokenizer, graph_tokenizer = pair
    generator = np.random.default_rng(2)
    ids = generator.integers(0, tokenizer.vocab_size, (400, 12))
    # Special ids, and byte pieces at the start of the vocabulary, are frequent.
    ids = np.where(generator.random(ids.shape) < 0.3, generator.integers(0, 6, ids.shape), ids)
    texts = [text.decode() for text in graph_tokenizer.detokenize(ids).numpy()]
    assert texts == tokenizer.decode(ids)


def test_texts_come_back_through_ids(pair):
    tokenizer, graph_tokenizer = pair
    texts = training_lines()[:20]
    back = graph_tokenizer.detokenize(graph_tokenizer.tokenize(tf.constant(texts)))
    assert [text.decode() for text in back.numpy()] == tokenizer.decode(tokenizer.encode(texts))


def test_an_empty_text_is_the_end_id_and_padding(pair):
    tokenizer, graph_tokenizer = pair
    ids = graph_tokenizer.tokenize(tf.constant(["", "the dog"])).numpy()
    assert ids[0].tolist() == [tokenizer.eos_id] + [tokenizer.pad_id] * (ids.shape[1] - 1)
    assert graph_tokenizer.tokenize(tf.constant([""])).numpy().tolist() == [[tokenizer.eos_id]]


def test_rows_end_at_the_first_end_id_and_leave_padding_out(pair):
    tokenizer, graph_tokenizer = pair
    (content,) = tokenizer.encode(["the dog ran"])
    pad, bos, eos = tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id
    spread = [bos, pad, *[i for piece in content for i in (piece, pad)]]
    rows = [
        [*spread, eos, *content],
        [eos, *content],
        [pad] * 4,
        [eos],
        content,
        [],
    ]
    width = max(map(len, rows))
    ids = tf.constant([row + [pad] * (width - len(row)) for row in rows], tf.int64)
    texts = [text.decode() for text in graph_tokenizer.detokenize(ids).numpy()]
    assert texts == tokenizer.decode(rows)
    assert texts[0] == texts[4] == tokenizer.decode([content])[0]
    assert texts[1] == texts[2] == texts[3] == texts[5] == ""


def test_an_empty_batch_and_rows_without_columns_work_in_a_graph(pair):
    _, graph_tokenizer = pair
    tokenize = tf.function(graph_tokenizer.tokenize, [tf.TensorSpec([None], tf.string)])
    detokenize = tf.function(graph_tokenizer.detokenize, [tf.TensorSpec([None, None], tf.int32)])
    assert tokenize(tf.constant([], tf.string)).shape[0] == 0
    assert detokenize(tf.zeros([0, 5], tf.int32)).numpy().tolist() == []
    assert detokenize(tf.zeros([2, 0], tf.int32)).numpy().tolist() == [b"", b""]


def test_an_id_outside_the_vocabulary_is_refused(pair):
    tokenizer, graph_tokenizer = pair
    with pytest.raises(tf.errors.OpError):
        graph_tokenizer.detokenize(tf.constant([[tokenizer.vocab_size]]))


def test_a_saved_model_holds_two_tokenizers_apart(tmp_path):
    source = Tokenizer.train(training_lines(), 60, "char")
    target = Tokenizer.train(training_lines(), 60, "word")
    module = tf.Module()
    module.source, module.target = GraphTokenizer(source), GraphTokenizer(target)
    module.encode = tf.function(module.source.tokenize, [tf.TensorSpec([None], tf.string)])
    module.decode = tf.function(module.target.detokenize, [tf.TensorSpec([None, None], tf.int32)])
    tf.saved_model.save(module, str(tmp_path))
    loaded = tf.saved_model.load(str(tmp_path))
    assert loaded.encode(tf.constant(["the dog"])).numpy().tolist() == [
        [*source.encode(["the dog"])[0], source.eos_id]
    ]
    assert loaded.decode(tf.constant(target.encode(["the dog"]))).numpy().tolist() == [b"the dog"]


def test_setting_the_seed_leaves_tokenizers_and_their_graphs_alive():
    tokenizer = Tokenizer.train(training_lines(), 60, "char")
    graph_tokenizer = GraphTokenizer(tokenizer)
    tokenize = tf.function(graph_tokenizer.tokenize, [tf.TensorSpec([None], tf.string)])
    before = tokenize(tf.constant(["the dog"])).numpy().tolist()
    tf.random.set_seed(1)
    assert tokenize(tf.constant(["the dog"])).numpy().tolist() == before
    assert graph_tokenizer.tokenize(tf.constant(["the dog"])).numpy().tolist() == before


@pytest.fixture(scope="module")
def marian_pair(tmp_path_factory):
    from keras_transformer.bridges.marian_tokenizers import read_tokenizers

    folder = goldens.write_folder(goldens.load(), tmp_path_factory.mktemp("marian"))
    tokenizer, _ = read_tokenizers(folder)
    return tokenizer, GraphTokenizer(tokenizer)


def test_what_marian_does_not_know_is_the_same_in_the_graph(marian_pair):
    tokenizer, graph_tokenizer = marian_pair
    generator = random.Random(3)
    texts = [*goldens.TEXTS, *ODD_TEXTS, *random_texts(200, seed=3)]
    texts += ["".join(generator.choices("日本東☃я ae語", k=8)) for _ in range(200)]
    ids = graph_tokenizer.tokenize(tf.constant(texts)).numpy()
    for text, row, wanted in zip(texts, ids, tokenizer.encode(texts), strict=True):
        assert row[: len(wanted) + 1].tolist() == [*wanted, tokenizer.eos_id], ascii(text[:60])
        assert (row[len(wanted) + 1 :] == tokenizer.pad_id).all()
    found = graph_tokenizer.detokenize(ids).numpy()
    assert [text.decode() for text in found] == tokenizer.decode(ids)
    assert graph_tokenizer.tokenize(tf.constant([], tf.string)).shape == (0, 0)
