"""Guards against negative indices that Gather does not need."""

from keras_transformer_export.graph_passes.graph import Graph
from keras_transformer_export.graph_passes.nodes import Node


def drop_index_guards(graph: Graph) -> int:
    """Rewrite `gather(x, where(i < 0, i + n, i))`, as in keras.ops.take, to `gather(x, i)`.

    Gather counts negative indices from the end itself. `n` is checked where `x` is a constant,
    and where it is not, it must be what the graph reads from a shape.
    """
    changes = 0
    for gather in graph.nodes("Gather"):
        select = graph.producer(gather.inputs[1], "Where")
        if select is None or not _is_guard(graph, select, gather):
            continue
        graph.set_inputs(gather, [gather.inputs[0], select.inputs[2]])
        changes += 1
    return changes


def _is_guard(graph: Graph, select: Node, gather: Node) -> bool:
    index = select.inputs[2]
    less = graph.producer(select.inputs[0], "Less")
    add = graph.producer(select.inputs[1], "Add")
    if less is None or add is None or less.inputs[0] != index or index not in add.inputs:
        return False
    if graph.scalar(less.inputs[1]) != 0:
        return False
    size = add.inputs[1] if add.inputs[0] == index else add.inputs[0]
    table = graph.constants.get(gather.inputs[0])
    if table is not None:
        return graph.scalar(size) == table.shape[gather.attribute("axis", 0)]
    return _comes_from_shape(graph, size, gather.inputs[0])


def _comes_from_shape(graph: Graph, size: str, data: str) -> bool:
    """Follow data movement back from `size` to `Shape(data)`."""
    for _ in range(8):
        node = graph.producer(size, "Cast", "Gather", "Reshape", "Shape", "Slice", "Squeeze")
        if node is None:
            return False
        size = node.inputs[0]
        if node.op_type == "Shape":
            return size == data
    return False
