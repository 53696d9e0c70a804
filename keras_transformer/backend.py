"""Quiet start-up of TensorFlow, and compilation of a function on the active Keras backend."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib.util
import logging
import os
import platform
import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from typing import Any


def install_hint(extra: str) -> str:
    """Say how the libraries of an extra are installed.

    By the clone, not by name: the package index has another project called keras-transformer.
    """
    return f'Install it in a clone of this repository with: pip install ".[{extra}]"'


def quiet() -> None:
    """Let TensorFlow and its libraries say nothing but errors. Call it before they load.

    From then on whoever imports TensorFlow, such as Keras, gets it as `import_tensorflow` does:
    after the text operators where they are installed.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    os.environ.setdefault("ABSL_MIN_LOG_LEVEL", "3")
    for name in ("tensorflow", "absl", "tf2onnx", "h5py"):
        logging.getLogger(name).setLevel(logging.ERROR)
    is_waiting = any(isinstance(finder, _QuietTensorFlow) for finder in sys.meta_path)
    if "tensorflow" not in sys.modules and not is_waiting:
        sys.meta_path.insert(0, _QuietTensorFlow())


def import_tensorflow() -> Any:
    """Import TensorFlow quietly, after the text operators where they are installed; see `quiet`.

    Raises:
        ImportError: TensorFlow is not installed; the message says which extra brings it.
    """
    quiet()
    keep_freed_memory()
    try:
        import tensorflow as tf
    except ImportError as error:
        raise ImportError(f"TensorFlow is needed. {install_hint('train')}") from error
    return tf


@functools.cache
def load_text_operators() -> str:
    """Load the native library of onnxruntime-extensions, and return its path.

    TensorFlow must come after it: both carry a copy of the same native library, and in the other
    order the process crashes when ONNX Runtime creates a session with text operators. The package
    is not imported: it would import PyTorch, where that is installed, for three seconds.

    Raises:
        ImportError: onnxruntime-extensions is not installed, or its library cannot be loaded.
        RuntimeError: TensorFlow was imported first.
    """
    name = "onnxruntime_extensions"
    loaded = [module for module in sys.modules if sys.modules.get(module)]  # None: forbidden
    if "tensorflow" in loaded and name not in loaded[: loaded.index("tensorflow")]:
        raise RuntimeError(
            f"{name} must be imported before TensorFlow, or the process would crash: both carry "
            "the same native library. Import keras_transformer's modules or "
            f"{name} first, or use a process without TensorFlow."
        )
    package = importlib.util.find_spec(name)
    folders = package.submodule_search_locations if package else None
    library = PathFinder.find_spec("_extensions_pydll", folders) if folders else None
    if library is None or library.origin is None:
        raise ImportError(f"{name} is not installed.")
    try:
        ctypes.CDLL(library.origin)
    except OSError as error:
        raise ImportError(f"{name} cannot be loaded: {error}") from error
    return library.origin


def start() -> None:
    """Prepare for `import keras`: call it before the first one of a module.

    Keras loads TensorFlow where it is installed, whatever its backend, with all that TensorFlow
    writes to the screen, and before the text operators; see `load_text_operators`.
    """
    try:
        import_tensorflow()
    except ImportError:
        if os.environ.get("KERAS_BACKEND", "tensorflow") == "tensorflow":
            raise


