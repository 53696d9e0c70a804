"""Equal computations are done once."""

from keras_transformer_export.graph_passes.graph import Graph
from keras_transformer_export.graph_passes.nodes import CONTROL_FLOW, RANDOM, Node


def merge_equal_nodes(graph: Graph) -> int:
    """Merge nodes of one region that apply the same operator to the same inputs."""
    changes = 0
    for region in graph.regions:
        seen: dict[tuple[object, ...], Node] = {}
        for node in list(region.nodes):
            if node.op_type in CONTROL_FLOW | RANDOM:
                continue
            attributes = sorted((k, v.SerializeToString()) for k, v in node.attributes.items())
            key = (node.domain, node.op_type, *node.inputs, len(node.outputs), *attributes)
            first = seen.setdefault(key, node)
            if first is node:
                continue
            for old, new in zip(node.outputs, first.outputs, strict=True):
                graph.replace_uses(old, new)
            graph.remove(node)
            changes += 1
    return changes
