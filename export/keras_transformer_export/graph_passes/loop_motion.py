"""Work that is the same in every step of a Loop is done once, before it."""

from keras_transformer_export.graph_passes.graph import Graph
from keras_transformer_export.graph_passes.nodes import CONTROL_FLOW, RANDOM, Node


def move_invariants_out(graph: Graph) -> int:
    """Move nodes of a Loop body that depend on nothing inside it in front of the Loop.

    They are computed even where the Loop makes no step; all of them are pure, so that is safe.
    """
    return sum(_move_out(graph, loop) for loop in reversed(graph.nodes("Loop")))


def _move_out(graph: Graph, loop: Node) -> int:
    body, outside = loop.bodies["body"], graph.region_of(loop)
    inside = {value.name for value in body.inputs}
    changes = 0
    for node in list(body.nodes):
        fixed = node.op_type in CONTROL_FLOW | RANDOM or not any(node.inputs)
        if fixed or inside.intersection(node.inputs):
            inside.update(node.outputs)
            continue
        graph.move(node, outside, outside.nodes.index(loop))
        changes += 1
    return changes