def keep_freed_memory() -> None:
    """Let glibc keep the memory that TensorFlow frees, to use it again.

    Otherwise each step gives its large tensors back to the system and takes new pages for the
    next: half of the time of a small model's training step goes into page faults
    (benchmarks/RESULTS.md). Elsewhere than on glibc nothing is done.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    mallopt = ctypes.CDLL(None).mallopt
    trim_threshold, top_pad, mmap_max, arena_max = -1, -2, -4, -8  # their numbers in malloc.h
    mallopt(mmap_max, 0)  # a threshold of mmap would do, if glibc took one above 32 MB
    mallopt(arena_max, 1)  # the arenas of further threads hold at most 64 MB and use mmap for more
    mallopt(trim_threshold, 2**31 - 1)
    mallopt(top_pad, 2**26)


class _QuietTensorFlow(MetaPathFinder):
    """Prepares for the first import of TensorFlow, whoever asks for it, and silences its start.

    Environment variables do not reach what its native code writes before it has read them.
    """

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if fullname != "tensorflow":
            return None
        sys.meta_path.remove(self)
        with contextlib.suppress(ImportError):  # needed only where they are installed
            load_text_operators()
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _Silenced(spec.loader)
        return spec


class _Silenced(Loader):
    """Runs a module as its own loader does, with native code silenced."""

    def __init__(self, loader: Loader):
        self.loader = loader

    def create_module(self, spec: ModuleSpec) -> Any:
        return self.loader.create_module(spec)

    def exec_module(self, module: Any) -> None:
        module.__spec__.loader = module.__loader__ = self.loader
        with _native_stderr_silenced():
            self.loader.exec_module(module)


@contextlib.contextmanager
def _native_stderr_silenced() -> Any:
    """Drop what native code writes to file descriptor 2 before its own log settings apply."""
    sys.stderr.flush()
    saved = os.dup(2)
    with open(os.devnull, "w") as nothing:
        os.dup2(nothing.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)


def choose_tensorflow() -> None:
    """Let Keras use TensorFlow, whatever the environment says. Call it before Keras loads.

    Raises:
        RuntimeError: Keras has loaded with another backend.
    """
    name = "tensorflow"
    if "keras" in sys.modules and sys.modules["keras"].backend.backend() != name:
        raise RuntimeError(
            f"The Keras backend must be {name!r}, and Keras has loaded with another. Start a new "
            f"process with KERAS_BACKEND={name}. "
            f"Received: backend={sys.modules['keras'].backend.backend()!r}"
        )
    os.environ["KERAS_BACKEND"] = name
    import_tensorflow()


def needs_fixed_shapes() -> bool:
    """Whether a compiled function is one for each shape, and no shape may change in a loop."""
    import keras

    return keras.backend.backend() == "jax"


def steps_need_a_compiler() -> bool:
    """Whether Keras, where it does not compile a step, runs it operation by operation."""
    import keras

    return keras.backend.backend() == "jax"


def compile(
    function: Callable[..., Any],
    signature: list[tuple[tuple[Any, ...], str]],
    variables: Sequence[Any] = (),
) -> Any:
    """Return `function` compiled: `tf.function` on TensorFlow, `jax.jit` on JAX.

    Args:
        function: takes tensors by position.
        signature: shape and dtype of each argument; None is a size that may change from call
            to call. On TensorFlow one trace serves them all, on JAX each shape compiles anew.
        variables: the Keras variables that the function reads. JAX would keep the values they
            have now.

    Raises:
        NotImplementedError: the active Keras backend is neither.
    """
    import keras

    if keras.backend.backend() == "tensorflow":
        tf = import_tensorflow()
        return tf.function(
            function,
            input_signature=[tf.TensorSpec(shape, dtype) for shape, dtype in signature],
            autograph=False,  # loops are `ops.while_loop`; it would rewrite all of Keras first
        )
    if keras.backend.backend() == "jax":
        return _compile_with_jax(function, [dtype for _, dtype in signature], variables)
    raise NotImplementedError(
        "The Keras backend must be TensorFlow or JAX. Set KERAS_BACKEND=tensorflow. "
        f"Received: backend={keras.backend.backend()!r}"
    )


def _compile_with_jax(
    function: Callable[..., Any], dtypes: list[str], variables: Sequence[Any]
) -> Callable[..., Any]:
    import jax
    import keras
    import numpy as np

    @jax.jit
    def compiled(values: list[Any], *arguments: Any) -> Any:
        with keras.StatelessScope(state_mapping=list(zip(variables, values, strict=True))):
            return function(*arguments)

    def run(*arguments: Any) -> Any:
        arrays = (np.asarray(a, dtype) for a, dtype in zip(arguments, dtypes, strict=True))
        return compiled([variable.value for variable in variables], *arrays)

    return run


def make_deterministic(seed: int, jit_compile: bool = False) -> None:
    """Seed every generator; on TensorFlow, make operations repeat bit for bit on one machine.

    What XLA compiles repeats without TensorFlow's switch for it, which would make the programs a
    quarter slower, and which Keras takes as a reason not to compile at all (measured on CPUs).
    """
    start()
    import keras

    keras.utils.set_random_seed(seed)
    if keras.backend.backend() == "tensorflow":
        import_tensorflow()
        from tensorflow.python.framework import config  # the public module cannot switch it off

        (config.disable_op_determinism if jit_compile else config.enable_op_determinism)()


def over_replicas(value: Any) -> tuple[Any, int]:
    """Return the sum of a tensor over the replicas of `tf.distribute`, and their number.

    Called inside a step of `fit`. Everywhere else, and on other backends, there is one replica.
    """
    import keras

    if keras.backend.backend() != "tensorflow":
        return value, 1
    distribute = import_tensorflow().distribute
    context = distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return value, 1
    return context.all_reduce(distribute.ReduceOp.SUM, value), context.num_replicas_in_sync


def concrete(tensor: Any) -> Any:
    """Return the values of an eager tensor as a NumPy array.

    None while a graph is traced, and of a tensor that is spread over several processes.
    """
    import numpy as np

    if isinstance(tensor, (np.ndarray, list)):
        return np.asarray(tensor)
    if "tensorflow" in sys.modules and sys.modules["tensorflow"].is_tensor(tensor):
        return tensor.numpy() if hasattr(tensor, "numpy") else None
    if "jax" in sys.modules and isinstance(tensor, sys.modules["jax"].Array):
        traced = isinstance(tensor, sys.modules["jax"].core.Tracer)
        return None if traced or not tensor.is_fully_addressable else np.asarray(tensor)
    return None


def as_config(layer: Any) -> dict[str, Any]:
    """Return a Keras layer in its serialized form, which YAML can hold."""
    import keras

    return keras.saving.serialize_keras_object(layer)
