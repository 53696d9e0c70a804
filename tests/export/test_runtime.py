import copy
import json
import os
import pickle
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest

from keras_transformer_export.bundle import Bundle, BundleError
from keras_transformer_export.outputs import Outputs
from keras_transformer_export.parity import verify_bundle
from keras_transformer_export.runtime import OnnxTranslator
from keras_transformer_export.runtime.onnx_sessions import Sessions
from keras_transformer_export.runtime.text_translator import MOST_CHARACTERS, MOST_ROWS, batches
from keras_transformer_export.search_inputs import DEFAULTS

README = Path(__file__).parents[2] / "export" / "README.md"


@pytest.fixture(scope="module")
def onnx_translator(bundle_folder):
    with OnnxTranslator(bundle_folder / "model.onnx", threads=1) as translator:
        yield translator


def run_python(code, *arguments, folder=None, isolated=False, timeout=None):
    """Run code in a fresh process that finds the packages, or only installed ones."""
    path = {} if isolated else {"PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(
        [sys.executable, *(["-I"] if isolated else []), "-c", code, *map(str, arguments)],
        env={**os.environ, **path},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout,
    )


def readme_code(first_line):
    blocks = README.read_text(encoding="utf-8").split("```python\n")[1:]
    return next(b.split("```")[0] for b in blocks if b.startswith(first_line))


def test_it_gives_what_the_keras_translator_gives(onnx_translator, translator, words):
    texts = [*words[::-1], "", "xyz", "漢字", "abcdef" * 7, words[0]]
    for limit in (None, 3):
        expected = translator.translate(texts, max_decoding_length=limit)
        received = onnx_translator.translate(texts, max_decoding_length=limit)
        for (ours,), (theirs,) in zip(expected, received, strict=True):
            assert (theirs.text, theirs.tokens, theirs.finished) == (
                ours.text,
                ours.tokens,
                ours.finished,
            )
            assert theirs.score == pytest.approx(ours.score, abs=1e-5)


def test_the_length_penalty_is_that_of_keras(onnx_translator, translator, words):
    for alpha in (0.0, 1.0):
        expected = translator.translate(words[:4], length_penalty=alpha)
        received = onnx_translator.translate(words[:4], length_penalty=alpha)
        assert [h.score for (h,) in received] == pytest.approx(
            [h.score for (h,) in expected], abs=1e-5
        )


def test_a_text_gets_in_a_batch_what_it_gets_alone(onnx_translator, words):
    together = onnx_translator.translate(words)
    for word, (hypothesis,) in zip(words[:10], together, strict=False):
        alone = onnx_translator.translate([word])[0][0]
        assert (alone.text, alone.tokens) == (hypothesis.text, hypothesis.tokens)


def test_no_texts_give_no_hypotheses(onnx_translator):
    assert onnx_translator.translate([]) == []


def test_a_stream_is_read_as_it_is_used(onnx_translator, words):
    read = []

    def lines():
        for number in range(10**9):
            read.append(number)
            yield words[number % len(words)]

    stream = onnx_translator.translate_iter(lines(), chunk_size=16)
    first = [next(stream) for _ in range(20)]
    assert len(read) == 32
    assert [h.tokens for (h,) in first] == [
        h.tokens for (h,) in onnx_translator.translate(words[:20])
    ]


def test_eight_threads_on_one_session_give_what_one_gives(onnx_translator, words):
    parts = [words[i : i + 10] for i in range(0, 80, 10)]
    serial = [onnx_translator.translate(part) for part in parts]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(3):
            assert list(pool.map(onnx_translator.translate, parts)) == serial


@pytest.mark.parametrize(
    ("most_texts", "most_characters"), [(MOST_ROWS, MOST_CHARACTERS), (7, 1000), (1, 1)]
)
def test_batches_hold_texts_of_similar_length_and_bound_the_memory(most_texts, most_characters):
    texts = ["a" * (i * 37 % 500) for i in range(300)] + ["a" * 50_000]
    found = list(batches(texts, most_texts, most_characters))
    assert sorted(i for batch in found for i in batch) == list(range(301))
    longest = [max(len(texts[i]) for i in batch) for batch in found]
    assert longest == sorted(longest)
    for batch, length in zip(found, longest, strict=True):
        assert len(batch) <= most_texts
        assert len(batch) == 1 or len(batch) * length <= most_characters


