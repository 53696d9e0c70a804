"""The complementary error function, which ONNX lacks and tf2onnx leaves in the graph."""

import numpy as np
from onnx import helper

from keras_transformer_export.graph_passes.graph import Graph
from keras_transformer_export.graph_passes.nodes import Node


def expand_erfc(graph: Graph) -> int:
    """Rewrite Erfc(x), of TensorFlow's exact GELU, to 1 - Erf(x).

    The difference is of the order of the float's last digit at 1; where Erfc(x) is almost 0, GELU
    multiplies it by a value near 0 as well.
    """
    nodes = [n for n in graph.nodes("Erfc") if graph.type_of(n.inputs[0])]
    for node in nodes:
        erf = Node("Erf", list(node.inputs), [graph.new_value("erf", like=node.inputs[0])])
        region = graph.region_of(node)
        graph.insert(erf, region, region.nodes.index(node))
        # The operator is foreign, so shape inference cannot have found the type of its output.
        dtype = helper.tensor_dtype_to_np_dtype(graph.type_of(node.inputs[0]))
        graph.replace(node, "Sub", [graph.constant(np.array(1, dtype)), erf.outputs[0]])
    return len(nodes)
