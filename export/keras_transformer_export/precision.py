"""Smaller twins of the exported graph: int8 and float16."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper

from keras_transformer_export.graph_passes import Graph
from keras_transformer_export.graph_passes.nodes import Node
from keras_transformer_export.int8 import quantize_int8
from keras_transformer_export.stored_weights import Change, shorten_names, weight

__all__ = ["TWINS", "Change", "file_name", "quantize_int8", "to_float16"]

# Smaller constants are biases, norms and the like.
LEAST_ELEMENTS = 256


def to_float16(model: ModelProto) -> tuple[ModelProto, Change]:
    """Store matrices in half the bytes, and compute in float32.

    Constant matrices of 256 elements or more are stored as float16. A Cast for each at the head
    of the top graph makes them float32 again, which ONNX Runtime does once, when it loads the
    file: it has no float16 products for CPUs (with casts around each product in their place,
    decoding took 1.3 to 2.4 times as long), and on a GPU the products may use TF32. Nothing
    else is rounded, so no mask, sum or softmax can overflow; inputs and outputs stay as they are.
    A matrix with a number that float16 cannot hold (beyond 65,504) stays float32.

    Args:
        model: an exported graph in float32; it is not changed.

    Returns:
        The new model, of the same inputs and outputs, and what was changed.

    Raises:
        ValueError: a weight is not finite, or no matrix is large enough to be stored so.
    """
    graph = Graph(model)
    stored = 0
    kept: dict[str, str] = {}
    for name in list(graph.constants):
        array = weight(graph, name)
        if array is None or array.size < LEAST_ELEMENTS or not graph.is_used(name):
            continue
        if np.abs(array).max() > np.finfo("float16").max:
            kept[name] = "beyond the range of float16"
            continue
        half = graph.constant(array.astype("float16"), f"{name}.half")
        whole = graph.new_value(f"{name}.whole", like=name)
        graph.replace_uses(name, whole)
        cast = {"to": helper.make_attribute("to", TensorProto.FLOAT)}
        graph.insert(Node("Cast", [half], [whole], cast), graph.top, 0)
        stored += 1
    if not stored:
        raise ValueError(
            f"model must have constant float32 matrices of {LEAST_ELEMENTS} elements or more. "
            "Pass the graph that was exported in float32. Received: a graph without one"
        )
    halved = graph.to_model()
    shorten_names(halved)
    onnx.checker.check_model(halved, full_check=True)
    return halved, Change(stored, 0, kept, model.ByteSize(), halved.ByteSize())


TWINS: dict[str, Callable[[ModelProto], tuple[ModelProto, Change]]] = {
    "int8": quantize_int8,
    "float16": to_float16,
}


def file_name(name: str, precision: str) -> str:
    """Name of the twin of a file: "model.ids.onnx" in int8 is "model.ids.int8.onnx"."""
    return name if precision == "float32" else f"{name.removesuffix('.onnx')}.{precision}.onnx"
