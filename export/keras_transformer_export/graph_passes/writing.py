"""Graphs back into ONNX's own form, and what is read off that form."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from onnx import AttributeProto, GraphProto, NodeProto, TensorProto, ValueInfoProto, helper

from keras_transformer_export.graph_passes.nodes import Node, Region

# Axes, shapes and the like.
SMALL = 16


def write_region(region: Region, name: str, fresh: Callable[[str], str]) -> GraphProto:
    """Return a region without its constants; `fresh` gives names that nothing else has."""
    nodes = [_write_node(node, fresh) for node in region.nodes]
    made = {output for node in region.nodes for output in node.outputs}
    made |= {value.name for value in region.inputs} if region.parent else set()
    outputs: list[ValueInfoProto] = []
    for result, declared in zip(region.results, region.outputs, strict=True):
        output = ValueInfoProto()
        output.CopyFrom(declared)
        if region.parent is None:
            if result != declared.name:
                nodes.append(helper.make_node("Identity", [result], [declared.name]))
        elif result in made:
            output.name = result
            made.remove(result)
        else:
            # A body must make each value it returns itself, and return it once.
            output.name = fresh("result")
            nodes.append(helper.make_node("Identity", [result], [output.name]))
        outputs.append(output)
    return helper.make_graph(nodes, name, region.inputs, outputs)


def _write_node(node: Node, fresh: Callable[[str], str]) -> NodeProto:
    written = helper.make_node(node.op_type, node.inputs, node.outputs, domain=node.domain)
    written.name = f"{node.op_type}:{node.outputs[0]}"
    written.attribute.extend(node.attributes.values())
    for name, body in node.bodies.items():
        written.attribute.append(helper.make_attribute(name, write_region(body, name, fresh)))
    return written


def repeat_small_constants(graph: GraphProto, known: dict[str, TensorProto] | None = None) -> None:
    """Put small constants into the bodies that read them: shape inference sees no outer values."""
    known = known or {t.name: t for t in graph.initializer if _size(t) <= SMALL}
    for body in bodies(graph):
        names = {name for node in body.node for name in node.input if name in known}
        body.initializer.extend(known[name] for name in sorted(names))
        repeat_small_constants(body, known)


def bodies(graph: GraphProto) -> Iterator[GraphProto]:
    """The graphs inside the nodes of a graph, one level down."""
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                yield attribute.g


def declared_values(graph: GraphProto) -> Iterator[ValueInfoProto]:
    """What is said of the types of values, at all levels."""
    yield from (*graph.input, *graph.output, *graph.value_info)
    for body in bodies(graph):
        yield from declared_values(body)


def names_read(graph: GraphProto) -> Iterator[str]:
    """Names that the nodes of all levels read."""
    for node in graph.node:
        yield from node.input
    for body in bodies(graph):
        yield from names_read(body)


def _size(tensor: TensorProto) -> int:
    size = 1
    for dimension in tensor.dims:
        size *= dimension
    return size
