"""Which values the rest of a graph still needs."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper

from normfold.export.adapt.liveness import alive_before

LOOP, SCAN = "Loop", "Scan"


def body(operator: str) -> NodeProto:
    """Return a node with a body that reads an input of its own, a value that it makes, and one from outside."""
    state = helper.make_tensor_value_info("state", TensorProto.DOUBLE, ["n", 4])
    after = helper.make_tensor_value_info("after", TensorProto.DOUBLE, ["n", 4])
    nodes = [
        helper.make_node("Add", ["state", "outer"], ["sum"]),
        helper.make_node("Relu", ["sum"], ["after"]),
    ]
    if operator == SCAN:
        row = helper.make_tensor_value_info("row", TensorProto.DOUBLE, ["n", 4])
        graph = helper.make_graph(nodes, "body", [state, row], [after])
        return helper.make_node("Scan", ["start", "rows"], ["looped"], body=graph, num_scan_inputs=1)
    number = helper.make_tensor_value_info("number", TensorProto.INT64, [])
    condition = helper.make_tensor_value_info("condition", TensorProto.BOOL, [])
    kept = helper.make_tensor_value_info("kept", TensorProto.BOOL, [])
    nodes.append(helper.make_node("Identity", ["condition"], ["kept"]))
    graph = helper.make_graph(nodes, "body", [number, condition, state], [kept, after])
    return helper.make_node("Loop", ["count", "", "start"], ["looped"], body=graph)


@pytest.mark.parametrize("operator", [LOOP, SCAN])
def test_values_of_a_body_are_not_alive_and_those_it_reads_from_outside_are(operator: str) -> None:
    nodes = [
        helper.make_node("BatchNormalization", ["x", "one", "zero", "zero", "one"], ["first"], name="first"),
        helper.make_node("Relu", ["x"], ["outer"]),
        helper.make_node("Neg", ["x"], ["start"]),
        body(operator),
        helper.make_node("BatchNormalization", ["looped", "one", "zero", "zero", "one"], ["y"], name="second"),
    ]
    constants = {
        "one": np.ones(4),
        "zero": np.zeros(4),
        "count": np.array(2),
        "rows": np.zeros((2, 3, 4)),
    }
    values = [helper.make_tensor_value_info(name, TensorProto.DOUBLE, ["n", 4]) for name in ("x", "y", "first")]
    tensors = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = ir.from_proto(helper.make_graph(nodes, "test", values[:1], values[1:], tensors))
    first, relu, negative, loop, second = graph

    assert [value.name for value in alive_before(first, [first, second])] == ["x"]
    assert {value.name for value in alive_before(loop, [loop, second])} == {"outer", "start"}
    assert {value.name for value in alive_before(negative, [relu, second])} == {"outer", "x"}
    assert [value.name for value in alive_before(second, [second])] == ["looped"]
