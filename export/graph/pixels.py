"""A network that takes 8-bit pixels: the standardisation of its input goes into its first layers.

    before   x = (p / 255 - mean) / std, computed by the caller as the card says
    after    p, uint8, 0 to 255, and in front Cast, Add and Mul, which the fold takes like any affine

Of those three the fold leaves the Cast, and the Add where the first Conv pads with zeros: they stand for x = 0, not for
p = 0, so the mean must go before. A network that begins with such arithmetic of its own gets the Cast alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from normfold.contract.preprocess import ImagePreprocessing, Preprocessing
from normfold.export.errors import PixelError
from normfold.export.fold.affine import Array
from normfold.export.fold.editor import Editor
from normfold.export.fold.elementwise import read_elementwise
from normfold.export.graph.constants import FLOATS
from normfold.export.graph.shapes import Sizes, sizes_of
from normfold.export.verify.runner import Tensor

FULL = 255.0
"""The pixel of full intensity."""


@dataclass(frozen=True, eq=False)
class Pixels:
    """How 8-bit pixels become what the network took before: x = gain * p + offset, arrays of shape (C, 1, 1) or ()."""

    gain: Array
    offset: Array

    @staticmethod
    def of(preprocessing: ImagePreprocessing | None) -> Pixels:
        """Return the standardisation of a card; without one, the network takes pixels already, as floats."""
        if preprocessing is None:
            return Pixels(np.ones(()), np.zeros(()))
        mean, std = (np.array(values).reshape(-1, 1, 1) for values in (preprocessing.mean, preprocessing.std))
        return Pixels(1 / (FULL * std), -mean / std)

    def standardised(self, pixels: Tensor, dtype: ir.DataType) -> Tensor:
        """Return what the network took before: computed in float64, rounded once to `dtype`."""
        tensor: Tensor = (self.gain * pixels.astype(np.float64) + self.offset).astype(dtype.numpy())
        return tensor

    def pixels_of(self, tensor: Tensor) -> Tensor:
        """Return the pixels, uint8, of what the network took before: rounded to the nearest, and cut to 0 to 255."""
        pixels: Tensor = np.clip(np.rint((tensor - self.offset) / self.gain), 0, FULL).astype(np.uint8)
        return pixels


@dataclass(frozen=True)
class FromPixels:
    """The wish that a model take pixels, and the preprocessing that its card has, if any."""

    preprocessing: ImagePreprocessing | None = None


def from_pixels(preprocessing: Preprocessing | None) -> FromPixels:
    """Return the wish for a card's preprocessing.

    Raises:
        PixelError: it is of rows or sequences.
    """
    if preprocessing is not None and not isinstance(preprocessing, ImagePreprocessing):
        kind = {"row": "rows of a table", "sequence": "sequences"}[preprocessing.kind]
        raise PixelError(f"The card's preprocessing is of {kind}; only pictures are made of pixels.")
    return FromPixels(preprocessing)


@dataclass(frozen=True)
class PixelInput:
    """What a model's input became: its name, how pixels were standardised, and the nodes that did it."""

    name: str
    pixels: Pixels
    nodes: tuple[ir.Node, ...]

    @property
    def left(self) -> tuple[str, ...]:
        """Operators of those nodes that are still in the graph, the Cast apart."""
        return tuple(node.op_type for node in self.nodes if node.graph is not None)

    def to_dict(self) -> dict[str, Any]:
        """Return plain types for JSON."""
        return {"name": self.name, "datatype": "UINT8", "left": list(self.left)}


def take_pixels(model: ir.Model, preprocessing: ImagePreprocessing | None) -> PixelInput:
    """Make a model's one input 8-bit pixels, in place; shapes and constants should be known.

    Args:
        model: takes standardised pictures, float, channels on axis 1; or pixels as floats, and begins with arithmetic
            on constants that standardises them.
        preprocessing: of its card.

    Raises:
        PixelError: it has several inputs, or no such input; or nobody says how pixels are standardised.
    """
    inputs = [value for value in model.graph.inputs if not value.is_initializer()]
    if len(inputs) != 1:
        raise PixelError(f"A model that takes pixels has one input; this one has {[value.name for value in inputs]}.")
    value, sizes = inputs[0], sizes_of(inputs[0])
    if value.dtype == ir.DataType.UINT8:
        raise PixelError(f"The input {value.name!r} takes 8-bit pixels already.")
    if value.dtype not in FLOATS or sizes is None or len(sizes) < 3:
        raise PixelError(f"The input {value.name!r} is no picture of floats, so it cannot take pixels instead.")
    if value.is_graph_output() or not value.uses():
        raise PixelError(f"The input {value.name!r} is read by nothing, or is an output too: its type must stay.")
    if preprocessing is not None:
        _check_layout(value, sizes, preprocessing.channels)
    pixels, editor = Pixels.of(preprocessing), Editor(model.graph)
    own = _own_arithmetic(value)
    if preprocessing is None and not own:
        raise PixelError(
            f"Nothing says how pixels become the input {value.name!r}: give a card with the preprocessing "
            "(--card FILE), or a model that begins with its own."
        )
    front = _front(value, pixels if preprocessing is not None else None, editor)
    return PixelInput(value.name or "", pixels, (*front, *own))


def _check_layout(value: ir.Value, sizes: Sizes, channels: int) -> None:
    """Check that an input is (rows, channels, height, width), as the card's pictures are."""
    given = f"the input {value.name!r} is {list(sizes)}"
    named = f"The card's pictures have {channels} channels, on axis 1 of four; {given}"
    if len(sizes) != 4 or (isinstance(sizes[1], int) and sizes[1] != channels):
        raise PixelError(f"{named}.")
    if not isinstance(sizes[1], int) and sizes[3] == channels:
        raise PixelError(f"{named}, with the channels last.")


def _own_arithmetic(value: ir.Value) -> list[ir.Node]:
    """Return the nodes behind a value, one after the other, that are affines by constants."""
    found = []
    while len(uses := list(value.uses())) == 1 and read_elementwise(uses[0].node, scalars=True) is not None:
        found.append(uses[0].node)
        value = uses[0].node.outputs[0]
    return found


def _front(value: ir.Value, pixels: Pixels | None, editor: Editor) -> list[ir.Node]:
    """Make the input uint8, and put a Cast behind it; with `pixels`, an Add and a Mul too, which are returned."""
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
