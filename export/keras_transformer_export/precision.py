"""Smaller twins of the exported graph: int8 and float16."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from onnx import ModelProto, TensorProto, helper

from keras_transformer_export.graph_passes import Graph
from keras_transformer_export.graph_passes.local_weights import PRODUCTS, make_weights_shared
from keras_transformer_export.graph_passes.nodes import Node, Region
from keras_transformer_export.int8 import quantize_int8
from keras_transformer_export.stored_weights import Change, finished, weight

__all__ = ["TWINS", "Change", "file_name", "quantize_int8", "to_float16"]

# Smaller constants are biases, norms and the like.
LEAST_ELEMENTS = 256


def to_float16(model: ModelProto) -> tuple[ModelProto, Change]:
    """Store matrices in half the bytes, and compute in float32.

    Constant matrices of 256 elements or more are stored as float16. A Cast, at the head of the top
    graph or of the body that multiplies by the matrix, makes it float32 again, which ONNX Runtime
    does once, when it loads the file (`make_weights_local` says why there). It has no float16
    products for CPUs: with casts around each product instead, decoding took 1.3 to 2.4 times as
    long. On a GPU the products may use TF32. Nothing else is rounded, so no mask, sum or softmax
    can overflow; inputs and outputs stay as they are.
    A matrix with a number that float16 cannot hold (beyond 65,504) stays float32.

    Args:
        model: an exported graph in float32; it is not changed.

    Returns:
        The new model, of the same inputs and outputs, and what was changed.

    Raises:
        ValueError: a weight is not finite, or no matrix is large enough to be stored so.
    """
    graph = Graph(model)
    make_weights_shared(graph)
    stored = 0
    kept: dict[str, str] = {}
    for name in list(graph.constants):
        array = weight(graph, name)
        if array is None or array.size < LEAST_ELEMENTS or not graph.is_used(name):
            continue
        if np.abs(array).max() > np.finfo("float16").max:
            kept[name] = "beyond the range of float16"
            continue
        _halve(graph, name)
        stored += 1
    if not stored:
        raise ValueError(
            f"model must have constant float32 matrices of {LEAST_ELEMENTS} elements or more. "
            "Pass the graph that was exported in float32. Received: a graph without one"
        )
    halved = finished(graph)
    return halved, Change(stored, 0, kept, model.ByteSize(), halved.ByteSize())


def _halve(graph: Graph, name: str) -> None:
    """Store a matrix as float16, and give its readers what a Cast makes of it."""
    half = graph.constant(graph.constants[name].astype("float16"), f"{name}.half")
    whole: dict[Region, str] = {}

    def cast(region: Region) -> str:
        if region not in whole:
            whole[region] = graph.new_value(f"{name}.whole", like=name)
            to_float = {"to": helper.make_attribute("to", TensorProto.FLOAT)}
            graph.insert(Node("Cast", [half], [whole[region]], to_float), region, 0)
        return whole[region]

    for node in graph.consumers(name):
        region = graph.region_of(node) if node.op_type in PRODUCTS else graph.top
        graph.set_inputs(node, [cast(region) if n == name else n for n in node.inputs])
    if graph.is_used(name):  # a body returns it
        graph.replace_uses(name, cast(graph.top))


TWINS: dict[str, Callable[[ModelProto], tuple[ModelProto, Change]]] = {
    "int8": quantize_int8,
    "float16": to_float16,
}


def file_name(name: str, precision: str) -> str:
    """Name of the twin of a file: "model.ids.onnx" in int8 is "model.ids.int8.onnx"."""
    return name if precision == "float32" else f"{name.removesuffix('.onnx')}.{precision}.onnx"
