"""Identity nodes are removed."""

from keras_transformer_export.graph_passes.graph import Graph


def remove_identities(graph: Graph) -> int:
    """Let users of an Identity read its input. Writing the model puts back what a body needs."""
    identities = graph.nodes("Identity")
    for node in identities:
        graph.replace_uses(node.outputs[0], node.inputs[0])
        graph.remove(node)
    return len(identities)
