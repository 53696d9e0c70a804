"""Values that a Loop carries without changing them are read from outside instead."""

from keras_transformer_export.graph_passes.graph import Graph
from keras_transformer_export.graph_passes.nodes import Node


def hoist_loop_states(graph: Graph) -> int:
    """Take invariant values out of the carried state of every Loop.

    tf2onnx carries each captured weight through the Loop, where ONNX Runtime can neither pre-pack
    nor fold nor quantize it.
    """
    return sum(_hoist(graph, loop) for loop in graph.nodes("Loop"))


def _hoist(graph: Graph, loop: Node) -> int:
    body = loop.bodies["body"]
    carried = range(len(loop.inputs) - 2)
    invariant = [i for i in carried if body.results[1 + i] == body.inputs[2 + i].name]
    for state in invariant:
        outside = loop.inputs[2 + state]
        graph.replace_uses(body.inputs[2 + state].name, outside)
        graph.replace_uses(loop.outputs[state], outside)
    graph.drop_loop_states(loop, invariant)
    return len(invariant)
