"""Join what no layer takes: a Mul and an Add of constant vectors, one behind the other, become one BatchNormalization.

    g * x + h  =  scale * (x - 0) / sqrt(variance + epsilon) + h        scale = g * sqrt(variance + epsilon)

It is one node instead of two or more, and ONNX Runtime takes it, with a Relu behind it, into the blocked layout of the
convolutions around it. Where the channels are on axis 1 behind a Transpose alone, that goes ahead (see
`move_transpose`). Variance and epsilon are those of `batchnorm_parameters.is_canonical`, by which such a node is
recognised.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from normfold.export.arrays import Array
from normfold.export.fold.batchnorm_parameters import CANONICAL_EPSILON, canonical_variance
from normfold.export.fold.cost import Cost, bytes_moved, bytes_of, is_no_slower
from normfold.export.fold.edits import Rewrite
from normfold.export.fold.elementwise import Elementwise, is_layernorm_affine, read_elementwise
from normfold.export.fold.stages.move_transpose import TransposeBehind, transpose_behind
from normfold.export.fold.state import FoldState
from normfold.export.graph.constants import DerivedConstant, is_constant
from normfold.export.graph.editor import Editor
from normfold.export.graph.nodes import node_label, opset_of, sole_reader
from normfold.export.graph.shapes import rank_of, static_size

_DTYPES = frozenset({ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16})
"""That BatchNormalization allows; bfloat16 from opset 14."""


@dataclass(frozen=True, eq=False)
class _Chain:
    """Elementwise nodes in a row, the first of which reads `source`, and their affine per channel: vectors (C,).

    Channels are on axis 1, behind `transpose` if there is one.
    """

    nodes: tuple[ir.Node, ...]
    source: ir.Value
    gain: Array
    offset: Array
    transpose: TransposeBehind | None = None


def join_affines(state: FoldState, editor: Editor) -> bool:
    """Make one BatchNormalization of each Mul and Add in a row, in one graph, where that runs no slower.

    Args:
        state: of the fold, in whose graph nothing folds any more.
        editor: of the graph.

    Returns:
        Whether there were any.
    """
    joined = False
    for last in reversed(list(editor.graph)):
        if last.graph is None:
            continue  # it was in a chain
        chain = next(filter(_may_become_batchnorm, _read_chains(last)), None)
        if chain is None:
            continue
        edit = _batchnorm(chain)
        if not _is_no_slower(chain, edit) or not all(constant.fits for constant in edit.new_constants):
            continue
        for node in chain.nodes:
            state.forget_outputs(node)
        _apply(chain, edit, editor)
        joined = True
    return joined


def _apply(chain: _Chain, edit: Rewrite, editor: Editor) -> None:
    """Make the last node of a chain the BatchNormalization, and remove the others with their constants."""
    last, operands = chain.nodes[-1], [value for node in chain.nodes for value in node.inputs]
    source = chain.source if chain.transpose is None else chain.transpose.move_ahead(chain.source, editor)
    last.resize_inputs(1)
    last.replace_input_with(0, source)
    edit.apply(editor)
    editor.graph.remove(chain.nodes[:-1], safe=True)
    for value in operands:
        editor.remove_unread(value)


def _read_chains(last: ir.Node) -> Iterator[_Chain]:
    """Yield the longest chains that end in a node and are affines per channel: as it is, and behind a Transpose."""
    if (chain := _read_chain(last, 1)) is not None:
        yield chain
    transpose = transpose_behind(last.outputs[0])
    if transpose is None or len(transpose.perm) < 2 or transpose.perm[1] == 1:
        return
    if (chain := _read_chain(last, transpose.perm[1])) is not None:
        yield replace(chain, transpose=transpose)


def _read_chain(last: ir.Node, axis: int) -> _Chain | None:
    """Return the longest chain that ends in a node and is an affine along an axis."""
    read = read_elementwise(last, scalars=True)
    channels = static_size(read.source, axis) if read is not None else None
    if read is None or channels is None:
        return None
    nodes, gain, offset = [], np.ones(channels), np.zeros(channels)
    source = read.source
    while read is not None and (vectors := read.affine.along(axis, channels)) is not None:
        gain, offset = gain * vectors[0], gain * vectors[1] + offset
        nodes.append(read.node)
        source = read.source
        read = _before(read)
    return _Chain(tuple(reversed(nodes)), source, gain, offset)


def _before(read: Elementwise) -> Elementwise | None:
    """Return the affine before one, if that one alone reads it."""
    producer = read.source.producer()
    if producer is None or sole_reader(read.source) is not read.node:
        return None
    return read_elementwise(producer, scalars=True)


def _may_become_batchnorm(chain: _Chain) -> bool:
    """Return whether a chain has a gain and an offset, in vectors, and is in no pattern that runtimes recognise."""
    if len(chain.nodes) < 2:
        return False
    last, rank, dtype = chain.nodes[-1], rank_of(chain.source), chain.source.dtype
    is_allowed = dtype in _DTYPES or (dtype == ir.DataType.BFLOAT16 and opset_of(last) >= 14)
    is_vector = any(read_elementwise(node) is not None for node in chain.nodes)
    does_both = bool(np.any(chain.gain != 1)) and bool(np.any(chain.offset))
    if rank is None or rank < 2 or not is_allowed or not is_vector or not does_both:
        return False
    return not is_layernorm_affine(last) and not _is_of_attention(chain)


def _is_of_attention(chain: _Chain) -> bool:
    """Return whether a chain scales and masks a product of two activations, or what a Softmax reads."""
    producer, reader = chain.source.producer(), sole_reader(chain.nodes[-1].outputs[0])
    is_product = producer is not None and producer.op_type == "MatMul" and not any(map(is_constant, producer.inputs))
    return is_product or (reader is not None and reader.op_type == "Softmax")


def _batchnorm(chain: _Chain) -> Rewrite:
    """Return the last node of a chain as a BatchNormalization."""
    node, dtype, channels = chain.nodes[-1], chain.source.dtype, chain.gain.size
    assert dtype is not None  # `_may_become_batchnorm`
    variance = canonical_variance(dtype)
    vectors = {
        "scale": chain.gain * np.sqrt(variance + CANONICAL_EPSILON),
        "shift": chain.offset,
        "mean": np.zeros(channels),
        "variance": np.full(channels, variance),
    }
    constants = {
        index: DerivedConstant(f"{node_label(node)}.{role}", (channels,), dtype, vector.copy)
        for index, (role, vector) in enumerate(vectors.items(), start=1)
    }
    return Rewrite(node, constants, "BatchNormalization", {"epsilon": CANONICAL_EPSILON})


def _is_no_slower(chain: _Chain, edit: Rewrite) -> bool:
    constants = sum(constant.nbytes for constant in edit.new_constants)
    after = bytes_of(chain.source) + bytes_of(chain.nodes[-1].outputs[0]) + constants
    return is_no_slower(Cost(len(chain.nodes), 0, sum(map(bytes_moved, chain.nodes))), Cost(1, 0, after))
