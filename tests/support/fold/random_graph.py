"""A graph of any operators that grows, for tests of hypothesis."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from onnx import NodeProto, helper

Shape = tuple[int, int, int]
"""Channels, height and width."""


@dataclass
class Graph:
    """A graph that grows: values are (name, shape without the batch axis), all of rank 4."""

    rng: np.random.Generator
    nodes: list[NodeProto] = field(default_factory=list)
    constants: dict[str, Any] = field(default_factory=dict)
    values: list[tuple[str, Shape]] = field(default_factory=lambda: [("x", (4, 6, 6))])

    def add(self, op_type: str, inputs: list[str], shape: Shape, **attributes: Any) -> str:
        """Append a node with one output."""
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, inputs, [name], name=f"{op_type}_{len(self.nodes)}", **attributes))
        self.values.append((name, shape))
        return name

    def constant(self, array: Any) -> str:
        """Add an initializer."""
        name = f"c{len(self.constants)}"
        self.constants[name] = np.asarray(array)
        return name


def with_size(shape: Shape, axis: int, size: int) -> Shape:
    """Return a shape with another size on one axis, counted with the batch."""
    sizes = [size if place == axis else length for place, length in enumerate(shape, start=1)]
    return sizes[0], sizes[1], sizes[2]
