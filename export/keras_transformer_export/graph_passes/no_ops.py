"""Casts, slices and negations that change nothing are removed."""

import numpy as np
from onnx import TensorProto

from keras_transformer_export.graph_passes.graph import Graph
from keras_transformer_export.graph_passes.nodes import Node

# tf2onnx writes a billion for an open end, others the largest integer.
TO_THE_END = 10**9
WIDENING = {(TensorProto.INT32, TensorProto.INT64), (TensorProto.FLOAT, TensorProto.DOUBLE)}


def remove_no_ops(graph: Graph) -> int:
    """Let users of a Cast, Slice or Not that changes nothing read the value before it."""
    changes = 0
    for node in graph.nodes("Cast", "Slice", "Not"):
        same = _FINDERS[node.op_type](graph, node)
        if same is not None:
            graph.replace_uses(node.outputs[0], same)
            graph.remove(node)
            changes += 1
    return changes


def _cast(graph: Graph, node: Node) -> str | None:
    """A cast to the same type, and one that undoes a widening cast."""
    to, value = node.attribute("to"), node.inputs[0]
    if graph.type_of(value) == to:
        return value
    before = graph.producer(value, "Cast")
    if before and (to, before.attribute("to")) in WIDENING:
        return before.inputs[0] if graph.type_of(before.inputs[0]) == to else None
    return None


def _slice(graph: Graph, node: Node) -> str | None:
    """A slice from 0 to the end by 1: TensorFlow's `[:, None]` leaves one behind."""
    starts, ends = (graph.constants.get(name) for name in node.inputs[1:3])
    steps = graph.constants.get(node.inputs[4]) if len(node.inputs) > 4 else np.ones(1)
    if starts is None or ends is None or steps is None:
        return None
    everything = np.all(starts == 0) and np.all(ends >= TO_THE_END) and np.all(steps == 1)
    return node.inputs[0] if everything else None


def _not(graph: Graph, node: Node) -> str | None:
    before = graph.producer(node.inputs[0], "Not")
    return before.inputs[0] if before else None


_FINDERS = {"Cast": _cast, "Slice": _slice, "Not": _not}
