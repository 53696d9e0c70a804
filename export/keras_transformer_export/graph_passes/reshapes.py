"""A transposition that moves no data is a reshape, and of two reshapes only the last one counts."""

import numpy as np

from keras_transformer_export.graph_passes.graph import Graph
from keras_transformer_export.graph_passes.nodes import Node


def merge_reshapes(graph: Graph) -> int:
    """Merge what only gives another shape to the same data in the same order.

    Such is the transposition of `[R, N, 1, H]` to `[R, N, H, 1]`, a key of one position.
    """
    changes = 0
    for node in graph.nodes("Transpose"):
        shape = _transposed_shape(graph, node)
        if shape is not None:
            graph.replace(node, "Reshape", [node.inputs[0], graph.constant(shape, "shape")])
            changes += 1
    for node in graph.nodes("Reshape"):
        before = graph.producer(node.inputs[0], "Reshape")
        shape = graph.constants.get(node.inputs[1])
        if before is not None and shape is not None and np.all(shape != 0):  # 0: as it was before
            graph.set_inputs(node, [before.inputs[0], node.inputs[1]])
            changes += 1
            if not graph.is_used(before.outputs[0]):
                graph.remove(before)
    return changes


def _transposed_shape(graph: Graph, node: Node) -> np.ndarray | None:
    """The shape after a transposition of which only axes of size 1 change their places."""
    before = graph.producer(node.inputs[0], "Reshape")
    shape = None if before is None else graph.constants.get(before.inputs[1])
    order = node.attribute("perm")
    if shape is None or order is None or np.any(shape == 0):
        return None
    moved = [axis for axis in order if shape[axis] != 1]
    return shape[list(order)] if moved == sorted(moved) else None
