"""Random graphs out of all operators: folded and merged, they compute in float64 what they did. Folded again they stay.

Hundreds run with the tests; `make fuzz` runs many more (the profile is chosen by HYPOTHESIS_PROFILE, see conftest.py).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import NodeProto, TensorProto, helper

from normfold.export.adapt.samples import Samples
from normfold.export.errors import NotAdaptableError, UnfoldError
from normfold.export.unfold.with_samples import unfold_with_samples
from tests.support.onnx_models import (
    all_operators,
    assert_same,
    assert_same_weights,
    batchnorm,
    folded,
    model,
    statistics,
)

OPSET = 18


@dataclass
class Graph:
    """A graph that grows: values are (name, shape without the batch axis), all of rank 4."""

    rng: np.random.Generator
    nodes: list[NodeProto] = field(default_factory=list)
    constants: dict[str, Any] = field(default_factory=dict)
    values: list[tuple[str, tuple[int, int, int]]] = field(default_factory=lambda: [("x", (4, 6, 6))])

    def add(self, op_type: str, inputs: list[str], shape: tuple[int, int, int], **attributes: Any) -> str:
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


def grow_batchnorm(graph: Graph, data: st.DataObject, value: str, shape: tuple[int, int, int]) -> None:
    name = f"bn{len(graph.nodes)}"
    made = statistics(graph.rng, shape[0], name)
    if data.draw(st.booleans(), "no negative gain, no offset"):
        made[f"{name}.scale"] = np.abs(made[f"{name}.scale"]) + data.draw(st.sampled_from([0, 0.1]), "least gain")
        made[f"{name}.mean"] = made[f"{name}.shift"] = np.zeros(shape[0])
    graph.constants |= made
    graph.nodes.append(batchnorm(value, f"v{len(graph.nodes)}", name))
    graph.values.append((graph.nodes[-1].output[0], shape))


def grow_conv(graph: Graph, data: st.DataObject, value: str, shape: tuple[int, int, int]) -> None:
    channels, height, width = shape
    group = data.draw(st.sampled_from([1, 1, 2, channels]), "group")
    group = group if channels % group == 0 else 1
    kernel = data.draw(st.integers(1, 3), "kernel")
    stride, dilation = data.draw(st.sampled_from([(1, 1), (1, 1), (2, 1), (1, 2)]), "stride and dilation")
    pads = data.draw(st.sampled_from([[0] * 4, [0] * 4, [kernel // 2] * 4, [0, 1, 1, 2]]), "pads")
    reach = dilation * (kernel - 1) + 1
    slack = [length + pads[axis] + pads[axis + 2] - reach for axis, length in enumerate((height, width))]
    if min(slack) < 0:
        return
    outputs = data.draw(st.sampled_from([channels, 2 * group]), "outputs")
    weight = graph.constant(graph.rng.normal(size=(outputs, channels // group, kernel, kernel)) / channels)
    bias = [graph.constant(graph.rng.normal(size=outputs))] if data.draw(st.booleans(), "bias") else []
    size = (outputs, *(length // stride + 1 for length in slack))
    windows = {"pads": pads, "strides": [stride] * 2, "dilations": [dilation] * 2}
    graph.add("Conv", [value, weight, *bias], size, group=group, **windows)


def grow_sum(graph: Graph, data: st.DataObject, value: str, shape: tuple[int, int, int]) -> None:
    others = [name for name, other in graph.values if other == shape]
    other = data.draw(st.sampled_from(others), "other operand")
    graph.add(data.draw(st.sampled_from(["Add", "Sub", "Mul", "Mean"]), "operator"), [value, other], shape)


def grow_chosen(graph: Graph, data: st.DataObject, value: str, shape: tuple[int, int, int]) -> None:
    """Elements of one of several branches, some of them constants."""
    others = [name for name, other in graph.values if other == shape]
    op_type = data.draw(st.sampled_from(["Where", "Max", "Min", "Sum", "Mean"]), "operator")
    branches = [value, data.draw(st.sampled_from(others), "other branch")]
    if data.draw(st.booleans(), "constant"):
        size: tuple[int, ...] = data.draw(st.sampled_from([(), (shape[0], 1, 1), (1, *shape)]), "size")
        first = op_type != "Mean" and data.draw(st.booleans(), "constant first")  # the evaluator adds to the first
        branches[0 if first else 1] = graph.constant(graph.rng.normal(size=size))
    if op_type == "Where":
        mask = graph.constant(graph.rng.random((shape[1], shape[2])) < 0.5)
        graph.add("Where", [mask, *branches], shape)
    else:
        graph.add(op_type, [*branches, value] if data.draw(st.booleans(), "three") else branches, shape)


def grow_constant(graph: Graph, data: st.DataObject, value: str, shape: tuple[int, int, int]) -> None:
    op_type = data.draw(st.sampled_from(["Add", "Sub", "Mul", "Div"]), "operator")
    sizes = [(), (1,), (shape[0], 1, 1), (1, shape[0], 1, 1), (shape[2],), (1, *shape), (shape[0], shape[1], 1)]
    size = data.draw(st.sampled_from(sizes), "size")
    numbers = graph.constant(graph.rng.uniform(0.5, 2, size=size))
    first = op_type != "Div" and data.draw(st.booleans(), "constant first")
    graph.add(op_type, [numbers, value] if first else [value, numbers], shape)


def grow_simple(graph: Graph, data: st.DataObject, value: str, shape: tuple[int, int, int]) -> None:
    op_type = data.draw(st.sampled_from(["Relu", "LeakyRelu", "Tanh", "Identity", "Dropout", "Neg", "Abs"]), "operator")
    if data.draw(st.integers(0, 4), "Clip") == 0:
        graph.add("Clip", [value, graph.constant(0.0)], shape)
        return
    graph.add(op_type, [value], shape)


def grow_pool(graph: Graph, data: st.DataObject, value: str, shape: tuple[int, int, int]) -> None:
    op_type = data.draw(st.sampled_from(["AveragePool", "MaxPool", "GlobalAveragePool"]), "operator")
    if op_type == "GlobalAveragePool":
        graph.add(op_type, [value], (shape[0], 1, 1))
        return
    counted = {"count_include_pad": data.draw(st.integers(0, 1), "counted")} if op_type == "AveragePool" else {}
    pad = data.draw(st.integers(0, 1), "pad")
    if min(shape[1:]) + 2 * pad < 3:
        return
    size = (shape[0], shape[1] + 2 * pad - 2, shape[2] + 2 * pad - 2)
    graph.add(op_type, [value], size, kernel_shape=[3, 3], pads=[pad] * 4, **counted)


def grow_reduced(graph: Graph, data: st.DataObject, value: str, shape: tuple[int, int, int]) -> None:
    op_type = data.draw(st.sampled_from(["ReduceMean", "ReduceMax", "ReduceSum", "ReduceMin"]), "operator")
    axes = data.draw(st.sampled_from([[2, 3], [-1], [2]]), "axes")
    size = tuple(1 if axis + 1 in [one % 4 for one in axes] else length for axis, length in enumerate(shape))
    graph.add(op_type, [value, graph.constant(np.array(axes))], (size[0], size[1], size[2]))


def grow_concat(graph: Graph, data: st.DataObject, value: str, shape: tuple[int, int, int]) -> None:
    if data.draw(st.integers(0, 3), "with a constant") == 0:
        constant = graph.constant(graph.rng.normal(size=(2, shape[0], 2, shape[2])))
        graph.add("Concat", [value, constant], (shape[0], shape[1] + 2, shape[2]), axis=2)
        return
    others = [(name, other[0]) for name, other in graph.values if other[1:] == shape[1:] and other[0] <= 8]
    other, channels = data.draw(st.sampled_from(others), "other") if others else (value, shape[0])
    if channels + shape[0] <= 12:
        graph.add("Concat", [value, other], (channels + shape[0], *shape[1:]), axis=data.draw(st.sampled_from([1, -3])))


def grow_split(graph: Graph, data: st.DataObject, value: str, shape: tuple[int, int, int]) -> None:
    if shape[0] < 2:
        return
    first = data.draw(st.integers(1, shape[0] - 1), "first part")
    sizes = graph.constant(np.array([first, shape[0] - first]))
    names = [f"v{len(graph.nodes)}", f"v{len(graph.nodes)}.rest"]
    graph.nodes.append(helper.make_node("Split", [value, sizes], names, axis=1))
    graph.values += [(names[0], (first, *shape[1:])), (names[1], (shape[0] - first, *shape[1:]))]


def grow_slice(graph: Graph, data: st.DataObject, value: str, shape: tuple[int, int, int]) -> None:
    if shape[0] < 2:
        return
    first = data.draw(st.integers(0, shape[0] - 1), "start")
    numbers = [graph.constant(np.array([number])) for number in (first, shape[0], 1)]
    graph.add("Slice", [value, *numbers], (shape[0] - first, *shape[1:]))


def grow_gathered(graph: Graph, data: st.DataObject, value: str, shape: tuple[int, int, int]) -> None:
    axis = data.draw(st.integers(1, 3), "axis")
    if data.draw(st.booleans(), "drops the axis"):
        index = graph.constant(np.array(data.draw(st.integers(-shape[axis - 1], shape[axis - 1] - 1), "index")))
        part = graph.add("Gather", [value, index], shape, axis=axis)
        graph.values.pop()
        graph.add("Unsqueeze", [part, graph.constant(np.array([axis]))], changed(shape, axis, 1))
        return
    indices = data.draw(st.lists(st.integers(0, shape[axis - 1] - 1), min_size=1, max_size=6), "indices")
    graph.add("Gather", [value, graph.constant(np.array(indices))], changed(shape, axis, len(indices)), axis=axis)


def grow_tiled(graph: Graph, data: st.DataObject, value: str, shape: tuple[int, int, int]) -> None:
    axis = data.draw(st.integers(1, 3), "axis")
    if shape[axis - 1] > 6:
        return
    repeats = np.ones(4, np.int64)
    repeats[axis] = 2
    graph.add("Tile", [value, graph.constant(repeats)], changed(shape, axis, 2 * shape[axis - 1]))


def grow_sampled(graph: Graph, data: st.DataObject, value: str, shape: tuple[int, int, int]) -> None:
    """The evaluator's weights for other modes are float32's, which add up to one only nearly."""
    grid = graph.constant(graph.rng.uniform(-1.3, 1.3, size=(2, 4, 4, 2)))
    border = data.draw(st.sampled_from(["zeros", "border", "reflection"]), "border")
    graph.add("GridSample", [value, grid], (shape[0], 4, 4), mode="nearest", padding_mode=border)


def changed(shape: tuple[int, int, int], axis: int, size: int) -> tuple[int, int, int]:
    """Return a shape with another size on one axis, counted with the batch."""
    sizes = [size if place == axis else length for place, length in enumerate(shape, start=1)]
    return sizes[0], sizes[1], sizes[2]


def grow_moved(graph: Graph, data: st.DataObject, value: str, shape: tuple[int, int, int]) -> None:
    """Take the axes apart and put them together again, something in between."""
    channels, height, width = shape
    if data.draw(st.booleans(), "by Reshape"):
        flat = graph.add("Reshape", [value, graph.constant(np.array([0, channels, -1]))], shape)
        graph.values.pop()
        graph.add("Reshape", [flat, graph.constant(np.array([-1, channels, height, width]))], shape)
        return
    turned = graph.add("Transpose", [value], shape, perm=[0, 2, 3, 1])
    graph.values.pop()
    if data.draw(st.booleans(), "MatMul between"):
        weight = graph.constant(graph.rng.normal(size=(channels, 4)) / channels)
        turned, channels = graph.add("MatMul", [turned, weight], shape), 4
        graph.values.pop()
    graph.add("Transpose", [turned], (channels, height, width), perm=[0, 3, 1, 2])


def grow_padded(graph: Graph, data: st.DataObject, value: str, shape: tuple[int, int, int]) -> None:
    mode = data.draw(st.sampled_from(["constant", "edge", "reflect"]), "mode")
    if min(shape[1:]) < 2 or max(shape[1:]) > 8:
        return
    cropped = data.draw(st.integers(0, min(1, shape[0] - 1)), "channels cropped")
    pad = data.draw(st.sampled_from([-1, 0, 1]), "pad")
    pads = graph.constant(np.array([0, -cropped, pad, 0, 0, 0, 0, pad]))
    graph.add("Pad", [value, pads], (shape[0] - cropped, shape[1] + pad, shape[2] + pad), mode=mode)


def grow_dense(graph: Graph, data: st.DataObject, value: str, shape: tuple[int, int, int]) -> None:
    """A Gemm over all positions, or two, made a picture of one position again."""
    inputs = shape[0] * shape[1] * shape[2]
    name = graph.add("Flatten", [value], shape)
    graph.values.pop()
    for _ in range(data.draw(st.integers(1, 2), "layers")):
        operands = [graph.constant(graph.rng.normal(size=(inputs, 4)) / inputs)]
        operands += [graph.constant(graph.rng.normal(size=4))] if data.draw(st.booleans(), "bias") else []
        name, inputs = graph.add("Gemm", [name, *operands], shape), 4
        graph.values.pop()
    graph.add("Unsqueeze", [name, graph.constant(np.array([2, 3]))], (4, 1, 1))


def grow_einsum(graph: Graph, data: st.DataObject, value: str, shape: tuple[int, int, int]) -> None:
    """A product by a constant along the channels, or along the channels and rows."""
    channels, height, width = shape
    if data.draw(st.booleans(), "channels alone"):
        weight = graph.constant(graph.rng.normal(size=(channels, 4)) / channels)
        graph.add("Einsum", [value, weight], (4, height, width), equation="nchw,ck->nkhw")
        return
    weight = graph.constant(graph.rng.normal(size=(channels, height, 4)) / channels)
    graph.add("Einsum", [weight, value], (channels, 4, width), equation="chk,nchw->nckw")


def grow_embedding(graph: Graph, data: st.DataObject, value: str, shape: tuple[int, int, int]) -> None:
    """Rows of a table, by the channel of the graph's input that is highest."""
    del value, shape
    features = data.draw(st.integers(2, 4), "features")
    ids = graph.add("ArgMax", ["x"], (1, 6, 6), axis=1, keepdims=0)
    graph.values.pop()
    rows = graph.add("Gather", [graph.constant(graph.rng.normal(size=(4, features))), ids], (6, 6, features))
    graph.values.pop()
    graph.add("Transpose", [rows], (features, 6, 6), perm=[0, 3, 1, 2])


