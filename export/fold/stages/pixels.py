"""The stage that makes a model take 8-bit pixels."""

from __future__ import annotations

import onnx_ir as ir

from normfold.contract.preprocess import ImagePreprocessing
from normfold.export.errors import PixelError
from normfold.export.fold.elementwise import read_elementwise
from normfold.export.fold.state import FoldState
from normfold.export.graph.constants import FLOATS
from normfold.export.graph.editor import Editor
from normfold.export.graph.pixels import PixelInput, Pixels
from normfold.export.graph.shapes import Sizes, sizes_of


def take_pixels(state: FoldState) -> bool:
    """Make the model's one input 8-bit pixels, if the options ask for it.

    The input is that of standardised images, float, channels on axis 1; or of pixels as floats, where the model
    begins with arithmetic on constants that standardises them.

    Requires: shapes and constants known.
    Ensures: the input is uint8, and what standardises it follows it, as Cast, Add and Mul; `state.report.input`
        names those nodes. Without the option the model is as it was.

    Raises:
        PixelError: the model has several inputs, or no such input; or nothing says how pixels are standardised.
    """
    if state.options.pixels is None:
        return False
    state.report.input = _take_pixels(state.model, state.options.pixels.preprocessing)
    return True


def _take_pixels(model: ir.Model, preprocessing: ImagePreprocessing | None) -> PixelInput:
    inputs = [value for value in model.graph.inputs if not value.is_initializer()]
    if len(inputs) != 1:
        raise PixelError(f"A model that takes pixels has one input; this one has {[value.name for value in inputs]}.")
    value, sizes = inputs[0], sizes_of(inputs[0])
    if value.dtype == ir.DataType.UINT8:
        raise PixelError(f"The input {value.name!r} takes 8-bit pixels already.")
    if value.dtype not in FLOATS or sizes is None or len(sizes) < 3:
        raise PixelError(f"The input {value.name!r} is not a float image, so it cannot take pixels instead.")
    if value.is_graph_output() or not value.uses():
        raise PixelError(f"The input {value.name!r} is read by nothing, or is an output too: its type must stay.")
    if preprocessing is not None:
        _check_layout(value, sizes, preprocessing.channels)
    pixels, editor = Pixels.of(preprocessing), Editor(model.graph)
    own = _own_arithmetic(value)
    if preprocessing is None and not own:
        raise PixelError(
            f"Nothing says how pixels become the input {value.name!r}: give `card`, a file with the "
            "preprocessing, or a model that begins with its own."
        )
    front = _front(value, pixels if preprocessing is not None else None, editor)
    return PixelInput(value.name or "", pixels, (*front, *own))


def _check_layout(value: ir.Value, sizes: Sizes, channels: int) -> None:
    """Check that an input is (rows, channels, height, width), as the card's images are."""
    given = f"the input {value.name!r} is {list(sizes)}"
    named = f"The card's images have {channels} channels, on axis 1 of four; {given}"
    if len(sizes) != 4 or (isinstance(sizes[1], int) and sizes[1] != channels):
        raise PixelError(f"{named}.")
    if not isinstance(sizes[1], int) and sizes[3] == channels:
        raise PixelError(f"{named}, with the channels last.")


def _own_arithmetic(value: ir.Value) -> list[ir.Node]:
    """Return the nodes after a value, one after the other, that are affines by constants."""
    found = []
    while len(uses := list(value.uses())) == 1 and read_elementwise(uses[0].node, scalars=True) is not None:
        found.append(uses[0].node)
        value = uses[0].node.outputs[0]
    return found


def _front(value: ir.Value, pixels: Pixels | None, editor: Editor) -> list[ir.Node]:
    """Make the input uint8, and put a Cast after it; with `pixels`, an Add and a Mul too, which are returned."""
    graph, dtype, readers = editor.graph, value.dtype, list(value.uses())
    assert dtype is not None  # a float
    nodes = [
        ir.Node("", "Cast", [value], [ir.AttrInt64("to", dtype.value)], name=editor.unused_name(f"{value.name}.cast"))
    ]
    if pixels is not None:
        rank = len(sizes_of(value) or ())
        for op_type, array in (("Add", pixels.offset / pixels.gain), ("Mul", pixels.gain)):
            constant = ir.Tensor(array.reshape(1, -1, *[1] * (rank - 2)).astype(dtype.numpy()), dtype=dtype)
            name = editor.unused_name(f"{value.name}.{op_type.lower()}")
            operand = editor.add_initializer(constant, f"{name}.constant")
            nodes.append(ir.Node("", op_type, [nodes[-1].outputs[0], operand], name=name))
    for node in nodes:
        result = node.outputs[0]
        result.name, result.shape, result.type = editor.unused_name(f"{node.name}.out"), value.shape, value.type
    value.type = ir.TensorType(ir.DataType.UINT8)
    for reader, index in readers:
        reader.replace_input_with(index, nodes[-1].outputs[0])
    first = next(iter(graph))
    graph.insert_before(first, nodes)
    return nodes[1:]
