"""Texts in, hypotheses out, where only ONNX Runtime is installed."""

from __future__ import annotations

import ctypes
import importlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from keras_transformer.backend import install_hint
from keras_transformer_export.bundle import (
    MANIFEST,
    METADATA_KEY,
    Bundle,
    BundleError,
    Description,
)
from keras_transformer_export.outputs import Outputs
from keras_transformer_export.runtime.text_translator import TextTranslator

Device = Literal["auto", "cpu", "cuda"]
ONNX_ERRORS_ONLY = 3


class OnnxTranslator(TextTranslator):
    """Translates with an exported `model.onnx`; needs no TensorFlow, Keras or SentencePiece.

    One translator may be shared by threads. It is a context manager; `close` frees the model.

    Args:
        path: `model.onnx`, alone or in its bundle, or the folder of a bundle. In a bundle the
            file's hash is checked.
        device: "cpu", "cuda" (an error where it cannot be used), or "auto" (CUDA where it can).
        intra_op_num_threads: threads of one operator; None: one for each core.

    Raises:
        ValueError: the file is missing, damaged, or not such a model (`BundleError` in a bundle).
        RuntimeError: CUDA was asked for and cannot be used; TensorFlow was imported first.
        ImportError: ONNX Runtime is not installed; the message says which extra brings it.

    Example:
        >>> with OnnxTranslator("exported/model.onnx") as translator:      # doctest: +SKIP
        ...     translator.translate(["hello"])[0][0].text
        'HH AH L OW'
    """

    def __init__(
        self,
        path: str | Path,
        device: Device = "auto",
        intra_op_num_threads: int | None = None,
    ):
        if device not in ("auto", "cpu", "cuda"):
            raise ValueError(f"device must be 'auto', 'cpu' or 'cuda'. Received: device={device!r}")
        if intra_op_num_threads is not None and intra_op_num_threads < 1:
            raise ValueError(
                "intra_op_num_threads must be 1 or more, or None for one each core. "
                f"Received: intra_op_num_threads={intra_op_num_threads}"
            )
        onnxruntime, library = _import_runtime()
        self.path = Path(path) / "model.onnx" if Path(path).is_dir() else Path(path)
        providers = _providers(onnxruntime, device)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = ONNX_ERRORS_ONLY
        options.register_custom_ops_library(library)
        if intra_op_num_threads is not None:
            options.intra_op_num_threads = intra_op_num_threads
        contents = _read(self.path)
        try:
            session = onnxruntime.InferenceSession(contents, options, providers=providers)
        except Exception as error:  # ONNX Runtime has a class of its own for each kind of damage
            raise ValueError(
                f"{self.path} must be a model that ONNX Runtime can load. Copy or export it "
                f"again. Received: {_first_line(error)}"
            ) from error
        if device == "cuda" and session.get_providers()[0] != "CUDAExecutionProvider":
            raise RuntimeError(
                "device='cuda' cannot be used: ONNX Runtime could not start its CUDA provider and "
                f"wrote the reason above. {install_hint('runtime-gpu')}"
            )
        super().__init__(_describe(self.path, session))
        self._session: Any = session

    def close(self) -> None:
        """Free the model; translations that are running end as usual."""
        self._session = None

    def _run(self, texts: list[str], inputs: Mapping[str, np.ndarray]) -> Outputs:
        session = self._session
        if session is None:
            raise ValueError("The translator must be open. Make a new one: this one was closed.")
        feeds = {"texts": np.array(texts, dtype=object), **inputs}
        try:
            return Outputs(*session.run(list(Outputs._fields), feeds))
        except Exception as error:  # of a class that ONNX Runtime makes for each status
            most = self.description.max_source_ids
            if most is None:
                raise
            raise ValueError(
                f"texts must have at most {most} tokens each, end symbol included: the model's "
                f"positions are learned. Split long texts. Received: {_first_line(error)}"
            ) from error


def _import_runtime() -> tuple[Any, str]:
    """Return the module onnxruntime and the path of the library with the text operators."""
    loaded = [name for name in sys.modules if sys.modules.get(name)]  # None: import is forbidden
    if "tensorflow" in loaded and (
        "onnxruntime_extensions" not in loaded
        or loaded.index("tensorflow") < loaded.index("onnxruntime_extensions")
    ):
        raise RuntimeError(
            "onnxruntime_extensions must be imported before TensorFlow, or the process would "
            "crash: both carry the same native library. Import keras_transformer's modules or "
            "onnxruntime_extensions first, or use a process without TensorFlow."
        )
    try:
        onnxruntime = importlib.import_module("onnxruntime")
        extensions = importlib.import_module("onnxruntime_extensions")
    except ImportError as error:
        raise ImportError(
            f"ONNX Runtime and its extensions are needed. {install_hint('runtime-cpu')}"
        ) from error
    return onnxruntime, extensions.get_library_path()


def _providers(onnxruntime: Any, device: Device) -> list[str]:
    # CUDA is named only where it can work: elsewhere ONNX Runtime writes errors on the screen.
    cpu = ["CPUExecutionProvider"]
    if device == "cpu":
        return cpu
    reason = _why_no_cuda(onnxruntime)
    if reason is None:
        return ["CUDAExecutionProvider", *cpu]
    if device == "cuda":
        raise RuntimeError(
            f"device='cuda' cannot be used: {reason}. Choose device='cpu', or use a machine with "
            f"an NVIDIA driver. {install_hint('runtime-gpu')}"
        )
    return cpu


def _why_no_cuda(onnxruntime: Any) -> str | None:
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
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


def _describe(path: Path, session: Any) -> Description:
    metadata = session.get_modelmeta().custom_metadata_map
    if METADATA_KEY not in metadata:
        raise BundleError(
            f"{path} must be a model that keras-transformer exported. Received: an ONNX file "
            f"without the metadata {METADATA_KEY!r}"
        )
    description = Description.parse(metadata[METADATA_KEY], f"The metadata of {path}")
    inputs = [value.name for value in session.get_inputs()]
    if "texts" not in inputs:
        raise ValueError(
            f"{path} must take texts. Use model.onnx, which has the tokenizers inside. "
            f"Received: a model with the inputs {', '.join(inputs)}"
        )
    return description


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
