"""The pieces of a graph that is open for rewriting."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from onnx import AttributeProto, ValueInfoProto, helper

CONTROL_FLOW = frozenset({"If", "Loop", "Scan"})
# Values of random operators differ from one node to its twin.
RANDOM = frozenset(
    {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform"}
    | {"RandomUniformLike"}
)


@dataclass(eq=False)
class Node:
    """One operator. `bodies` holds its graph attributes (the body of a Loop)."""

    op_type: str
    inputs: list[str]
    outputs: list[str]
    attributes: dict[str, AttributeProto] = field(default_factory=dict)
    bodies: dict[str, Region] = field(default_factory=dict)
    domain: str = ""

    def attribute(self, name: str, default: Any = None) -> Any:
        """The Python value of an attribute, or `default` where the node has none."""
        found = self.attributes.get(name)
        return default if found is None else helper.get_attribute_value(found)


@dataclass(eq=False)
class Region:
    """The top graph, or a body: nodes in order, declared inputs and outputs, returned values."""

    inputs: list[ValueInfoProto]
    outputs: list[ValueInfoProto]
    results: list[str]
    nodes: list[Node] = field(default_factory=list)
    parent: Region | None = None
    owner: Node | None = None
