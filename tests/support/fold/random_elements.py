"""Operators that change or choose elements, for graphs that grow."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from tests.support.fold.random_graph import Graph, Shape


def grow_sum(graph: Graph, data: st.DataObject, value: str, shape: Shape) -> None:
    others = [name for name, other in graph.values if other == shape]
    other = data.draw(st.sampled_from(others), "other operand")
    graph.add(data.draw(st.sampled_from(["Add", "Sub", "Mul", "Mean"]), "operator"), [value, other], shape)


def grow_chosen(graph: Graph, data: st.DataObject, value: str, shape: Shape) -> None:
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


def grow_constant(graph: Graph, data: st.DataObject, value: str, shape: Shape) -> None:
    op_type = data.draw(st.sampled_from(["Add", "Sub", "Mul", "Div"]), "operator")
    sizes = [(), (1,), (shape[0], 1, 1), (1, shape[0], 1, 1), (shape[2],), (1, *shape), (shape[0], shape[1], 1)]
    size = data.draw(st.sampled_from(sizes), "size")
    numbers = graph.constant(graph.rng.uniform(0.5, 2, size=size))
    first = op_type != "Div" and data.draw(st.booleans(), "constant first")
    graph.add(op_type, [numbers, value] if first else [value, numbers], shape)


def grow_simple(graph: Graph, data: st.DataObject, value: str, shape: Shape) -> None:
    op_type = data.draw(st.sampled_from(["Relu", "LeakyRelu", "Tanh", "Identity", "Dropout", "Neg", "Abs"]), "operator")
    if data.draw(st.integers(0, 4), "Clip") == 0:
        graph.add("Clip", [value, graph.constant(0.0)], shape)
        return
    graph.add(op_type, [value], shape)


def grow_pool(graph: Graph, data: st.DataObject, value: str, shape: Shape) -> None:
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


def grow_reduced(graph: Graph, data: st.DataObject, value: str, shape: Shape) -> None:
    op_type = data.draw(st.sampled_from(["ReduceMean", "ReduceMax", "ReduceSum", "ReduceMin"]), "operator")
    axes = data.draw(st.sampled_from([[2, 3], [-1], [2]]), "axes")
    size = tuple(1 if axis + 1 in [one % 4 for one in axes] else length for axis, length in enumerate(shape))
    graph.add(op_type, [value, graph.constant(np.array(axes))], (size[0], size[1], size[2]))


def grow_sampled(graph: Graph, data: st.DataObject, value: str, shape: Shape) -> None:
    """The evaluator's weights for other modes are float32's, which add up to one only nearly."""
    grid = graph.constant(graph.rng.uniform(-1.3, 1.3, size=(2, 4, 4, 2)))
    border = data.draw(st.sampled_from(["zeros", "border", "reflection"]), "border")
    graph.add("GridSample", [value, grid], (shape[0], 4, 4), mode="nearest", padding_mode=border)


def grow_regions(graph: Graph, data: st.DataObject, value: str, shape: Shape) -> None:
    """A region of each row, some of it beyond the picture."""
    low, high = data.draw(st.sampled_from([(0.5, 3.5), (-2.0, 4.0)]), "corners")
    regions = graph.constant(np.array([[low, low, high, high], [low, 0.0, high, 3.0]]))
    rows = graph.constant(np.array([0, 1]))
    sizes = {"output_height": 2, "output_width": 3, "sampling_ratio": 2}
    graph.add(
        "RoiAlign", [value, regions, rows], (shape[0], 2, 3), mode=data.draw(st.sampled_from(["avg", "max"])), **sizes
    )
