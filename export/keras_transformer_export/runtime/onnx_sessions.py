"""ONNX Runtime's sessions of one model: which device, how many threads."""

from __future__ import annotations

import ctypes
import hashlib
import importlib
import os
import sys
from pathlib import Path
from threading import Lock
from typing import Any, Literal

from keras_transformer.backend import install_hint, load_text_operators
from keras_transformer_export.bundle import MANIFEST, Bundle

Device = Literal["auto", "cpu", "cuda"]
CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
ONNX_ERRORS_ONLY = 3


class Sessions:
    """The sessions of a model file, one for each number of threads that is asked for.

    ONNX Runtime fixes the threads of a session when it is made, and keeps its own copy of the
    weights in each. The second one is made when it is needed first.

    Args:
        path: the `.onnx` file; in a bundle its hash is checked.
        device: "cpu", "cuda" (an error where it cannot be used), or "auto" (CUDA where it can).

    Raises:
        RuntimeError: CUDA was asked for and cannot be used; TensorFlow was imported first.
        ImportError: ONNX Runtime is not installed; the message says which extra brings it.
    """

    def __init__(self, path: Path, device: Device):
        self._onnxruntime, self._library = _import_runtime()
        self._providers = _providers(self._onnxruntime, device)
        self._path, self._device = path, device
        self._digest: bytes | None = None
        self._made: dict[int, Any] = {}
        self._lock = Lock()

    @property
    def on_cpu(self) -> bool:
        """Whether the sessions run on the CPU."""
        return self._providers[0] == CPU

    def get(self, threads: int) -> Any:
        """Return the session whose operators use so many threads.

        Raises:
            ValueError: the file is missing, damaged (`BundleError` in a bundle), not a model, or
                another one than before.
            RuntimeError: CUDA was asked for and did not start.
        """
        with self._lock:
            if threads not in self._made:
                self._made[threads] = self._open(threads)
            return self._made[threads]

    def _open(self, threads: int) -> Any:
        options = self._onnxruntime.SessionOptions()
        options.log_severity_level = ONNX_ERRORS_ONLY
        options.register_custom_ops_library(self._library)
        options.intra_op_num_threads = threads
        contents = self._read()
        try:
            session = self._onnxruntime.InferenceSession(
                contents, options, providers=self._providers
            )
        except Exception as error:  # ONNX Runtime has a class of its own for each kind of damage
            raise ValueError(
                f"{self._path} must be a model that ONNX Runtime can load. Copy or export it "
                f"again. Received: {first_line(error)}"
            ) from error
        if self._device == "cuda" and session.get_providers()[0] != CUDA:
            raise RuntimeError(
                "device='cuda' cannot be used: ONNX Runtime could not start its CUDA provider and "
                f"wrote the reason above. {install_hint('runtime-gpu')}"
            )
        return session

    def _read(self) -> bytes:
        """Read the file: what was exported, if it is in a bundle; what was read before, always."""
        contents = _read(self._path)
        digest = hashlib.sha256(contents).digest()
        if self._digest not in (None, digest):
            raise ValueError(
                f"{self._path} must stay as it is while it is in use. Open a new translator to "
                "use the new file. Received: another file than before"
            )
        self._digest = digest
        return contents


def usable_cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def first_line(error: BaseException) -> str:
    """Return what an error says, in one line of at most 200 characters."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def _import_runtime() -> tuple[Any, str]:
    """Return the module onnxruntime and the path of the library with the text operators."""
    try:
        return importlib.import_module("onnxruntime"), load_text_operators()
    except ImportError as error:
        raise ImportError(
            f"ONNX Runtime and its extensions are needed. {install_hint('runtime-cpu')}"
        ) from error


def _providers(onnxruntime: Any, device: Device) -> list[str]:
    if device not in ("auto", "cpu", "cuda"):
        raise ValueError(f"device must be 'auto', 'cpu' or 'cuda'. Received: device={device!r}")
    # CUDA is named only where it can work: elsewhere ONNX Runtime writes errors on the screen.
    cpu = [CPU]
    if device == "cpu":
        return cpu
    reason = _why_no_cuda(onnxruntime)
    if reason is None:
        return [CUDA, *cpu]
    if device == "cuda":
        raise RuntimeError(
            f"device='cuda' cannot be used: {reason}. Choose device='cpu', or use a machine with "
            f"an NVIDIA driver. {install_hint('runtime-gpu')}"
        )
    return cpu


def _why_no_cuda(onnxruntime: Any) -> str | None:
    if CUDA not in onnxruntime.get_available_providers():
        return "the installed onnxruntime was built without CUDA"
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError as error:
        return f"the NVIDIA driver cannot be loaded ({error})"
    status = driver.cuInit(0)
    return None if status == 0 else f"the NVIDIA driver finds no device (cuInit gives {status})"


def _read(path: Path) -> bytes:
    """Read a model file; in a bundle, only if it is the file that was exported."""
    if not path.is_file():
        raise ValueError(f"{path} must be an exported .onnx file, but there is no such file.")
    if (path.parent / MANIFEST).is_file():
        return Bundle.open(path.parent).read(path.name)
    return path.read_bytes()
