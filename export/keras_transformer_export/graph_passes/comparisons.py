"""Integers that tf2onnx compares as floats are compared as integers."""

import numpy as np
from onnx import TensorProto, helper

from keras_transformer_export.graph_passes.graph import Graph
from keras_transformer_export.graph_passes.nodes import Node

COMPARISONS = ("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual")
INTEGERS = (TensorProto.INT32, TensorProto.INT64)


def compare_integers(graph: Graph) -> int:
    """Rewrite `less(cast_float(a), cast_float(b))` of integers to `less(a, b)`."""
    changes = 0
    for node in graph.nodes(*COMPARISONS):
        inputs = _integer_inputs(graph, node)
        if inputs is not None:
            graph.replace(node, node.op_type, inputs)
            changes += 1
    return changes


def _integer_inputs(graph: Graph, node: Node) -> list[str] | None:
    casts = [graph.producer(value, "Cast") for value in node.inputs]
    types = {graph.type_of(cast.inputs[0]) for cast in casts if cast}
    if len(types) != 1 or not types <= set(INTEGERS):
        return None
    dtype = helper.tensor_dtype_to_np_dtype(types.pop())
    inputs = []
    for value, cast in zip(node.inputs, casts, strict=True):
        array = graph.constants.get(value)
        if cast is not None:
            inputs.append(cast.inputs[0])
        elif array is not None and _is_exact(array, dtype):
            inputs.append(graph.constant(array.astype(dtype)))
    return inputs if len(inputs) == 2 else None


def _is_exact(array: np.ndarray, dtype: np.dtype) -> bool:
    limits = np.iinfo(dtype)
    inside = np.all((array >= limits.min) & (array <= limits.max))
    return bool(inside and np.array_equal(array, np.trunc(array)))
