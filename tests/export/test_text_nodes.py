"""The tokenizer inside the ONNX graph and `Tokenizer` are one."""

import random

import make_marian_goldens as goldens
import numpy as np
import onnx
import pytest
from onnx.parser import parse_model
from sentencepiece import SentencePieceProcessor

from keras_transformer_export.text_nodes import add_text_nodes, decoding_only

LINES = [
    "a little girl climbing into a wooden playhouse!!!",
    "Ein kleines Mädchen klettert in ein Spielhaus aus Holz ...",
    "日本語 の テキスト",
    "Привет, мир; hmmm... aaaa 1,000,000",
] * 20
EDGES = ["", " ", "  \t\n ", "▁", "▁▁ a", "<s> </s> <pad> <unk>", "a</s>b", "e\u0301", "\ufeff"]
EDGES += [
    "\x01\x7f\uffff\U0010ffff",
    "😀 ﬁ ㎞",
    "!!!!!!!",
    "a" * 10_000,
    "word " * 2_000,
    "日" * 9_999,
]
# The whole search is one Identity here: texts -> ids -> texts.
IDENTITY = """<ir_version: 8, opset_import: ["" : 18]>
search (int64[B,S] source_ids) => (int64[B,n,S] ids) <int64[1] one = {1}> {
    ids = Unsqueeze (source_ids, one)
}"""
ROWS = """<ir_version: 8, opset_import: ["" : 18]>
search (int64[B,S] source_ids, int64[B,n,T] rows) => (int64[B,n,T] ids) { ids = Identity (rows) }"""


@pytest.fixture(scope="module", params=["unigram", "bpe", "char", "word", "bytes", "no prefix"])
def tokenizer(request):
    from keras_transformer.text.tokenizer import Tokenizer

    if request.param == "bytes":
        return Tokenizer.train(LINES, vocab_size=350, model_type="unigram", byte_fallback=True)
    if request.param == "no prefix":
        return Tokenizer.train(LINES, 90, "char", add_dummy_prefix=False, normalization="nfkc_cf")
    return Tokenizer.train(LINES, vocab_size=90, model_type=request.param)


def random_texts(count, seed=0):
    generator = random.Random(seed)
    letters = [*"aeimn!.,▁ \t\u00a0\u3000", *"日本語Приветß😀"]
    anything = [
        chr(c) for c in generator.sample(range(1, 0x110000), 4000) if not 0xD800 <= c < 0xE000
    ]
    return [
        "".join(generator.choices(generator.choice([letters, anything]), k=generator.randrange(30)))
        for _ in range(count)
    ]


def session_of(model):
    import onnxruntime
    import onnxruntime_extensions

    options = onnxruntime.SessionOptions()
    options.register_custom_ops_library(onnxruntime_extensions.get_library_path())
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def text_session(core, tokenizer):
    model = add_text_nodes(
        parse_model(core),
        tokenizer.serialized,
        tokenizer.serialized,
        pad_id=tokenizer.pad_id,
        eos_id=tokenizer.eos_id,
        skipped_ids=tokenizer.skipped_ids,
    )
    onnx.checker.check_model(model, full_check=True)
    return session_of(model)


def test_any_text_encodes_and_decodes_as_in_the_tokenizer(tokenizer):
    session = text_session(IDENTITY, tokenizer)
    texts = EDGES + random_texts(600)
    for start in (*range(len(EDGES)), *range(len(EDGES), len(texts), 60)):
        batch = texts[start : start + (1 if start < len(EDGES) else 60)]
        translations, ids = session.run(None, {"texts": np.array(batch, object)})
        encoded = tokenizer.encode(batch)
        longest = max(map(len, encoded)) + 1
        expected = [
            row + [tokenizer.eos_id] + [tokenizer.pad_id] * (longest - 1 - len(row))
            for row in encoded
        ]
        assert ids[:, 0].tolist() == expected
        assert translations[:, 0].tolist() == tokenizer.decode(encoded)


def test_rows_are_cut_at_the_first_end_and_fillers_are_left_out(tokenizer):
    session = text_session(ROWS, tokenizer)
    generator = np.random.default_rng(0)
    rows = generator.integers(0, tokenizer.vocab_size, (16, 3, 12))
    rows[generator.random(rows.shape) < 0.1] = tokenizer.pad_id
    rows[0, 0] = tokenizer.pad_id
    rows[0, 1, 0] = tokenizer.eos_id
    rows[1, 1, :4] = [tokenizer.bos_id, tokenizer.unk_id, tokenizer.pad_id, tokenizer.eos_id]
    translations = session.run(["translations"], {"texts": np.array([""], object), "rows": rows})[0]
    assert translations.tolist() == [tokenizer.decode(hypotheses) for hypotheses in rows]


def test_an_empty_batch_gives_an_empty_answer(tokenizer):
    session = text_session(IDENTITY, tokenizer)
    translations, ids = session.run(None, {"texts": np.array([], object)})
    assert translations.shape == (0, 1)
    assert ids.shape[0] == 0


def test_what_marian_does_not_know_is_the_same_in_onnx(tmp_path):
    from keras_transformer.bridges.marian_tokenizers import read_tokenizers

    tokenizer, _ = read_tokenizers(goldens.write_folder(goldens.load(), tmp_path / "marian"))
    session = text_session(IDENTITY, tokenizer)
    generator = random.Random(3)
    texts = [*goldens.TEXTS, *EDGES, *random_texts(200, seed=3)]
    texts += ["".join(generator.choices("日本東☃я ae語", k=8)) for _ in range(200)]
    translations, ids = session.run(["translations", "ids"], {"texts": np.array(texts, object)})
    for text, row, wanted in zip(texts, ids[:, 0], tokenizer.encode(texts), strict=True):
        assert row[: len(wanted) + 1].tolist() == [*wanted, tokenizer.eos_id], ascii(text[:60])
        assert (row[len(wanted) + 1 :] == tokenizer.pad_id).all()
    assert translations[:, 0].tolist() == tokenizer.decode(ids[:, 0])
    assert session.run(["ids"], {"texts": np.array([], object)})[0].shape == (0, 1, 1)


def test_the_decoder_carries_nothing_that_only_encoding_needs(tokenizer, capfd):
    slim = decoding_only(tokenizer.serialized)
    # Normalization tables take a quarter of a megabyte where a model has one.
    assert len(slim) < min(len(tokenizer.serialized), 20_000)
    whole, small = (SentencePieceProcessor(model_proto=m) for m in (tokenizer.serialized, slim))
    for length in range(0, 40, 7):
        ids = [i % whole.vocab_size() for i in range(length, 2 * length)]
        assert small.decode(ids) == whole.decode(ids)
    assert capfd.readouterr() == ("", "")
