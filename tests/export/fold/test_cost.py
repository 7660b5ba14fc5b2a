"""The cost of rewrites, and the bytes that a node moves."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from normfold.export.fold.cost import NODE_BYTES, Cost, bytes_moved, bytes_of, is_no_slower


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (Cost(nodes=2, multiplications=10, bytes=100), Cost(1, 10, 100), True),
        (Cost(2, 10, 100), Cost(2, 5, 50), False),  # as many nodes: nothing stands in for what went
        (Cost(2, 10, 100), Cost(1, 11, 100), False),
        (Cost(2, 10, 100), Cost(1, 10, 100 + NODE_BYTES), True),
        (Cost(2, 10, 100), Cost(1, 10, 101 + NODE_BYTES), False),
        (Cost(3, 10, 100), Cost(1, 10, 100 + 2 * NODE_BYTES), True),
    ],
)
def test_rewrite_pays_by_nodes_multiplications_and_bytes(before: Cost, after: Cost, expected: bool) -> None:
    assert is_no_slower(before, after) == expected


def value(sizes: list[int | str] | None, dtype: ir.DataType = ir.DataType.FLOAT) -> ir.Value:
    return ir.Value(name="v", shape=None if sizes is None else ir.Shape(sizes), type=ir.TensorType(dtype))


@pytest.mark.parametrize(
    ("sizes", "dtype", "expected"),
    [
        (["n", 8, 4, 4], ir.DataType.FLOAT, 512),
        ([16, 8, 4, 4], ir.DataType.FLOAT, 512),
        ([16, 8, 4, 4], ir.DataType.FLOAT16, 256),
        (["n", 8, "height", 4], ir.DataType.FLOAT, 0),
        (None, ir.DataType.FLOAT, 0),
    ],
)
def test_a_value_counts_one_row(sizes: list[int | str] | None, dtype: ir.DataType, expected: int) -> None:
    assert bytes_of(value(sizes, dtype)) == expected


def test_a_node_moves_what_it_reads_and_writes() -> None:
    node = ir.Node("", "Add", [value(["n", 8]), None, value([4, 8])])
    node.outputs[0].shape, node.outputs[0].type = ir.Shape(["n", 8]), ir.TensorType(ir.DataType.FLOAT)

    assert bytes_moved(node) == 3 * 8 * 4