def test_a_wide_beam_makes_batches_of_long_texts_smaller(onnx_translator, monkeypatch):
    asked = []

    def run(session, texts, inputs):
        asked.append(len(texts))
        return Outputs(
            [[""]] * len(texts), np.zeros((len(texts), 1)), np.full((len(texts), 1, 1), 3)
        )

    monkeypatch.setattr(onnx_translator, "_run", run)
    for beam_size in (1, 4, 10):
        onnx_translator.translate(["a" * 1024] * 16, beam_size)
    assert asked == [16, *[4] * 4, *[1] * 16]


@pytest.mark.parametrize("threads", [2, 5])
def test_texts_are_shared_out_among_threads_and_keep_their_order(
    bundle_folder, onnx_translator, words, threads
):
    with OnnxTranslator(bundle_folder, threads=threads) as translator:
        for texts in ([], ["a"], ["bead", "a"], ["cafe", "", "bead"], [*words, *words[::-1]]):
            for options in ({}, {"batch_size": 1}, {"beam_size": 4, "num_hypotheses": 2}):
                expected = onnx_translator.translate(texts, **options)
                received = translator.translate(texts, **options)
                assert [[h.tokens for h in row] for row in received] == [
                    [h.tokens for h in row] for row in expected
                ]


@pytest.mark.parametrize(
    ("count", "parts"), [(1, [1]), (2, [1, 1]), (7, [3, 2, 2]), (MOST_ROWS + 6, [3, 3, 32, 32])]
)
def test_every_thread_gets_a_part_of_the_texts(bundle_folder, monkeypatch, count, parts):
    asked = []
    run = OnnxTranslator._run

    def noted(self, session, texts, inputs):
        asked.append(len(texts))
        return run(self, session, texts, inputs)

    monkeypatch.setattr(OnnxTranslator, "_run", noted)
    with OnnxTranslator(bundle_folder, threads=3) as translator:
        translator.translate(["ab"] * count)
    assert sorted(asked) == sorted(parts)


@pytest.mark.parametrize("threads", [True, 1.5, "2", -1])
def test_a_number_of_threads_must_be_one(bundle_folder, threads):
    with pytest.raises(ValueError, match="threads must be an integer from 1 .*, or None for all"):
        OnnxTranslator(bundle_folder, threads=threads)


@pytest.mark.parametrize("way", [pickle.dumps, copy.copy, copy.deepcopy])
def test_a_translator_is_not_copied(onnx_translator, way):
    with pytest.raises(TypeError, match="Open one in each process, and share one among threads"):
        way(onnx_translator)


def test_translations_that_run_end_as_usual_when_it_is_closed(bundle_folder, monkeypatch, words):
    translator = OnnxTranslator(bundle_folder, threads=2)
    get = Sessions.get

    def closing(sessions, threads):
        translator.close()  # after the call began, before its texts are shared out
        return get(sessions, threads)

    monkeypatch.setattr(Sessions, "get", closing)
    assert len(translator.translate(words[:9])) == 9
    with pytest.raises(ValueError, match="this one was closed"):
        translator.translate(["a"])


