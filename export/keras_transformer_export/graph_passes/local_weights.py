"""Weights become constants of the body that multiplies by them, and stand once in the file."""

import numpy as np
from onnx import helper

from keras_transformer_export.graph_passes.graph import Graph
from keras_transformer_export.graph_passes.nodes import Node, Region

PRODUCTS = ("MatMul", "Gemm", "MatMulInteger")
# Smaller ones gain nothing.
SMALL_BYTES = 1 << 10


def make_weights_local(graph: Graph) -> int:
    """Read each weight of a body within a body through a Reshape to its own shape, in that body.

    ONNX Runtime brings a weight into the order its product reads (packs it) only where it is a
    constant of the same body or of the graph one level further out. It computes the Reshape when
    it loads the file, which makes such a constant; as weights of outer graphs, those of a Loop
    within a branch or another Loop would be packed in every step, or never.
    """
    changes = 0
    local: dict[tuple[str, Region], str] = {}
    for node in graph.nodes(*PRODUCTS):
        region, name = graph.region_of(node), node.inputs[1]
        weight = graph.constants.get(name)
        large = weight is not None and weight.ndim == 2 and weight.nbytes >= SMALL_BYTES
        if weight is None or not large or not _is_deep(region):
            continue
        if (name, region) not in local:
            shape = graph.constant(np.array(weight.shape, "int64"), "shape")
            allowzero = {"allowzero": helper.make_attribute("allowzero", 1)}
            own = graph.new_value(f"{name}.local", like=name)
            graph.insert(Node("Reshape", [name, shape], [own], allowzero), region, 0)
            local[name, region] = own
        graph.set_inputs(node, [node.inputs[0], local[name, region], *node.inputs[2:]])
        changes += 1
    return changes


def make_weights_shared(graph: Graph) -> int:
    """Take back what `make_weights_local` did, so that products read their weights themselves."""
    changes = 0
    for node in graph.nodes("Reshape"):
        weight, shape = (graph.constants.get(name) for name in node.inputs)
        if weight is not None and shape is not None and weight.shape == tuple(shape):
            graph.replace_uses(node.outputs[0], node.inputs[0])
            graph.remove(node)
            changes += 1
    return changes


def _is_deep(region: Region) -> bool:
    return region.parent is not None and region.parent.parent is not None
