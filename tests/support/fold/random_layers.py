"""Layers with weights, for graphs that grow."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from tests.support.fold.random_graph import Graph, Shape
from tests.support.onnx_models import batchnorm, statistics


def grow_batchnorm(graph: Graph, data: st.DataObject, value: str, shape: Shape) -> None:
    name = f"bn{len(graph.nodes)}"
    made = statistics(graph.rng, shape[0], name)
    if data.draw(st.booleans(), "no negative gain, no offset"):
        made[f"{name}.scale"] = np.abs(made[f"{name}.scale"]) + data.draw(st.sampled_from([0, 0.1]), "least gain")
        made[f"{name}.mean"] = made[f"{name}.shift"] = np.zeros(shape[0])
    graph.constants |= made
    graph.nodes.append(batchnorm(value, f"v{len(graph.nodes)}", name))
    graph.values.append((graph.nodes[-1].output[0], shape))


def grow_conv(graph: Graph, data: st.DataObject, value: str, shape: Shape) -> None:
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
    size = (outputs, slack[0] // stride + 1, slack[1] // stride + 1)
    windows = {"pads": pads, "strides": [stride] * 2, "dilations": [dilation] * 2}
    graph.add("Conv", [value, weight, *bias], size, group=group, **windows)


def grow_dense(graph: Graph, data: st.DataObject, value: str, shape: Shape) -> None:
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


def grow_einsum(graph: Graph, data: st.DataObject, value: str, shape: Shape) -> None:
    """A product by a constant along the channels, or along the channels and rows."""
    channels, height, width = shape
    if data.draw(st.booleans(), "channels alone"):
        weight = graph.constant(graph.rng.normal(size=(channels, 4)) / channels)
        graph.add("Einsum", [value, weight], (4, height, width), equation="nchw,ck->nkhw")
        return
    weight = graph.constant(graph.rng.normal(size=(channels, height, 4)) / channels)
    graph.add("Einsum", [weight, value], (channels, 4, width), equation="chk,nchw->nckw")


def grow_embedding(graph: Graph, data: st.DataObject, value: str, shape: Shape) -> None:
    """Rows of a table, by the channel of the graph's input that is highest."""
    del value, shape
    features = data.draw(st.integers(2, 4), "features")
    ids = graph.add("ArgMax", ["x"], (1, 6, 6), axis=1, keepdims=0)
    graph.values.pop()
    rows = graph.add("Gather", [graph.constant(graph.rng.normal(size=(4, features))), ids], (6, 6, features))
    graph.values.pop()
    graph.add("Transpose", [rows], (features, 6, 6), perm=[0, 3, 1, 2])


def grow_recurrent(graph: Graph, data: st.DataObject, value: str, shape: Shape) -> None:
    """A recurrent layer whose steps are the positions."""
    channels, positions = shape[0], shape[1] * shape[2]
    if positions > 36:
        return
    op_type, gates = data.draw(st.sampled_from([("RNN", 1), ("GRU", 3), ("LSTM", 4)]), "operator")
    steps = graph.add("Reshape", [value, graph.constant(np.array([0, channels, positions]))], shape)
    graph.values.pop()
    turned = graph.add("Transpose", [steps], shape, perm=[2, 0, 1])
    graph.values.pop()
    sizes = [(1, 3 * gates, channels), (1, 3 * gates, 3), (1, 6 * gates)]
    operands = [graph.constant(graph.rng.normal(size=size) / 3) for size in sizes]
    result = graph.add(op_type, [turned, *operands[: data.draw(st.integers(2, 3), "operands")]], shape, hidden_size=3)
    graph.values.pop()
    graph.add("Transpose", [result], (3, positions, 1), perm=[2, 3, 0, 1])


def grow_deform_conv(graph: Graph, data: st.DataObject, value: str, shape: Shape) -> None:
    """Taps that a Conv of the same value moves, as in deformable networks, or that stay where they are.

    The evaluator divides by the picture's size less one, and samples each tap by itself, slowly.
    """
    channels, height, width = shape
    if min(height, width) < 2 or channels * height * width > 64:
        return
    kernel = data.draw(st.sampled_from([1, 3]), "kernel")
    windows = {"kernel_shape": [kernel] * 2, "pads": [kernel // 2] * 4}
    weight = graph.constant(graph.rng.normal(size=(2, channels, kernel, kernel)) / channels)
    bias = [graph.constant(graph.rng.normal(size=2))] if data.draw(st.booleans(), "bias") else []
    if data.draw(st.booleans(), "moved"):
        by = graph.constant(graph.rng.normal(size=(2 * kernel**2, channels, kernel, kernel)) / (9 * channels))
        moved = graph.add("Conv", [value, by], shape, **windows)
        graph.values.pop()
    else:
        moved = graph.constant(np.zeros((2, 2 * kernel**2, height, width)))
    graph.add("DeformConv", [value, weight, moved, *bias], (2, height, width), **windows)
