"""A constant factor on what a linear map gives is multiplied into the map."""

from __future__ import annotations

import numpy as np

from keras_transformer_export.graph_passes.graph import Graph
from keras_transformer_export.graph_passes.linear import is_linear_map
from keras_transformer_export.graph_passes.nodes import Node

SAME_DATA = ("Reshape", "Transpose", "Split")


def fold_scales(graph: Graph) -> int:
    """Drop `x * c` where x is some of the columns of a Gemm with constant weights.

    The 1 / sqrt(H) of attention is such a factor: the columns of the query carry it.
    """
    changes = 0
    for node in graph.nodes("Mul"):
        for value, factor in (node.inputs, node.inputs[::-1]):
            scale = graph.scalar(factor)
            found = None if scale is None else _linear_map_of(graph, value)
            if found is not None and graph.rank_of(factor) == 0:
                gemm, columns = found
                _scale(graph, gemm, columns, np.float32(scale))
                graph.replace_uses(node.outputs[0], value)
                graph.remove(node)
                changes += 1
                break
    return changes


def _linear_map_of(graph: Graph, value: str) -> tuple[Node, slice] | None:
    """The Gemm that makes `value`, and which of its columns; None where others read them too."""
    columns = slice(None)
    while graph.used_once(value):
        node = graph.producer(value)
        if node is None:
            return None
        if node.op_type == "Gemm":
            return (node, columns) if is_linear_map(graph, node) else None
        if node.op_type not in SAME_DATA or columns != slice(None):
            return None
        if node.op_type == "Split":
            sizes = graph.constants.get(node.inputs[1]) if len(node.inputs) > 1 else None
            if sizes is None or node.attribute("axis", 0) not in (-1, 1):
                return None
            place = node.outputs.index(value)
            columns = slice(int(sizes[:place].sum()), int(sizes[: place + 1].sum()))
        value = node.inputs[0]
    return None


def _scale(graph: Graph, gemm: Node, columns: slice, scale: np.float32) -> None:
    scaled = [gemm.inputs[0]]
    for name in gemm.inputs[1:]:
        array = graph.constants[name].copy()
        array[..., columns] *= scale
        scaled.append(graph.constant(array, name))
    graph.set_inputs(gemm, scaled)
