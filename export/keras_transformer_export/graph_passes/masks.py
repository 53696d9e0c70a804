"""Positions that attention must not see get a large negative number added to their scores."""

import numpy as np
from onnx import TensorProto

from keras_transformer_export.graph_passes.graph import Graph
from keras_transformer_export.graph_passes.nodes import Node

LOWEST = -1e8  # exp() of such a number is 0 beside any score


def add_masks(graph: Graph) -> int:
    """Rewrite Softmax(Where(c, x, low)) to Softmax(x + Where(c, 0, low)).

    The new Where reads the mask alone, so it is small, all layers share it, and no Loop repeats it;
    Add is several times faster than Where. The weights are the same but for rows in which c is
    nowhere true: there `low` hides x only down to its own rounding.
    """
    changes = 0
    for softmax in graph.nodes("Softmax"):
        select = graph.producer(softmax.inputs[0], "Where")
        if select is None or not _is_mask(graph, select):
            continue
        condition, scores, low = select.inputs
        zero = graph.constant(np.zeros((), np.float32))
        bias = Node("Where", [condition, zero, low], [graph.new_value("bias", like=scores)])
        region = graph.region_of(select)
        graph.insert(bias, region, region.nodes.index(select))
        graph.replace(select, "Add", [scores, bias.outputs[0]])
        changes += 1
    return changes


def _is_mask(graph: Graph, select: Node) -> bool:
    value = graph.scalar(select.inputs[2])
    is_float = graph.type_of(select.inputs[1]) == TensorProto.FLOAT
    return is_float and value is not None and value <= LOWEST and graph.used_once(select.outputs[0])