def grow_recurrent(graph: Graph, data: st.DataObject, value: str, shape: tuple[int, int, int]) -> None:
    """A recurrent layer whose steps are the positions; the evaluator's LSTM and GRU overflow at large inputs."""
    channels, positions = shape[0], shape[1] * shape[2]
    if positions > 36:
        return
    steps = graph.add("Reshape", [value, graph.constant(np.array([0, channels, positions]))], shape)
    graph.values.pop()
    turned = graph.add("Transpose", [steps], shape, perm=[2, 0, 1])
    graph.values.pop()
    sizes = [(1, 3, channels), (1, 3, 3), (1, 6)]
    operands = [graph.constant(graph.rng.normal(size=size) / 3) for size in sizes]
    result = graph.add("RNN", [turned, *operands[: data.draw(st.integers(2, 3), "operands")]], shape, hidden_size=3)
    graph.values.pop()
    graph.add("Transpose", [result], (3, positions, 1), perm=[2, 3, 0, 1])


def grow_if(graph: Graph, data: st.DataObject, value: str, shape: tuple[int, int, int]) -> None:
    """Two branches, each with a Conv and a BatchNormalization, of one weight or two; a third reads one outside."""
    place, channels = len(graph.nodes), shape[0]
    shared = graph.constant(graph.rng.normal(size=(channels, channels, 1, 1)) / channels)
    bodies = []
    for branch in ("then", "else"):
        own = graph.constant(graph.rng.normal(size=(channels, channels, 1, 1)) / channels)
        weight = data.draw(st.sampled_from([shared, own]), "weight")
        name = f"bn{place}.{branch}"
        graph.constants |= statistics(graph.rng, channels, name)
        nodes = [helper.make_node("Conv", [value, weight], [f"h{place}"]), batchnorm(f"h{place}", f"o{place}", name)]
        nodes = nodes[:: data.draw(st.sampled_from([1, -1]), "order")]
        nodes[0].input[0], nodes[1].input[0] = value, f"h{place}"
        nodes[0].output[0], nodes[1].output[0] = f"h{place}", f"o{place}"
        output = helper.make_tensor_value_info(f"o{place}", TensorProto.DOUBLE, None)
        bodies.append(helper.make_graph(nodes, branch, [], [output]))
    graph.nodes.append(helper.make_node("ReduceMax", [value], [f"max{place}"], keepdims=0))
    graph.nodes.append(helper.make_node("Less", [f"max{place}", graph.constant(1.0)], [f"which{place}"]))
    graph.add("If", [f"which{place}"], shape, then_branch=bodies[0], else_branch=bodies[1])
    if data.draw(st.booleans(), "the weight is read outside"):
        graph.add("Conv", [value, shared], shape)


