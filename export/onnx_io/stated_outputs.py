"""Sizes that a file states for its outputs, written where inference does not find them again.

Files are made dynamic by changing their inputs alone. So the sizes of outputs are inferred anew, and those of the file
count for nothing until the model is written.
"""

from __future__ import annotations

import onnx_ir as ir

_KEY = "stated_outputs"
"""In the metadata, in memory, of a model: the shapes that its file states for its outputs, by name."""


def forget_stated_sizes(model: ir.Model) -> None:
    """Keep the ranks of a model's outputs and the names of their axes alone, in place; the file's are remembered."""
    stated = {value.name: value.shape for value in model.graph.outputs if value.shape is not None}
    model.meta[_KEY] = {**stated, **model.meta.get(_KEY, {})}
    for value in model.graph.outputs:
        if value.shape is not None and value.producer() is not None:
            value.shape = ir.Shape([None if isinstance(size, int) else size for size in value.shape])


def restore_stated_sizes(model: ir.Model) -> None:
    """Give outputs the sizes that the file states for them, in place, where none were found."""
    for value in model.graph.outputs:
        stated = model.meta.get(_KEY, {}).get(value.name)
        if stated is None:
            continue
        if value.shape is None:
            value.shape = stated
        elif len(value.shape) == len(stated):
            pairs = zip(value.shape, stated, strict=True)
            value.shape = ir.Shape([other if _is_unknown(size) else size for size, other in pairs])


def drop_made_up_names(model: ir.Model) -> None:
    """Free the sizes that onnx's inference named, in place: it numbers them anew each time, and they say nothing.

    Names that an input has too stay.
    """
    stated = {size for value in model.graph.inputs for size in value.shape or ()}
    for node in model.graph:
        for value in node.outputs:
            sizes = [None if size not in stated and _is_unknown(size) else size for size in value.shape or ()]
            if value.shape is not None and sizes != [*value.shape]:
                value.shape = ir.Shape(sizes)


def _is_unknown(size: int | ir.SymbolicDim) -> bool:
    """Return whether a size is neither a number nor a name of the file's; onnx's inference makes up names."""
    return not isinstance(size, int) and (size.value is None or size.value.startswith("unk__"))
