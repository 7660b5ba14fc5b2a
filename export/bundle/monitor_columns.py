"""Monitor the inputs of a table's network for drift, so that the columns that have moved can be named.

The moments of the inputs in training are known from the card, so that no row of training is needed. With

    u = x / sqrt(1 + EPSILON)       numbers, which are standardised
    u = x - p                       inputs that are 0 or 1, and 1 in a fraction p of the training rows

the variance of u in training is below 1; see `contract.drift.monitor.divergence`. An input of 0 and 1 is not divided by
its standard deviation: that of a rare category is near 0, and a window without it would have an endless score.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from normfold.contract.arrays import Float64Array
from normfold.contract.drift.monitor import MonitoredLayer
from normfold.contract.tables.columns import CategoryColumn, TableColumn
from normfold.contract.tables.preprocessing import TablePreprocessing
from normfold.export.graph.editor import Editor

EPSILON = 0.01
"""Keeps the score finite where a window holds one value, as of a column that is nearly constant."""


def monitor_columns(editor: Editor, table: TablePreprocessing) -> MonitoredLayer:
    """Append nodes that give u and u² of the only input, row by row.

    Args:
        editor: of the graph.
        table: of the card.
    """
    (given,) = editor.graph.inputs
    parts = [_moments(column) for column in table.columns]
    shift, factor, variances = (np.concatenate(part) for part in zip(*parts, strict=True))

    def add(op_type: str, what: str, *inputs: ir.Value) -> ir.Value:
        node = ir.node(op_type, list(inputs))
        node.name = editor.unused_name(f"{given.name}.{what}.{op_type.lower()}")
        result = node.outputs[0]
        result.name = editor.unused_name(f"{given.name}.{what}")
        result.shape, result.type = given.shape, ir.TensorType(ir.DataType.FLOAT)
        editor.graph.append(node)
        return result

    def constant(what: str, array: Float64Array) -> ir.Value:
        tensor = ir.Tensor(array.astype(np.float32)[None])
        return editor.add_initializer(tensor, editor.unused_name(f"{given.name}.{what}"))

    centred = add("Sub", "centred", given, constant("shift", shift))
    u = add("Mul", "means", centred, constant("factor", factor))
    squares = add("Mul", "squares", u, u)
    assert given.name is not None
    assert u.name is not None
    assert squares.name is not None
    return MonitoredLayer(
        node=given.name,
        means=u.name,
        squares=squares.name,
        variances=tuple(variances.tolist()),
        names=table.input_names,
    )


def _moments(column: TableColumn) -> tuple[Float64Array, Float64Array, Float64Array]:
    """Return what is subtracted from each input of a column, then its factor, and the variance of the result."""
    present = 1 - column.missing_fraction
    if isinstance(column, CategoryColumn):
        p, within = np.array(column.frequencies), present
        if column.missing != "mean":  # the inputs of a row without a value are 0
            p, within = p * present, 1.0
        if column.missing == "category":
            p = np.append(p, column.missing_fraction)
        return p, np.ones(len(p)), within * p * (1 - p)
    flags = np.array([column.missing_fraction] * column.indicator)
    factor = 1 / np.sqrt(1 + EPSILON)
    variance = 0.0 if column.constant else present * factor**2
    ones = np.ones(len(flags))
    return np.append(0.0, flags), np.append(factor, ones), np.append(variance, flags * (1 - flags))
