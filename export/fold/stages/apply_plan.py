"""Carry a plan out on the graph: replace constants, rename changed values, remove the node that became unnecessary.

Equal names in the source and the result mean equal content: a value whose content a plan changes gets another name.
"""

from __future__ import annotations

import onnx_ir as ir

from normfold.export.fold.plan import Plan
from normfold.export.graph.editor import Editor


def apply_backward(node: ir.Node, index: int, plan: Plan, editor: Editor) -> ir.Value:
    """Remove a node whose input number `index` now carries its output.

    Returns:
        The value that carries it, under the output's name.
    """
    name = node.outputs[0].name
    for edit in plan.edits:
        edit.apply(editor)
    source = node.inputs[index]
    assert source is not None  # the plan requires an affine on it
    for value in plan.required:
        if value is not source:
            editor.rename_changed(value)
    editor.bypass(node, source)
    source.name = name
    return source


def apply_forward(node: ir.Node, index: int, plan: Plan, editor: Editor) -> None:
    """Remove a node whose readers compensate for it, and read its input number `index`."""
    for edit in plan.edits:
        edit.apply(editor)
    for value in plan.removed:
        if value is not node.outputs[0]:
            editor.rename_changed(value)
    source = node.inputs[index]
    assert source is not None  # an affine's input is not optional
    editor.bypass(node, source)