FORKED = """
import os, sys
from keras_transformer_export.runtime import OnnxTranslator
with OnnxTranslator(sys.argv[1], threads=2) as translator:
    expected = translator.translate(sys.argv[2:])
    child = os.fork()
    if not child:
        os._exit(translator.translate(sys.argv[2:]) != expected)
    assert os.waitpid(child, 0)[1] == 0
    assert translator.translate(sys.argv[2:]) == expected
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_it_goes_on_in_a_forked_process(bundle_folder):
    finished = run_python(FORKED, bundle_folder, "ab", "cafe", "bead", timeout=60)
    assert finished.returncode == 0, finished.stderr


def test_a_file_that_was_replaced_while_open_is_refused(bundle_folder, tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes((bundle_folder / "model.onnx").read_bytes())
    with OnnxTranslator(path, threads=2) as translator:
        assert len(translator.translate(["ab"])) == 1
        path.write_bytes(b"another model")
        with pytest.raises(ValueError, match="must stay as it is while it is in use"):
            translator.translate(["ab", "a"])
        assert len(translator.translate(["ab"])) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        *(
            ({"beam_size": size}, "beam_size must be an integer from 1")
            for size in (0, -1, 2.5, True, 2**31)
        ),
        ({"beam_size": 11}, "beam_size must be at most the target vocabulary's size, 10. .*=11"),
        ({"num_hypotheses": 2}, "num_hypotheses must be at most beam_size: .*num_hypotheses=2"),
        ({"beam_size": 4, "num_hypotheses": 0}, "num_hypotheses must be an integer from 1"),
        *(
            ({name: limit}, f"{name} must be an integer from 1")
            for name in ("max_decoding_length", "min_decoding_length")
            for limit in (0, -1, 2.5, True, 2**31)
        ),
        (
            {"min_decoding_length": 5, "max_decoding_length": 4},
            "min_decoding_length must be at most max_decoding_length",
        ),
        *(
            ({"length_penalty": alpha}, "length_penalty must be a number from 0")
            for alpha in (float("nan"), float("inf"), -0.5, "x")
        ),
        ({"early_stopping": 1}, "early_stopping must be True or False"),
        ({"target_prefix": [[4], [4]]}, "target_prefix must have a row for each text"),
        *(
            ({"target_prefix": [[token]]}, r"target_prefix\[0\] must hold target ids below 10")
            for token in (-1, 0, 2, 3, 10)
        ),
        ({"batch_size": 0}, "batch_size must be an integer from 1"),
    ],
    ids=str,
)
def test_options_that_cannot_be_honoured_are_refused_alike(
    onnx_translator, translator, options, message
):
    for one in (onnx_translator, translator):
        with pytest.raises(ValueError, match=message):
            one.translate(["a"], **options)


@pytest.mark.parametrize("size", [0, -1, 2.5])
def test_chunks_of_no_size_are_refused(onnx_translator, size):
    with pytest.raises(ValueError, match="chunk_size must be an integer from 1"):
        next(onnx_translator.translate_iter(["a"], chunk_size=size))


@pytest.mark.parametrize("text", ["a\0b", "a\ud800b"])
def test_texts_no_runtime_can_carry_are_refused_with_their_place(onnx_translator, translator, text):
    for one in (onnx_translator, translator):
        with pytest.raises(ValueError, match=r"texts\[2\] must .* position 1"):
            one.translate(["a", "b", text])


def test_a_closed_translator_says_so(bundle_folder):
    translator = OnnxTranslator(bundle_folder)
    translator.close()
    with pytest.raises(ValueError, match="this one was closed"):
        translator.translate(["a"])


def test_it_opens_in_under_two_seconds(bundle_folder):
    start = time.perf_counter()
    OnnxTranslator(bundle_folder / "model.onnx").close()
    assert time.perf_counter() - start < 2


def test_arguments_out_of_range_are_refused(bundle_folder):
    with pytest.raises(ValueError, match="device must be 'auto', 'cpu' or 'cuda'"):
        OnnxTranslator(bundle_folder, device="tpu")
    with pytest.raises(ValueError, match="threads must be an integer from 1"):
        OnnxTranslator(bundle_folder, threads=0)


def test_cuda_is_refused_with_the_reason_where_it_cannot_work(bundle_folder, monkeypatch):
    import ctypes

    def no_driver(name):
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", no_driver)
    with pytest.raises(
        RuntimeError, match=r"device='cuda' cannot be used: .*(driver|without CUDA)"
    ):
        OnnxTranslator(bundle_folder, device="cuda")
    OnnxTranslator(bundle_folder, device="auto").close()


def test_a_changed_byte_in_a_bundle_is_refused(bundle_folder, tmp_path):
    for name in ("manifest.json", "model.onnx"):
        (tmp_path / name).write_bytes((bundle_folder / name).read_bytes())
    OnnxTranslator(tmp_path / "model.onnx").close()
    contents = bytearray((tmp_path / "model.onnx").read_bytes())
    contents[len(contents) // 2] ^= 1
    (tmp_path / "model.onnx").write_bytes(contents)
    with pytest.raises(BundleError, match=r"model\.onnx must be the file that was exported"):
        OnnxTranslator(tmp_path / "model.onnx")


def test_damaged_and_foreign_files_are_refused(bundle_folder, tmp_path):
    with pytest.raises(ValueError, match=r"missing\.onnx must be an exported \.onnx file"):
        OnnxTranslator(tmp_path / "missing.onnx")
    whole = (bundle_folder / "model.onnx").read_bytes()
    for name, contents in {"cut": whole[: len(whole) // 2], "empty": b"", "text": b"hello"}.items():
        (tmp_path / f"{name}.onnx").write_bytes(contents)
        with pytest.raises(ValueError, match=rf"{name}\.onnx must be"):
            OnnxTranslator(tmp_path / f"{name}.onnx")
    foreign = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 18]> g (float x) => (float y) { y = Neg (x) }'
    )
    onnx.save(foreign, tmp_path / "foreign.onnx")
    with pytest.raises(ValueError, match=r"foreign\.onnx must be a model that keras-transformer"):
        OnnxTranslator(tmp_path / "foreign.onnx")


def test_the_file_of_ids_is_refused_with_advice(bundle_folder):
    with pytest.raises(ValueError, match=r"must take texts\. Use model\.onnx"):
        OnnxTranslator(bundle_folder / "model.ids.onnx")


BLOCKED = """
import sys
blocked = "tensorflow", "tensorflow_text", "keras", "jax", "onnx", "sentencepiece", "tf2onnx"
sys.modules.update(dict.fromkeys(blocked))
"""


def test_it_works_where_no_framework_is_installed(bundle_folder, onnx_translator, words):
    code = (
        BLOCKED
        + """
