"""Nodes whose inputs are all constants become constants."""

import numpy as np
import onnx
from onnx import helper
from onnx.reference import ReferenceEvaluator

from keras_transformer_export.graph_passes.graph import Graph
from keras_transformer_export.graph_passes.nodes import CONTROL_FLOW, RANDOM, Node

# Float results of these are the same bits in every implementation: they move data or round once.
EXACT = frozenset(
    {"Add", "Cast", "Concat", "ConstantOfShape", "Div", "Expand", "Gather", "Identity", "Mul"}
    | {"Neg", "Reciprocal", "Reshape", "Slice", "Split", "Sqrt", "Squeeze", "Sub", "Tile"}
    | {"Transpose", "Unsqueeze", "Where"}
)
FLOATS = frozenset({np.dtype("float16"), np.dtype("float32"), np.dtype("float64")})
# A larger result is folded only where it takes no more room than the constants it is made of.
SMALL_BYTES = 1 << 16


def fold_constants(graph: Graph) -> int:
    """Compute nodes of constant inputs with ONNX's reference evaluator.

    A float result is folded only for operators that cannot round in two ways, so the folded graph
    computes the same bits.
    """
    changes = 0
    for node in graph.nodes():
        results = _compute(graph, node)
        if results is None:
            continue
        for output, result in zip(node.outputs, results, strict=True):
            graph.replace_uses(output, graph.constant(result))
        graph.remove(node)
        changes += 1
    return changes


def _compute(graph: Graph, node: Node) -> list[np.ndarray] | None:
    if not any(node.inputs) or node.domain or node.op_type in CONTROL_FLOW | RANDOM:
        return None
    if any(name and name not in graph.constants for name in node.inputs):
        return None
    if _shared_weight(graph, node):
        return None
    known = {name: graph.constants[name] for name in node.inputs if name}
    inputs = [helper.make_tensor_value_info(n, graph.type_of(n), a.shape) for n, a in known.items()]
    outputs = [helper.make_empty_tensor_value_info(name) for name in node.outputs]
    proto = helper.make_node(node.op_type, node.inputs, node.outputs)
    proto.attribute.extend(node.attributes.values())
    model = helper.make_model(
        helper.make_graph([proto], "fold", inputs, outputs), opset_imports=graph.opset_imports
    )
    try:
        results = [np.asarray(r) for r in ReferenceEvaluator(model).run(None, known)]
    except (NotImplementedError, RuntimeError, TypeError, ValueError, onnx.checker.ValidationError):
        return None  # the evaluator lacks an operator or a type: ONNX Runtime will compute it
    if any(r.dtype in FLOATS for r in results) and node.op_type not in EXACT:
        return None
    room = max(SMALL_BYTES, sum(array.nbytes for array in known.values()))
    return results if sum(result.nbytes for result in results) <= room else None


def _shared_weight(graph: Graph, node: Node) -> bool:
    """A large constant that others read too would stand twice in the file."""
    return any(
        name in graph.constants
        and graph.constants[name].nbytes > SMALL_BYTES
        and not graph.used_once(name)
        for name in node.inputs
    )
