"""A product with a weight matrix becomes Gemm, which takes the bias and a transposed weight."""

import hashlib

import numpy as np

from keras_transformer_export.graph_passes.graph import Graph
from keras_transformer_export.graph_passes.nodes import Node


def fuse_gemm(graph: Graph) -> int:
    """Rewrite `x @ W + b` to Gemm, where x and W are known to be matrices and b a vector."""
    changes = 0
    for add in graph.nodes("Add"):
        for product_value, bias in (add.inputs, add.inputs[::-1]):
            product = graph.producer(product_value, "MatMul")
            if product is None or not graph.used_once(product_value):
                continue
            if _are_matrices(graph, product) and graph.rank_of(bias) == 1:
                graph.replace(add, "Gemm", [*product.inputs, bias])
                graph.remove(product)
                changes += 1
                break
    return changes


def share_transposed_weights(graph: Graph) -> int:
    """Read a weight through Gemm's transB where its transpose stands in the file as well.

    The output projection tied to the embedding is such a weight: with this the table stands once.
    """
    changes = 0
    stored = {
        _fingerprint(array): name
        for name, array in graph.constants.items()
        if array.ndim == 2 and graph.is_used(name)
    }
    for node in graph.nodes("MatMul", "Gemm"):
        if node.attributes or not _are_matrices(graph, node):
            continue
        original = _transposed(graph, node.inputs[1], stored)
        if original is not None and graph.is_used(original):
            inputs = [node.inputs[0], original, *node.inputs[2:]]
            graph.replace(node, "Gemm", inputs, transB=1)
            changes += 1
    return changes


def is_linear_map(graph: Graph, gemm: Node) -> bool:
    """True for a Gemm of a constant matrix and a constant bias with a number for each column."""
    if len(gemm.inputs) != 3 or gemm.attributes:
        return False
    weight, bias = (graph.constants.get(name) for name in gemm.inputs[1:])
    if weight is None or bias is None:
        return False
    return bias.shape[-1:] == weight.shape[1:] and bias.size == weight.shape[1]


def _transposed(graph: Graph, weight: str, stored: dict[str, str]) -> str | None:
    """The constant that `weight` is the transpose of."""
    array = graph.constants.get(weight)
    if array is not None:
        original = stored.get(_fingerprint(array.T))
        return None if original == weight else original
    transpose = graph.producer(weight, "Transpose")
    if transpose is None or transpose.inputs[0] not in graph.constants:
        return None
    return transpose.inputs[0]


def _fingerprint(array: np.ndarray) -> str:
    digest = hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()
    return f"{array.dtype} {array.shape} {digest}"


def _are_matrices(graph: Graph, product: Node) -> bool:
    return all(graph.rank_of(value) == 2 for value in product.inputs[:2])