from keras_transformer_export.parity import verify_bundle
from keras_transformer_export.runtime import OnnxTranslator
for hypotheses in OnnxTranslator(sys.argv[1]).translate(sys.argv[2:], beam_size=4):
    print(hypotheses[0].text)
print(verify_bundle(sys.argv[1]).sentences)
"""
    )
    finished = run_python(code, bundle_folder, *words[:5])
    assert (finished.returncode, finished.stderr) == (0, "")
    expected = [h.text for (h,) in onnx_translator.translate(words[:5], beam_size=4)]
    examples = json.loads((bundle_folder / "parity.json").read_text(encoding="utf-8"))["examples"]
    assert finished.stdout.splitlines() == [*expected, str(len(examples))]


def test_onnxruntime_missing_is_said_with_the_extra(bundle_folder):
    code = "import sys; sys.modules['onnxruntime'] = None\n" + (
        "from keras_transformer_export.runtime import OnnxTranslator\nOnnxTranslator(sys.argv[1])"
    )
    finished = run_python(code, bundle_folder)
    assert "ImportError: ONNX Runtime and its extensions are needed" in finished.stderr
    assert 'pip install ".[runtime-cpu]"' in finished.stderr


def test_tensorflow_first_is_refused_and_does_not_crash(bundle_folder):
    code = """
