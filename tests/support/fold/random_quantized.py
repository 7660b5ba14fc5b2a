"""Layers whose weights are quantised, for graphs that grow."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st
from onnx import helper

from tests.support.fold.random_graph import Graph, Shape
from tests.support.onnx_models import batchnorm, statistics


def grow_plain_batchnorm(graph: Graph, data: st.DataObject, value: str, shape: Shape) -> None:
    """No gain is zero or large, so that float32 computes with it as well as without it."""
    del data
    name = f"bn{len(graph.nodes)}"
    graph.constants |= statistics(graph.rng, shape[0], name)
    signs = graph.rng.choice([-1.0, 1.0, 1.0], shape[0])
    graph.constants[f"{name}.scale"] = signs * graph.rng.uniform(0.5, 1.5, shape[0])
    graph.constants[f"{name}.var"] = graph.rng.uniform(0.5, 2, shape[0])
    graph.nodes.append(batchnorm(value, f"v{len(graph.nodes)}", name))
    graph.values.append((graph.nodes[-1].output[0], shape))


def grow_quantized_conv(graph: Graph, data: st.DataObject, value: str, shape: Shape) -> None:
    """A Conv or ConvTranspose whose weight is integers behind a DequantizeLinear."""
    channels, height, width = shape
    op_type = data.draw(st.sampled_from(["Conv", "Conv", "ConvTranspose"]), "operator")
    kernel = data.draw(st.integers(1, 3), "kernel")
    if (op_type == "Conv" and min(height, width) < kernel) or max(height, width) > 10:
        return
    change = kernel - 1 if op_type == "ConvTranspose" else 1 - kernel
    inputs = [value, _quantized(graph, data, (channels, channels, kernel, kernel))]
    inputs += [graph.constant(graph.rng.normal(size=channels))] if data.draw(st.booleans(), "bias") else []
    graph.add(op_type, inputs, (channels, height + change, width + change))


def grow_quantized_dense(graph: Graph, data: st.DataObject, value: str, shape: Shape) -> None:
    """A Gemm or MatMul of the channels' means whose weight is integers behind a DequantizeLinear."""
    name = graph.add("GlobalAveragePool", [value], shape)
    graph.values.pop()
    name = graph.add("Flatten", [name], shape)
    graph.values.pop()
    inputs = [name, _quantized(graph, data, (shape[0], 4))]
    op_type = data.draw(st.sampled_from(["Gemm", "MatMul"]), "operator")
    inputs += [graph.constant(graph.rng.normal(size=4))] if op_type == "Gemm" and data.draw(st.booleans()) else []
    name = graph.add(op_type, inputs, shape)
    graph.values.pop()
    graph.add("Unsqueeze", [name, graph.constant(np.array([2, 3]))], (4, 1, 1))


def _quantized(graph: Graph, data: st.DataObject, size: tuple[int, ...]) -> str:
    """Add a weight of 8-bit integers, with one scale or one for each index of an axis, and return its value."""
    axis = data.draw(st.sampled_from([None, 0, 1]), "axis of the scales")
    signed = data.draw(st.booleans(), "signed")
    low, high, dtype = (-127, 128, np.int8) if signed else (0, 256, np.uint8)
    scales = graph.rng.uniform(0.005, 0.02, () if axis is None else size[axis])
    names = [graph.constant(graph.rng.integers(low, high, size).astype(dtype)), graph.constant(scales)]
    if not signed or data.draw(st.booleans(), "zero point"):
        names.append(graph.constant(np.full(scales.shape, 0 if signed else 128, dtype)))
    name = f"v{len(graph.nodes)}"
    attributes: dict[str, Any] = {} if axis is None else {"axis": axis}
    graph.nodes.append(helper.make_node("DequantizeLinear", names, [name], **attributes))
    return name
