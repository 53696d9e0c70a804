"""What a linear map gives is added to a residual connection by the map itself."""

import numpy as np

from keras_transformer_export.graph_passes.graph import Graph
from keras_transformer_export.graph_passes.linear import is_linear_map
from keras_transformer_export.graph_passes.nodes import Node, Region

# Operators that keep the rows of a matrix apart, whatever follows the first axis.
ROW_BY_ROW = frozenset(
    {"Add", "Cast", "Clip", "Concat", "Div", "Elu", "Erf", "Exp", "Gemm", "LayerNormalization"}
    | {"MatMul", "Mul", "Neg", "Relu", "Reshape", "Sigmoid", "Softmax", "Softplus", "Split", "Sub"}
    | {"Tanh", "Transpose", "Where"}
)


def fold_residuals(graph: Graph) -> int:
    """Rewrite `x + Gemm(h, W, b)` to Gemm(h, W, x), where x is a LayerNormalization.

    Gemm adds one thing only, so b goes where x is made: into the shift of the normalization. The
    other maps that read x get it subtracted in their own biases. Where something else reads x,
    nothing is changed.
    """
    changes = 0
    for add in graph.nodes("Add"):
        for x, value in (add.inputs, add.inputs[::-1]):
            gemm = graph.producer(value, "Gemm")
            if gemm is None or not graph.used_once(value) or not is_linear_map(graph, gemm):
                continue
            readers = _maps_that_read(graph, x, add)
            if readers is None or not _rows_come_from(graph, gemm.inputs[0], x):
                continue
            _shift(graph, x, graph.constants[gemm.inputs[2]], readers)
            graph.replace(add, "Gemm", [*gemm.inputs[:2], x])
            graph.remove(gemm)
            changes += 1
            break
    return changes


def _maps_that_read(graph: Graph, x: str, add: Node) -> list[Node] | None:
    """The linear maps that read x, if it is a normalization that only they and `add` read."""
    norm = graph.producer(x, "LayerNormalization")
    if norm is None or len(norm.inputs) != 3 or graph.rank_of(x) != 2 or graph.is_result(x):
        return None
    if any(name not in graph.constants for name in norm.inputs[1:]):
        return None
    readers = [node for node in graph.consumers(x) if node is not add]
    plain = all(
        node.op_type == "Gemm" and node.inputs.count(x) == 1 and is_linear_map(graph, node)
        for node in readers
    )
    return readers if plain else None


def _rows_come_from(graph: Graph, value: str, x: str) -> bool:
    """Whether `value` is made of x row by row, so that what it gives has as many rows.

    Add may stretch one row over many, which Gemm may not. What comes from outside of the body, such
    as keys and values, was made before x.
    """
    here = {name for node in _region_with(graph, x).nodes for name in node.outputs}
    ahead, seen, found = [value], set(), False
    while ahead:
        value = ahead.pop()
        found = found or value == x
        if value == x or value in seen or value not in here:
            continue
        seen.add(value)
        node = graph.producer(value)
        if node is None or node.op_type not in ROW_BY_ROW or node.attribute("axis", -1) == 0:
            return False
        ahead.extend(node.inputs)
    return found


def _region_with(graph: Graph, value: str) -> Region:
    node = graph.producer(value)
    assert node is not None
    return graph.region_of(node)


def _shift(graph: Graph, x: str, bias: np.ndarray, readers: list[Node]) -> None:
    norm = graph.producer(x)
    assert norm is not None
    bias = bias.reshape(-1)
    beta = graph.constants[norm.inputs[2]] + bias
    graph.set_inputs(norm, [*norm.inputs[:2], graph.constant(beta, norm.inputs[2])])
    for reader in readers:
        weight, own = (graph.constants[name].astype("float64") for name in reader.inputs[1:])
        own = (own - bias.astype("float64") @ weight).astype("float32")
        graph.set_inputs(reader, [*reader.inputs[:2], graph.constant(own, reader.inputs[2])])
