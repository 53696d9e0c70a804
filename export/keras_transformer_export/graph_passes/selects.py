"""Arithmetic that stands for a selection becomes Where."""

from onnx import TensorProto

from keras_transformer_export.graph_passes.graph import Graph


def restore_where(graph: Graph) -> int:
    """Rewrite `cast(c) * a + cast(not c) * b`, tf2onnx's form of `where`, to Where(c, a, b).

    Besides being cheaper, Where is right for infinite `a` and `b`, where 0 * inf gives NaN.
    """
    changes = 0
    for node in graph.nodes("Add"):
        halves = [found for v in node.inputs if (found := _selected(graph, v)) is not None]
        if len(halves) != 2:
            continue
        (first, first_when, chosen), (second, second_when, other) = halves
        if first != second or first_when == second_when:
            continue
        if not first_when:
            chosen, other = other, chosen
        graph.replace(node, "Where", [first, chosen, other])
        changes += 1
    return changes


def _selected(graph: Graph, value: str) -> tuple[str, bool, str] | None:
    """Read `cast(c) * a` as (c, True, a) and `cast(not c) * a` as (c, False, a)."""
    product = graph.producer(value, "Mul")
    if product is None:
        return None
    for i in range(2):
        cast = graph.producer(product.inputs[i], "Cast")
        if cast is None or graph.type_of(cast.inputs[0]) != TensorProto.BOOL:
            continue
        condition, when = cast.inputs[0], True
        while negation := graph.producer(condition, "Not"):
            condition, when = negation.inputs[0], not when
        return condition, when, product.inputs[1 - i]
    return None