GROWTH = [
    grow_batchnorm,
    grow_batchnorm,
    grow_batchnorm,
    grow_conv,
    grow_conv,
    grow_sum,
    grow_chosen,
    grow_constant,
    grow_simple,
    grow_pool,
    grow_reduced,
    grow_concat,
    grow_split,
    grow_slice,
    grow_gathered,
    grow_tiled,
    grow_sampled,
    grow_moved,
    grow_padded,
    grow_dense,
    grow_einsum,
    grow_embedding,
    grow_recurrent,
    grow_if,
]


def random_model(data: st.DataObject, graph: Graph, length: int, batch: int | str) -> onnx.ModelProto | None:
    """Grow a graph; None where no node came of it."""
    for _ in range(length):
        grow = data.draw(st.sampled_from(GROWTH), "operator")
        recent = graph.values[-4:]
        value, shape = recent[data.draw(st.integers(0, len(recent) - 1), "value")]
        grow(graph, data, value, shape)
    if not graph.nodes:
        return None
    read = {name for node in graph.nodes for name in node.input}
    outputs = [name for node in graph.nodes for name in node.output if name not in read][:3]
    return model(graph.nodes, {"x": [batch, 4, 6, 6]}, outputs, graph.constants, opset=OPSET)


@pytest.mark.slow
@given(data=st.data(), seed=st.integers(0, 2**16), length=st.integers(2, 14), batch=st.sampled_from(["n", 2]))
def test_a_random_graph_computes_what_it_did(data: st.DataObject, seed: int, length: int, batch: int | str) -> None:
    graph = Graph(np.random.default_rng(seed))
    source = random_model(data, graph, length, batch)
    if source is None:
        return

    result, report = folded(source)

    left = all_operators(result).count("BatchNormalization")
    assert left == report.batchnorm_after + report.batchnorm_made
    assert len(all_operators(result)) <= len(all_operators(source))
    assert_same(source, result, {"x": graph.rng.normal(size=(2, 4, 6, 6))})
    assert all_operators(folded(result)[0]) == all_operators(result)


@pytest.mark.slow
@settings(max_examples=settings().max_examples // 5)  # each folds four times
@given(data=st.data(), seed=st.integers(0, 2**16), length=st.integers(2, 10), batch=st.sampled_from(["n", 2]))
def test_a_random_graph_unfolds_and_folds_to_what_it_was(
    data: st.DataObject, seed: int, length: int, batch: int | str
) -> None:
    graph = Graph(np.random.default_rng(seed))
    source = random_model(data, graph, length, batch)
    if source is None:
        return
    result, _ = folded(folded(source)[0])
    working, x = ir.from_proto(result), graph.rng.normal(size=(4, 4, 6, 6))

    try:
        report = unfold_with_samples(working, Samples(4, lambda start, stop: {"x": x[start:stop]}))
    except (UnfoldError, NotAdaptableError):  # onnx's evaluator, which runs float64, has no Pad that crops
        return

    unfolded = ir.to_proto(working)
    onnx.checker.check_model(unfolded, full_check=True)
    assert len(unfolded.graph.node) - len(result.graph.node) <= len(report.layers)
    assert_same(result, unfolded, {"x": x[:2]})
    assert_same_weights(result, folded(unfolded)[0])