import sys, types
sys.modules["tensorflow"] = types.ModuleType("tensorflow")   # as if it had been imported first
from keras_transformer_export.runtime import OnnxTranslator
OnnxTranslator(sys.argv[1])
"""
    finished = run_python(code, bundle_folder)
    assert finished.returncode == 1
    assert (
        "RuntimeError: onnxruntime_extensions must be imported before TensorFlow" in finished.stderr
    )


def test_the_ten_lines_of_the_readme_run_with_one_file_and_no_package_of_ours(
    bundle_folder, onnx_translator, tmp_path
):
    code = readme_code("import numpy as np\nimport onnxruntime\n")
    assert len([line for line in code.splitlines() if line]) == 10
    (tmp_path / "model.onnx").write_bytes((bundle_folder / "model.onnx").read_bytes())
    check = "\nimport sys; assert not {'tensorflow', 'keras', 'pydantic'} & set(sys.modules)"
    finished = run_python(code + check, folder=tmp_path, isolated=True)
    assert (finished.returncode, finished.stderr) == (0, "")
    expected = [h.text for (h,) in onnx_translator.translate(["cafe", "bead"])]
    assert finished.stdout.splitlines() == expected


def test_the_beam_lines_of_the_readme_go_on_from_the_ten(bundle_folder, onnx_translator):
    code = readme_code("import numpy as np\nimport onnxruntime\n") + readme_code("beam = {")
    finished = run_python(code, folder=bundle_folder, isolated=True)
    assert (finished.returncode, finished.stderr) == (0, "")
    expected = onnx_translator.translate(["cafe", "bead"], 4, 2, length_penalty=1.0)
    assert finished.stdout.splitlines()[2:] == [" | ".join(h.text for h in row) for row in expected]


def test_inputs_and_outputs_of_the_readme_are_those_of_the_file(bundle_folder):
    rows = [line.split(" | ") for line in README.read_text(encoding="utf-8").splitlines()]
    told = {
        row[0].strip("| `"): row[1] for row in rows if row[0].startswith("| `") and len(row) == 3
    }
    signature = Bundle.open(bundle_folder).manifest.signatures["model.onnx"]
    for name, record in {**signature.inputs, **signature.outputs}.items():
        assert told[name].startswith(record.dtype.removesuffix("32")), name
        for size in record.shape:
            assert str(size) in told[name]
        if name in DEFAULTS and not record.shape:
            value = DEFAULTS[name].item()
            default = "true" if value is True else f"{value:g}"
            assert told[name].endswith(f" scalar, {default}")


def test_the_lines_of_the_readme_make_an_input_of_an_option(
    bundle_folder, onnx_translator, tmp_path
):
    """As Java and JavaScript need it: `get_inputs` lists what they may give."""
    (tmp_path / "model.onnx").write_bytes((bundle_folder / "model.onnx").read_bytes())
    finished = run_python(readme_code("import onnx\n"), folder=tmp_path, isolated=True)
    assert (finished.returncode, finished.stderr) == (0, "")
    with OnnxTranslator(tmp_path / "model.beam.onnx") as translator:
        assert [v.name for v in translator._open.sessions.get(1).get_inputs()] == [
            "texts",
            "beam_size",
        ]
        expected = onnx_translator.translate(["cafe", "bead"], 4)
        found = translator.translate(["cafe", "bead"], 4)
        assert [row[0].tokens for row in found] == [row[0].tokens for row in expected]


@pytest.mark.slow
def test_the_tensorflow_lines_of_the_readme_run(bundle_folder, onnx_translator):
    code = readme_code("import tensorflow as tf\n")
    finished = run_python(code, folder=bundle_folder, isolated=True)
    assert finished.returncode == 0, finished.stderr
    expected = [row[0].text for row in onnx_translator.translate(["cafe", "bead"], 4)]
    assert finished.stdout.splitlines() == expected


def test_verify_finds_a_model_that_answers_otherwise(bundle_folder, tmp_path):
    """Every hash is right here: only running the examples can tell."""
    import shutil

    from keras_transformer_export.bundle import MANIFEST, Description, write_manifest
    from keras_transformer_export.parity import ParityError

    shutil.copytree(bundle_folder, tmp_path / "bundle")
    report = json.loads((tmp_path / "bundle" / "parity.json").read_text())
    report["examples"][-1]["ids"][0] += 1
    (tmp_path / "bundle" / "parity.json").write_text(json.dumps(report))
    with pytest.raises(BundleError, match=r"parity\.json must be the file that was exported"):
        verify_bundle(tmp_path / "bundle")
    values = Bundle.open(bundle_folder).manifest.model_dump(exclude={"files", "digest"})
    (tmp_path / "bundle" / MANIFEST).unlink()
    write_manifest(tmp_path / "bundle", Description(**values))
    with pytest.raises(ParityError, match=r"model\.onnx must give what Keras gives"):
        verify_bundle(tmp_path / "bundle")
