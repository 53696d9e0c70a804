"""Inputs and outputs of each exported file, as the manifest has them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from keras_transformer_export.bundle import Precision, Signature, TensorInfo
from keras_transformer_export.onnx_model import DETAILS, INPUTS, OUTPUTS, Value
from keras_transformer_export.precision import file_name
from keras_transformer_export.search_inputs import DEFAULTS

TEXTS = Value("texts", "string", ("B",))
SOURCE_IDS, *OPTIONS = INPUTS


def signatures(
    formats: Sequence[str], precisions: Sequence[Precision], details: Sequence[str]
) -> dict[str, Signature]:
    """Return the signature of each file.

    Args:
        formats: "saved_model", "onnx".
        precisions: of the ONNX files.
        details: further outputs of the ONNX files.
    """
    outputs = [*OUTPUTS, *(DETAILS[name] for name in details)]
    translations = Value("translations", "string", ("B", "n"))
    found: dict[str, Signature] = {}
    for precision in precisions if "onnx" in formats else ():
        found[file_name("model.onnx", precision)] = signature(
            [TEXTS, *OPTIONS], [translations, *outputs], precision
        )
        found[file_name("model.ids.onnx", precision)] = signature(INPUTS, outputs, precision)
    if "saved_model" in formats:
        found["saved_model"] = signature(
            [TEXTS, *map(_in_32_bits, OPTIONS)],
            [translations._replace(name="texts"), *map(_in_32_bits, OUTPUTS)],
        )
    return found


def signature(
    inputs: Iterable[Value], outputs: Iterable[Value], precision: Precision = "float32"
) -> Signature:
    """Return the signature of a file with these inputs and outputs."""
    return Signature(
        precision=precision,
        inputs={value.name: _info(value) for value in inputs},
        outputs={value.name: _info(value) for value in outputs},
    )


def _info(value: Value) -> TensorInfo:
    default = DEFAULTS.get(value.name)
    return TensorInfo(
        dtype=value.dtype,  # type: ignore[arg-type]
        shape=list(value.shape),
        default=None if default is None else default.tolist(),
    )


def _in_32_bits(value: Value) -> Value:
    return value._replace(dtype="int32") if value.dtype == "int64" else value
