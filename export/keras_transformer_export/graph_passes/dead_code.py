"""Nodes and loop states that nothing reads are removed."""

from keras_transformer_export.graph_passes.graph import Graph
from keras_transformer_export.graph_passes.nodes import Node


def remove_dead_code(graph: Graph) -> int:
    """Remove what no output depends on: nodes, and Loop states that nobody reads."""
    changes, before = 0, -1
    while changes != before:
        before = changes
        changes += sum(_drop_dead_states(graph, loop) for loop in graph.nodes("Loop"))
        for node in reversed(graph.nodes()):
            if not any(graph.is_used(output) for output in node.outputs):
                graph.remove(node)
                changes += 1
    return changes


def _drop_dead_states(graph: Graph, loop: Node) -> int:
    body = loop.bodies["body"]
    dead = [
        state
        for state in range(len(loop.inputs) - 2)
        if not graph.is_used(loop.outputs[state]) and not graph.is_used(body.inputs[2 + state].name)
    ]
    graph.drop_loop_states(loop, dead)
    return len(dead)
