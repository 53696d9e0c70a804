"""Layer normalization written as arithmetic becomes one LayerNormalization."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from keras_transformer_export.graph_passes.graph import Graph


@dataclass(frozen=True)
class Deviation:
    """sqrt(variance(x) + epsilon) over the last axis, and the values it is made of."""

    x: str
    mean: str
    centered: str
    epsilon: float


@dataclass(frozen=True)
class Normalization:
    """(x - mean) / deviation * gamma + beta."""

    deviation: Deviation
    gamma: str
    beta: str


def fuse_layer_normalization(graph: Graph) -> int:
    """Recognize the arithmetic of keras.layers.LayerNormalization, and that of the textbook.

    Keras computes x * s + (beta - mean * s) with s = gamma / sqrt(variance + epsilon), which ONNX
    Runtime's own fusion does not know.
    """
    changes = 0
    for add in graph.nodes("Add"):
        found = _keras_form(graph, add.inputs) or _textbook_form(graph, add.inputs)
        if found is None:
            continue
        scale, shift = (
            graph.constant(graph.constants[name].reshape(-1)) for name in (found.gamma, found.beta)
        )
        x, epsilon = found.deviation.x, found.deviation.epsilon
        graph.replace(add, "LayerNormalization", [x, scale, shift], axis=-1, epsilon=epsilon)
        changes += 1
    return changes


def _keras_form(graph: Graph, terms: Sequence[str]) -> Normalization | None:
    for scaled, rest in _both_orders(terms):
        product, offset = graph.producer(scaled, "Mul"), graph.producer(rest, "Add")
        if product is None or offset is None:
            continue
        for x, factor in _both_orders(product.inputs):
            found = _factor(graph, factor)
            if found is None or found[0].x != x:
                continue
            deviation, gamma = found
            for moved_mean, beta in _both_orders(offset.inputs):
                if _is_vector(graph, beta) and _is_negated_product(
                    graph, moved_mean, deviation.mean, factor
                ):
                    return Normalization(deviation, gamma, beta)
    return None


def _textbook_form(graph: Graph, terms: Sequence[str]) -> Normalization | None:
    for scaled, beta in _both_orders(terms):
        product = graph.producer(scaled, "Mul")
        if product is None or not _is_vector(graph, beta):
            continue
        for normal, gamma in _both_orders(product.inputs):
            deviation = _normalized(graph, normal)
            if deviation is not None and _is_vector(graph, gamma):
                return Normalization(deviation, gamma, beta)
    return None


def _factor(graph: Graph, value: str) -> tuple[Deviation, str] | None:
    """Read `gamma / deviation`."""
    product = graph.producer(value, "Mul")
    for inverse, gamma in _both_orders(product.inputs if product else ()):
        reciprocal = graph.producer(inverse, "Reciprocal")
        deviation = _deviation(graph, reciprocal.inputs[0]) if reciprocal else None
        if deviation is not None and _is_vector(graph, gamma):
            return deviation, gamma
    return None


def _normalized(graph: Graph, value: str) -> Deviation | None:
    """Read `(x - mean) / deviation`."""
    node = graph.producer(value, "Div", "Mul")
    if node is None:
        return None
    if node.op_type == "Div":
        deviation = _deviation(graph, node.inputs[1])
        return deviation if deviation and deviation.centered == node.inputs[0] else None
    for centered, inverse in _both_orders(node.inputs):
        reciprocal = graph.producer(inverse, "Reciprocal")
        deviation = _deviation(graph, reciprocal.inputs[0]) if reciprocal else None
        if deviation is not None and deviation.centered == centered:
            return deviation
    return None


def _deviation(graph: Graph, value: str) -> Deviation | None:
    root = graph.producer(value, "Sqrt")
    total = graph.producer(root.inputs[0], "Add") if root else None
    for variance, small in _both_orders(total.inputs if total else ()):
        epsilon, squared = graph.scalar(small), _mean_of(graph, variance)
        centered = _squared(graph, squared) if squared else None
        difference = graph.producer(centered, "Sub") if centered else None
        if epsilon is None or difference is None:
            continue
        x, mean = difference.inputs
        if _mean_of(graph, mean) == x:
            return Deviation(x, mean, difference.outputs[0], float(epsilon))
    return None


def _mean_of(graph: Graph, value: str) -> str | None:
    """What `value` is the mean of, over the last axis."""
    node = graph.producer(value, "ReduceMean")
    if node is None or not node.attribute("keepdims", 1):
        return None
    if len(node.inputs) > 1:
        axes = graph.constants.get(node.inputs[1], np.array([]))
    else:
        axes = np.array(node.attribute("axes", []))
    rank = graph.rank_of(node.inputs[0])
    last = axes.size == 1 and axes.reshape(-1)[0] in (-1, rank - 1 if rank else -1)
    return node.inputs[0] if last else None


def _squared(graph: Graph, value: str) -> str | None:
    node = graph.producer(value, "Mul", "Pow")
    if node is None:
        return None
    if node.op_type == "Mul":
        return node.inputs[0] if node.inputs[0] == node.inputs[1] else None
    return node.inputs[0] if graph.scalar(node.inputs[1]) == 2 else None


def _is_negated_product(graph: Graph, value: str, mean: str, factor: str) -> bool:
    """Read `-mean * factor`."""
    product = graph.producer(value, "Mul")
    for negated, other in _both_orders(product.inputs if product else ()):
        negation = graph.producer(negated, "Neg")
        if other == factor and negation is not None and negation.inputs[0] == mean:
            return True
    return False


def _is_vector(graph: Graph, value: str) -> bool:
    """A constant with one number per feature, whatever its leading dimensions of 1."""
    array = graph.constants.get(value)
    return array is not None and 1 < array.size == array.shape[-1]


def _both_orders(pair: Sequence[str]) -> Iterator[tuple[str, str]]:
    if len(pair) == 2:
        yield pair[0], pair[1]
        yield pair[1], pair[0]
