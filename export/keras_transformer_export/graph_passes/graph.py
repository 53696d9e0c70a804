"""An ONNX model opened for rewriting: unique names, one table of constants, makers and users."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import (
    AttributeProto,
    GraphProto,
    ModelProto,
    NodeProto,
    TensorProto,
    ValueInfoProto,
    helper,
    numpy_helper,
)

from keras_transformer_export.graph_passes.nodes import Node, Region
from keras_transformer_export.graph_passes.writing import (
    declared_values,
    names_read,
    repeat_small_constants,
    write_region,
)


class Graph:
    """A model in a form that is easy to rewrite, and back with `to_model`.

    Every value has a name of its own across all bodies, so a pass may follow a value through the
    border of a Loop. Initializers and Constant nodes of every body are in one table, equal ones
    merged. Element types and ranks come from ONNX shape inference.

    Args:
        model: any model without sparse initializers; it is not changed.
    """

    def __init__(self, model: ModelProto):
        self.constants: dict[str, np.ndarray] = {}
        self.regions: list[Region] = []
        self._types: dict[str, int] = {}
        self._ranks: dict[str, int] = {}
        self._constant_names: dict[tuple[Any, ...], str] = {}
        self._taken: set[str] = set()
        self._header = ModelProto()
        self._header.CopyFrom(model)
        self._header.ClearField("graph")
        self._name = model.graph.name
        self._output_names = {output.name for output in model.graph.output}
        self._taken |= self._output_names
        inputs = {declared.name for declared in model.graph.input}
        self._defaults = [t for t in model.graph.initializer if t.name in inputs]
        self._load(model.graph, {}, None, None)
        self._index()
        self.infer()

    @property
    def top(self) -> Region:
        """The outermost region."""
        return self.regions[0]

    @property
    def opset_imports(self) -> list[Any]:
        """Operator sets the model asks for."""
        return list(self._header.opset_import)

    # Reading

    def nodes(self, *op_types: str) -> list[Node]:
        """Nodes of all regions, outer regions first; all types where none is given."""
        return [
            node
            for region in self.regions
            for node in region.nodes
            if not op_types or node.op_type in op_types
        ]

    def producer(self, value: str, *op_types: str) -> Node | None:
        """The node that makes `value`, if its type is one of `op_types`."""
        node = self._producers.get(value)
        return node if node is not None and (not op_types or node.op_type in op_types) else None

    def consumers(self, value: str) -> list[Node]:
        """Nodes that read `value`, each once."""
        return [user for user in self._users.get(value, {}) if isinstance(user, Node)]

    def is_result(self, value: str) -> bool:
        """True where a region returns `value`."""
        return any(isinstance(user, Region) for user in self._users.get(value, {}))

    def is_used(self, value: str) -> bool:
        """True where a node reads `value` or a region returns it."""
        return bool(self._users.get(value))

    def used_once(self, value: str) -> bool:
        """True where exactly one node reads `value` and no region returns it."""
        return len(self._users.get(value, {})) == 1 and not self.is_result(value)

    def region_of(self, node: Node) -> Region:
        """The region that holds `node`."""
        return self._homes[node]

    def scalar(self, value: str) -> Any:
        """The Python number of a constant of one element, else None."""
        array = self.constants.get(value)
        return None if array is None or array.size != 1 else array.reshape(-1)[0].item()

    def type_of(self, value: str) -> int:
        """Element type (`TensorProto.FLOAT` ...), or `TensorProto.UNDEFINED`."""
        array = self.constants.get(value)
        if array is not None:
            return helper.np_dtype_to_tensor_dtype(array.dtype)
        return self._types.get(value, TensorProto.UNDEFINED)

    def rank_of(self, value: str) -> int | None:
        """Number of dimensions, or None where unknown."""
        array = self.constants.get(value)
        return array.ndim if array is not None else self._ranks.get(value)

    # Changing

    def constant(self, array: np.ndarray | Any, wanted: str = "constant") -> str:
        """Name of a constant with exactly these bytes, shape and type; made where new."""
        array = np.asarray(array)
        contents = array.tobytes() if array.dtype != object else tuple(array.reshape(-1).tolist())
        key = (array.dtype.str, array.shape, contents)
        if key not in self._constant_names:
            self._constant_names[key] = self._fresh(wanted)
            self.constants[self._constant_names[key]] = array
        return self._constant_names[key]

    def replace_uses(self, old: str, new: str) -> None:
        """Everything that reads or returns `old` takes `new` instead."""
        for user in self._users.pop(old, {}):
            names = user.inputs if isinstance(user, Node) else user.results
            names[:] = [new if name == old else name for name in names]
            self._users.setdefault(new, {})[user] = None

    def set_inputs(self, node: Node, inputs: Sequence[str]) -> None:
        """Give `node` other inputs."""
        self._forget_uses(node)
        node.inputs = list(inputs)
        self._note_uses(node)

    def replace(self, node: Node, op_type: str, inputs: Sequence[str], **attributes: Any) -> Node:
        """Put a node of one output in the place of `node`; users of its first output follow."""
        new = Node(op_type, list(inputs), [self.new_value(op_type, like=node.outputs[0])])
        new.attributes = {k: helper.make_attribute(k, v) for k, v in attributes.items()}
        region = self._homes[node]
        self.insert(new, region, region.nodes.index(node))
        self.replace_uses(node.outputs[0], new.outputs[0])
        if not any(self._users.get(output) for output in node.outputs):
            self.remove(node)
        return new

    def new_value(self, wanted: str, like: str) -> str:
        """A name for a new value, of the type and rank of another."""
        name = self._fresh(wanted)
        for known in (self._types, self._ranks):
            if like in known:
                known[name] = known[like]
        return name

    def insert(self, node: Node, region: Region, position: int) -> None:
        """Add `node` to a region."""
        region.nodes.insert(position, node)
        self._homes[node] = region
        self._producers.update(dict.fromkeys(node.outputs, node))
        self._note_uses(node)

    def remove(self, node: Node) -> None:
        """Take `node`, which nothing uses any more, out of its region. Bodies go with it."""
        self._homes.pop(node).nodes.remove(node)
        self._forget_uses(node)
        for output in node.outputs:
            self._producers.pop(output, None)
        for body in node.bodies.values():
            for inner in list(body.nodes):
                self.remove(inner)
            for result in body.results:
                self._users.get(result, {}).pop(body, None)
            self.regions.remove(body)

    def move(self, node: Node, region: Region, position: int) -> None:
        """Take `node` from its region to a place in another one."""
        self._homes[node].nodes.remove(node)
        region.nodes.insert(position, node)
        self._homes[node] = region

    def drop_loop_states(self, loop: Node, states: Sequence[int]) -> None:
        """Remove carried values of a Loop, by their place among the carried values."""
        body = loop.bodies["body"]
        keep = [i for i in range(len(loop.inputs) - 2) if i not in set(states)]
        for state in states:
            self._users.get(body.results[1 + state], {}).pop(body, None)
            self._producers.pop(loop.outputs[state], None)
        scans = loop.outputs[len(loop.inputs) - 2 :]
        scan_results = range(len(loop.inputs) - 1, len(body.results))
        loop.outputs = [loop.outputs[i] for i in keep] + scans
        kept_results = [0, *(1 + i for i in keep), *scan_results]
        body.results = [body.results[i] for i in kept_results]
        body.outputs = [body.outputs[i] for i in kept_results]
        body.inputs = body.inputs[:2] + [body.inputs[2 + i] for i in keep]
        self.set_inputs(loop, loop.inputs[:2] + [loop.inputs[2 + i] for i in keep])
        for result in body.results:
            self._users.setdefault(result, {})[body] = None

    def infer(self) -> None:
        """Find element types and ranks again; worth it after a pass that made shapes plainer."""
        model = self.to_model()
        repeat_small_constants(model.graph)
        inferred = onnx.shape_inference.infer_shapes(model)
        for declared in declared_values(inferred.graph):
            tensor = declared.type.tensor_type
            if tensor.elem_type:
                self._types[declared.name] = tensor.elem_type
            if tensor.HasField("shape"):
                self._ranks[declared.name] = len(tensor.shape.dim)

    # Writing

    def to_model(self) -> ModelProto:
        """The rewritten model: same inputs, outputs and operator sets; only constants in use."""
        model = ModelProto()
        model.CopyFrom(self._header)
        graph = write_region(self.top, self._name, self._fresh)
        used = set(names_read(graph))
        graph.initializer.extend(self._defaults)
        graph.initializer.extend(
            numpy_helper.from_array(array, name)
            for name, array in self.constants.items()
            if name in used
        )
        model.graph.CopyFrom(graph)
        return model

    # Loading and book-keeping

    def _load(
        self, proto: GraphProto, outer: dict[str, str], parent: Region | None, owner: Node | None
    ) -> Region:
        scope = dict(outer)
        inputs = []
        for declared in proto.input:
            value = ValueInfoProto()
            value.CopyFrom(declared)
            value.name = scope[declared.name] = self._fresh(declared.name)
            inputs.append(value)
        for tensor in proto.initializer:
            if tensor.name not in scope or parent is not None:
                scope[tensor.name] = self.constant(numpy_helper.to_array(tensor), tensor.name)
        region = Region(inputs, list(proto.output), [], parent=parent, owner=owner)
        self.regions.append(region)
        for node in proto.node:
            self._load_node(node, scope, region)
        region.results = [scope[output.name] for output in proto.output]
        return region

    def _load_node(self, proto: NodeProto, scope: dict[str, str], region: Region) -> None:
        if proto.op_type == "Constant" and proto.attribute[0].name == "value":
            scope[proto.output[0]] = self.constant(numpy_helper.to_array(proto.attribute[0].t))
            return
        node = Node(proto.op_type, [scope.get(n, n) for n in proto.input], [], domain=proto.domain)
        for attribute in proto.attribute:
            if attribute.type == AttributeProto.GRAPH:
                node.bodies[attribute.name] = self._load(attribute.g, scope, region, node)
            else:
                node.attributes[attribute.name] = attribute
        for output in proto.output:
            kept = not output or (region.parent is None and output in self._output_names)
            scope[output] = output if kept else self._fresh(output)
            node.outputs.append(scope[output])
        region.nodes.append(node)

    def _fresh(self, wanted: str) -> str:
        name, count = wanted, 0
        while name in self._taken:
            count += 1
            name = f"{wanted}.{count}"
        self._taken.add(name)
        return name

    def _index(self) -> None:
        self._producers: dict[str, Node] = {}
        self._users: dict[str, dict[Node | Region, None]] = {}
        self._homes: dict[Node, Region] = {}
        for region in self.regions:
            for node in region.nodes:
                self._homes[node] = region
                self._producers.update(dict.fromkeys(node.outputs, node))
                self._note_uses(node)
            for result in region.results:
                self._users.setdefault(result, {})[region] = None

    def _note_uses(self, node: Node) -> None:
        for name in filter(None, node.inputs):  # "" stands for an optional input left out
            self._users.setdefault(name, {})[node] = None

    def _forget_uses(self, node: Node) -> None:
        for name in node.inputs:
            self._users.get(name, {}).pop(node, None)
