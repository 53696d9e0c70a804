"""The ONNX files by themselves, as other languages call them: only ONNX Runtime between."""

import json
import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from keras_transformer.id_rows import pad_rows
from keras_transformer.search_options import SearchOptions
from keras_transformer_export.bundle import Bundle
from keras_transformer_export.outputs import Outputs, hypotheses
from keras_transformer_export.search_inputs import inputs_of

NO_PREFIX = np.zeros((1, 0))
BATCH_SIZES = (1, 2, 7, 32, 64)


@pytest.fixture(scope="module")
def session(bundle_folder):
    import onnxruntime
    import onnxruntime_extensions

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    options.register_custom_ops_library(onnxruntime_extensions.get_library_path())
    return onnxruntime.InferenceSession(
        bundle_folder / "model.onnx", options, providers=["CPUExecutionProvider"]
    )


@pytest.fixture(scope="module")
def translate(session, bundle_folder):
    """One run of the file: (texts, **inputs) -> hypotheses of each text."""
    special = Bundle.open(bundle_folder).manifest.special_ids

    def run(texts, **inputs):
        outputs = session.run(
            list(Outputs._fields), {"texts": np.array(texts, dtype=object), **inputs}
        )
        return hypotheses(Outputs(*outputs), special)

    return run


def in_batches(texts, size):
    return [texts[i : i + size] for i in range(0, len(texts), size)]


@pytest.mark.parametrize("options", [SearchOptions(), SearchOptions(4, 2)], ids=["greedy", "beam"])
@pytest.mark.parametrize("size", BATCH_SIZES)
def test_promise_4_a_batch_of_mixed_lengths_gives_what_keras_gives(
    translate, translator, words, assert_same, size, options
):
    texts = ["", words[0], "abcdef" * 7, *words[:61]]
    inputs = inputs_of(options, NO_PREFIX)
    found = [row for batch in in_batches(texts, size) for row in translate(batch, **inputs)]
    expected = translator.translate(texts, **vars(options))
    assert_same(expected, found)
    assert len({len(row[0].tokens) for row in found}) > 5  # they do not end together


def test_one_option_may_be_given_without_the_others(translate, translator, words, assert_same):
    for name, value in (
        ("beam_size", np.array(4)),
        ("length_penalty", np.array(1.5, "float32")),
        ("max_decoding_length", np.array(2)),
        ("min_decoding_length", np.array(7)),
    ):
        expected = translator.translate(words[:9], **{name: value.item()})
        assert_same(expected, translate(words[:9], **{name: value}))
    assert_same(
        translator.translate(words[:9]), translate(words[:9], early_stopping=np.array(False))
    )


@pytest.mark.parametrize("beam_size", [1, 4])
def test_a_prefix_is_one_for_all_or_one_for_each(
    translate, translator, words, assert_same, beam_size
):
    one, *others = rows = translator.target.encode(["A B", "", "C", "F F F F F"])
    beam = {"beam_size": np.array(beam_size), "num_hypotheses": np.array(beam_size)}
    options = {"beam_size": beam_size, "num_hypotheses": beam_size}
    expected = translator.translate(words[:4], target_prefix=[one] * 4, **options)
    found = translate(words[:4], target_prefix=np.array([one]), **beam)
    assert_same(expected, found)
    assert others[0] == []
    each = pad_rows(rows, translator.config.pad_id).astype("int64")
    expected = translator.translate(words[:4], target_prefix=rows, **options)
    assert_same(expected, translate(words[:4], target_prefix=each, **beam))


def test_eight_threads_with_beams_share_a_session(translate, words):
    batches = [(batch, np.array(1 + i % 5)) for i, batch in enumerate(in_batches(words, 10))]

    def run(asked):
        return translate(asked[0], beam_size=asked[1], num_hypotheses=asked[1])

    serial = list(map(run, batches))
    with ThreadPoolExecutor(8) as pool:
        for _ in range(3):
            assert list(pool.map(run, batches)) == serial


def unicode_texts(count, seed):
    """Texts of letters the model knows, of one script, and of all planes; controls among them."""
    generator = random.Random(seed)
    planes = [chr(c) for c in range(1, 0x110000, 61) if not 0xD800 <= c < 0xE000]
    controls = [chr(c) for c in (*range(1, 32), *range(0x7F, 0xA0), 0x200B, 0x200E, 0xFEFF, 0xFFFF)]
    scripts = [
        *(list(s) for s in ("abcdef", "aé̈ñß", "漢字かな한글", "Приветъ", "😀👩‍👩‍👧🇩🇪", " \t\n▁"))
    ]
    alphabets = [*scripts, planes, controls, planes + scripts[0] * 2000]
    return [
        "".join(generator.choices(generator.choice(alphabets), k=generator.randrange(40)))
        for _ in range(count)
    ]


