"""Operators that move, cut or join elements, for graphs that grow."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from onnx import helper

from tests.support.fold.random_graph import Graph, Shape, with_size


def grow_concat(graph: Graph, data: st.DataObject, value: str, shape: Shape) -> None:
    if data.draw(st.integers(0, 3), "with a constant") == 0:
        constant = graph.constant(graph.rng.normal(size=(2, shape[0], 2, shape[2])))
        graph.add("Concat", [value, constant], (shape[0], shape[1] + 2, shape[2]), axis=2)
        return
    others = [(name, other[0]) for name, other in graph.values if other[1:] == shape[1:] and other[0] <= 8]
    other, channels = data.draw(st.sampled_from(others), "other") if others else (value, shape[0])
    if channels + shape[0] <= 12:
        graph.add("Concat", [value, other], (channels + shape[0], *shape[1:]), axis=data.draw(st.sampled_from([1, -3])))


def grow_split(graph: Graph, data: st.DataObject, value: str, shape: Shape) -> None:
    if shape[0] < 2:
        return
    first = data.draw(st.integers(1, shape[0] - 1), "first part")
    sizes = graph.constant(np.array([first, shape[0] - first]))
    names = [f"v{len(graph.nodes)}", f"v{len(graph.nodes)}.rest"]
    graph.nodes.append(helper.make_node("Split", [value, sizes], names, axis=1))
    graph.values += [(names[0], (first, *shape[1:])), (names[1], (shape[0] - first, *shape[1:]))]


def grow_slice(graph: Graph, data: st.DataObject, value: str, shape: Shape) -> None:
    if shape[0] < 2:
        return
    first = data.draw(st.integers(0, shape[0] - 1), "start")
    numbers = [graph.constant(np.array([number])) for number in (first, shape[0], 1)]
    graph.add("Slice", [value, *numbers], (shape[0] - first, *shape[1:]))


def grow_gathered(graph: Graph, data: st.DataObject, value: str, shape: Shape) -> None:
    axis = data.draw(st.integers(1, 3), "axis")
    if data.draw(st.booleans(), "drops the axis"):
        index = graph.constant(np.array(data.draw(st.integers(-shape[axis - 1], shape[axis - 1] - 1), "index")))
        part = graph.add("Gather", [value, index], shape, axis=axis)
        graph.values.pop()
        graph.add("Unsqueeze", [part, graph.constant(np.array([axis]))], with_size(shape, axis, 1))
        return
    indices = data.draw(st.lists(st.integers(0, shape[axis - 1] - 1), min_size=1, max_size=6), "indices")
    graph.add("Gather", [value, graph.constant(np.array(indices))], with_size(shape, axis, len(indices)), axis=axis)


def grow_tiled(graph: Graph, data: st.DataObject, value: str, shape: Shape) -> None:
    axis = data.draw(st.integers(1, 3), "axis")
    if shape[axis - 1] > 6:
        return
    repeats = np.ones(4, np.int64)
    repeats[axis] = 2
    graph.add("Tile", [value, graph.constant(repeats)], with_size(shape, axis, 2 * shape[axis - 1]))


def grow_moved(graph: Graph, data: st.DataObject, value: str, shape: Shape) -> None:
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


def grow_padded(graph: Graph, data: st.DataObject, value: str, shape: Shape) -> None:
    mode = data.draw(st.sampled_from(["constant", "edge", "reflect"]), "mode")
    if min(shape[1:]) < 2 or max(shape[1:]) > 8:
        return
    cropped = data.draw(st.integers(0, min(1, shape[0] - 1)), "channels cropped")
    pad = data.draw(st.sampled_from([-1, 0, 1]), "pad")
    pads = graph.constant(np.array([0, -cropped, pad, 0, 0, 0, 0, pad]))
    graph.add("Pad", [value, pads], (shape[0] - cropped, shape[1] + pad, shape[2] + pad), mode=mode)
