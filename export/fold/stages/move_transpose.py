"""Move a Transpose in front of elementwise nodes, so that they work on the layout behind it.

    source ─▶ Mul ─▶ Add ─▶ Relu ─▶ Transpose ─▶      becomes      source ─▶ Transpose ─▶ Mul ─▶ Add ─▶ Relu ─▶

Keras writes such a Transpose in front of each convolution, and its affines on the last axis.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from normfold.export.graph.editor import Editor
from normfold.export.graph.nodes import sole_reader

ACTIVATIONS = frozenset(
    {"Celu", "Elu", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu", "Mish", "Relu", "Selu", "Sigmoid", "Softplus"}
    | {"Softsign", "Tanh", "ThresholdedRelu"}
)
"""Operators with one input that compute each element by itself."""


@dataclass(frozen=True, eq=False)
class TransposeBehind:
    """A Transpose, and the activations between a value and it; each value between has one reader.

    Attributes:
        value: that the first activation reads, or the Transpose.
        activations: in order.
        node: the Transpose.
        perm: its permutation.
    """

    value: ir.Value
    activations: Sequence[ir.Node]
    node: ir.Node
    perm: Sequence[int]

    def move_ahead(self, source: ir.Value, editor: Editor) -> ir.Value:
        """Put the Transpose right behind `source`, in front of everything that leads from there to `value`.

        The values between have the permuted shape then, and other names, since their content is permuted. What reads
        the result reads the last of them.

        Args:
            source: of the shape of `value`.
            editor: of the graph.

        Returns:
            The transposed `source`, which nothing reads yet.
        """
        result, last = self.node.outputs[0], self.node.inputs[0]
        assert last is not None  # `transpose_behind` has followed it
        first_reader = self.value.producer()
        assert first_reader is not None
        shape, name = result.shape, result.name
        editor.replace(result, last)
        self.node.replace_input_with(0, source)
        for value in (self.value, *(node.outputs[0] for node in self.activations)):
            value.shape = shape
            if value is not last:
                editor.rename_changed(value)
        last.name, result.name = name, editor.unused_name(f"{source.name}.transposed")
        editor.graph.remove(self.node)
        editor.graph.insert_before(first_reader, self.node)
        return result


def transpose_behind(value: ir.Value) -> TransposeBehind | None:
    """Return the Transpose that a value leads to through activations alone; None if there is none."""
    activations: list[ir.Node] = []
    reader = sole_reader(value)
    while reader is not None and reader.op_type in ACTIVATIONS and reader.domain == "":
        activations.append(reader)
        reader = sole_reader(reader.outputs[0])
    if reader is None or reader.op_type != "Transpose" or reader.domain != "":
        return None
    if "perm" not in reader.attributes:
        return None
    return TransposeBehind(value, activations, reader, reader.attributes["perm"].as_ints())