@pytest.mark.parametrize("beam_size", [1, 4])
def test_promise_8_any_unicode_text_gives_what_keras_gives(
    translate, translator, assert_same, beam_size
):
    texts = unicode_texts(600, seed=beam_size)
    limit = {"max_decoding_length": 12}
    expected = translator.translate(texts, beam_size, **limit)
    inputs = {"beam_size": np.array(beam_size), "max_decoding_length": np.array(12)}
    found = [row for batch in in_batches(texts, 50) for row in translate(batch, **inputs)]
    assert_same(expected, found)


def test_promise_8_very_long_texts_give_what_keras_gives(translate, translator, assert_same):
    texts = ["abc def " * 120, "漢" * 700, " " * 2000, "a\u0301" * 400]
    expected = translator.translate(texts, 2, max_decoding_length=6)
    inputs = {"beam_size": np.array(2), "max_decoding_length": np.array(6)}
    assert_same(expected, translate(texts, **inputs))


# Input that no caller should give. Each runs in one process after the other: it must live.
IN_TURN = """
import json, sys
import numpy as np
import onnxruntime
from onnxruntime_extensions import get_library_path

options = onnxruntime.SessionOptions()
options.register_custom_ops_library(get_library_path())
options.log_severity_level = 4
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
texts = np.array(["face", "bead", ""], dtype=object)
for inputs in json.loads(sys.argv[2]):
    feeds = {name: np.array(value, dtype) for name, (value, dtype) in inputs.items()}
    try:
        translations, scores, ids = session.run(None, {"texts": texts, **feeds})
        print(json.dumps({"found": translations.tolist(), "scores": scores.tolist()}))
    except Exception as error:
        print(json.dumps({"error": type(error).__module__ + ": " + str(error)}))
"""
BEAM = {"beam_size": (4, "int64")}
ERRORS = [
    {"beam_size": (0, "int64")},
    {"beam_size": (-1, "int64")},
    {"beam_size": (0, "int64"), "num_hypotheses": (0, "int64")},
    {"beam_size": (2, "int64"), "num_hypotheses": (3, "int64")},
    {**BEAM, "num_hypotheses": (0, "int64")},
    {**BEAM, "num_hypotheses": (-1, "int64")},
    {"max_decoding_length": (-1, "int64")},
    {**BEAM, "max_decoding_length": (-1, "int64")},
    {"target_prefix": ([[4], [4]], "int64")},  # two rows for three texts
    {"target_prefix": ([[10]], "int64")},
    {**BEAM, "target_prefix": ([[10]], "int64")},
    {"target_prefix": ([4], "int64")},
    {"beam_size": (4, "int32")},
    {"beam_size": ([4], "int64")},
    {"length_penalty": (0.5, "float64")},
    {"beams": (4, "int64")},
]
# What it gives, and what is asked for in its place
SAME = [
    ({"num_hypotheses": (3, "int64")}, {}),  # greedy search finds one
    ({"num_hypotheses": (0, "int64")}, {}),
    ({"beam_size": (100, "int64")}, {"beam_size": (10, "int64")}),  # wider than the vocabulary
    ({"min_decoding_length": (-1, "int64")}, {}),
    ({**BEAM, "min_decoding_length": (-1, "int64")}, BEAM),
    ({**BEAM, "max_decoding_length": (3, "int64"), "min_decoding_length": (9, "int64")},
     {**BEAM, "max_decoding_length": (3, "int64"), "min_decoding_length": (4, "int64")}),
]  # fmt: skip


@pytest.fixture(scope="module")
def answers(bundle_folder):
    """What each question gives, all asked of one session in a process of its own."""
    questions = [*ERRORS, *(q for pair in SAME for q in pair), {}]
    finished = subprocess.run(
        [sys.executable, "-I", "-c", IN_TURN, "model.onnx", json.dumps(questions)],
        cwd=bundle_folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (finished.returncode, finished.stderr) == (0, "")
    return [json.loads(line) for line in finished.stdout.splitlines()]


def test_bad_options_are_errors_of_onnx_runtime_and_the_session_lives(answers, translate):
    for question, answer in zip(ERRORS, answers, strict=False):
        assert answer.get("error", "").startswith("onnxruntime."), (question, answer)
    after = translate(["face", "bead", ""])
    assert answers[-1]["found"] == [[row[0].text] for row in after]


def test_options_out_of_range_that_are_no_errors_give_what_is_documented(answers):
    found = answers[len(ERRORS) : -1]
    for (question, _), ours, same in zip(SAME, found[::2], found[1::2], strict=True):
        assert "error" not in ours, (question, ours)
        assert ours["found"] == same["found"], question
        assert ours["scores"] == pytest.approx(np.array(same["scores"]), abs=1e-5)
