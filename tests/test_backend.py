import logging
import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from keras_transformer import backend

ROOT = Path(__file__).parents[1]


def fresh(code):
    path = os.pathsep.join([str(ROOT), str(ROOT / "export")])
    keep = {k: v for k, v in os.environ.items() if not k.startswith(("TF_", "GRPC", "ABSL"))}
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**keep, "PYTHONPATH": path},
        timeout=120,
    )


def test_tensorflow_starts_without_a_word_and_after_the_text_operators():
    result = fresh("""
import sys
from keras_transformer import backend
tf = backend.import_tensorflow()
import keras, keras_transformer.model
assert keras.ops.sum(tf.ones(3)) == 3
assert "torch" not in sys.modules and "onnxruntime" not in sys.modules
library = backend.load_text_operators()    # TensorFlow is there: they had come first
import onnxruntime_extensions
assert library == onnxruntime_extensions.get_library_path()
print("done")
""")
    assert (result.stdout, result.stderr) == ("done\n", "")


@pytest.mark.parametrize("first", ["import keras", "import tensorflow as tf"])
def test_keras_and_tensorflow_start_as_quietly_after_this_package(first):
    """As in README's first example; the text operators work afterwards."""
    result = fresh(f"""
import keras_transformer as kt
{first}
import sys, tensorflow
assert tensorflow.__spec__.loader is tensorflow.__loader__
assert type(tensorflow.__loader__).__module__.startswith(("importlib", "_frozen_importlib"))
assert not [finder for finder in sys.meta_path if "keras_transformer" in type(finder).__module__]
from keras_transformer import backend
backend.load_text_operators()
print(int(tensorflow.reduce_sum(tensorflow.ones(3))))
""")
    assert (result.stdout, result.stderr) == ("3\n", "")


def test_what_tensorflow_fails_with_is_seen(tmp_path):
    (tmp_path / "tensorflow").mkdir()
    (tmp_path / "tensorflow/__init__.py").write_text("raise ImportError('no AVX here')")
    result = fresh(f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
import keras_transformer as kt
import tensorflow
""")
    assert result.returncode == 1
    assert result.stderr.endswith("ImportError: no AVX here\n")


@pytest.mark.parametrize("first", ["onnxruntime_extensions", "tensorflow"])
def test_text_operators_are_refused_only_after_tensorflow(first):
    result = fresh(f"""
import sys, types
if "{first}" == "onnxruntime_extensions":
    import onnxruntime_extensions
sys.modules["tensorflow"] = types.ModuleType("tensorflow")   # as if it had been imported
from keras_transformer import backend
backend.load_text_operators()
""")
    assert (result.returncode == 0) == (first == "onnxruntime_extensions"), result.stderr
    assert first != "tensorflow" or "must be imported before TensorFlow" in result.stderr


def test_missing_text_operators_are_an_import_error(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    monkeypatch.setitem(sys.modules, "onnxruntime_extensions", None)
    with pytest.raises(ImportError, match="onnxruntime_extensions is not installed"):
        backend.load_text_operators.__wrapped__()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is about glibc's malloc")
def test_freed_memory_of_any_size_and_thread_is_used_again():
    result = fresh("""
import ctypes, resource, threading
from keras_transformer import backend
backend.keep_freed_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.free.argtypes = [ctypes.c_void_p]
size = 200 * 2**20
def use():
    block = libc.malloc(ctypes.c_size_t(size))
    ctypes.memset(block, 1, size)
    libc.free(block)
def pages():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
first, second = pages(), pages()
assert first > 10 * second, (first, second)
print("done")
""")
    assert (result.stdout, result.stderr) == ("done\n", "")


def test_quiet_leaves_what_the_user_has_set(monkeypatch):
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "0")
    backend.quiet()
    assert os.environ["TF_CPP_MIN_LOG_LEVEL"] == "0"
    assert logging.getLogger("tensorflow").level == logging.ERROR


def test_a_missing_tensorflow_says_which_extra_brings_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(ImportError, match=r'pip install "\.\[train\]"'):
        backend.import_tensorflow()


def test_compile_traces_once_for_all_sizes():
    traces = []

    def double(x, factor):
        traces.append(x.shape)
        return x * factor

    compiled = backend.compile(double, [((None, None), "float32"), ((), "float32")])
    for shape in ((1, 2), (3, 4), (0, 5)):
        result = compiled(np.ones(shape, "float32"), np.float32(3))
        np.testing.assert_array_equal(result, np.full(shape, 3))
    assert len(traces) == 1


def test_compile_says_which_backends_it_needs(monkeypatch):
    import keras

    monkeypatch.setattr(keras.backend, "backend", lambda: "torch")
    with pytest.raises(NotImplementedError, match=r"KERAS_BACKEND=tensorflow.*backend='torch'"):
        backend.compile(lambda x: x, [])


def test_concrete_gives_values_outside_a_graph_and_none_inside():
    import tensorflow as tf

    seen = []

    @tf.function
    def inside(x):
        seen.append(backend.concrete(x))
        return x

    inside(tf.ones(2))
    assert seen == [None]
    assert backend.concrete(tf.constant([1, 2])).tolist() == [1, 2]
    assert backend.concrete(np.array([3])).tolist() == [3]
    assert backend.concrete([4, 5]).tolist() == [4, 5]
    assert backend.concrete("text") is None
