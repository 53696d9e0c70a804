"""The Bitcast that keras.ops.argmax leaves behind is removed."""

from keras_transformer_export.graph_passes.graph import Graph
from keras_transformer_export.graph_passes.nodes import Node


def drop_negative_zero_test(graph: Graph) -> int:
    """Let ArgMax read its data where Keras first replaces -0.0 by a tiny negative number.

    Keras tests the sign bit with Bitcast, which tf2onnx cannot convert. The results differ only
    where the largest value is zero and stands in one row as -0.0 before 0.0.
    """
    changes = 0
    for argmax in graph.nodes("ArgMax"):
        select = graph.producer(argmax.inputs[0], "Where")
        if select is None or not _replaces_negative_zero(graph, select):
            continue
        graph.set_inputs(argmax, [select.inputs[2]])
        changes += 1
    return changes


def _replaces_negative_zero(graph: Graph, select: Node) -> bool:
    condition, tiny, data = select.inputs
    both = graph.producer(condition, "And")
    value = graph.scalar(tiny)
    if both is None or value is None or not -1.2e-38 < value < 0:
        return False
    return any(_is_zero(graph, name, data) for name in both.inputs) and any(
        user.op_type == "Bitcast" for user in graph.consumers(data)
    )


def _is_zero(graph: Graph, value: str, data: str) -> bool:
    equal = graph.producer(value, "Equal")
    return equal is not None and data in equal.inputs
