"""Nodes with bodies, for graphs that grow."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from onnx import NodeProto, TensorProto, helper

from tests.support.fold.random_graph import Graph, Shape
from tests.support.onnx_models import batchnorm, statistics


def grow_if(graph: Graph, data: st.DataObject, value: str, shape: Shape) -> None:
    """Two branches, each with a Conv and a BatchNormalization, of one weight or two; a third reads one outside."""
    place, channels = len(graph.nodes), shape[0]
    shared = graph.constant(graph.rng.normal(size=(channels, channels, 1, 1)) / channels)
    bodies = []
    for branch in ("then", "else"):
        own = graph.constant(graph.rng.normal(size=(channels, channels, 1, 1)) / channels)
        weight, result = data.draw(st.sampled_from([shared, own]), "weight"), f"o{place}.{branch}"
        nodes = _conv_and_batchnorm(graph, data, value, result, weight, channels)
        output = helper.make_tensor_value_info(result, TensorProto.DOUBLE, None)
        bodies.append(helper.make_graph(nodes, branch, [], [output]))
    graph.nodes.append(helper.make_node("ReduceMax", [value], [f"max{place}"], keepdims=0))
    graph.nodes.append(helper.make_node("Less", [f"max{place}", graph.constant(1.0)], [f"which{place}"]))
    graph.add("If", [f"which{place}"], shape, then_branch=bodies[0], else_branch=bodies[1])
    if data.draw(st.booleans(), "the weight is read outside"):
        graph.add("Conv", [value, shared], shape)


def grow_loop(graph: Graph, data: st.DataObject, value: str, shape: Shape) -> None:
    """Two rounds of a body with a Conv and a BatchNormalization, one behind the other in either order."""
    place, channels = len(graph.nodes), shape[0]
    weight = graph.constant(graph.rng.normal(size=(channels, channels, 1, 1)) / channels)
    nodes = _conv_and_batchnorm(graph, data, f"state{place}", f"o{place}", weight, channels)
    nodes.append(helper.make_node("Identity", [f"go{place}"], [f"on{place}"]))
    kinds = [(f"round{place}", TensorProto.INT64, []), (f"go{place}", TensorProto.BOOL, [])]
    inputs = [helper.make_tensor_value_info(*kind) for kind in (*kinds, (f"state{place}", TensorProto.DOUBLE, None))]
    kinds = [(f"on{place}", TensorProto.BOOL, []), (f"o{place}", TensorProto.DOUBLE, None)]
    outputs = [helper.make_tensor_value_info(*kind) for kind in kinds]
    body = helper.make_graph(nodes, "body", inputs, outputs)
    looped = graph.add("Loop", [graph.constant(np.array(2)), graph.constant(np.array(True)), value], shape, body=body)
    graph.values.pop()
    graph.add("Reshape", [looped, graph.constant(np.array([-1, *shape]))], shape)  # the shape of a state may change


def grow_scan(graph: Graph, data: st.DataObject, value: str, shape: Shape) -> None:
    """The rows one by one, through a body with a Conv and a BatchNormalization."""
    place, (channels, height, width) = len(graph.nodes), shape
    weight = graph.constant(graph.rng.normal(size=(channels, channels, 1)) / channels)
    nodes = _conv_and_batchnorm(graph, data, f"row{place}", f"o{place}", weight, channels)
    inputs = [helper.make_tensor_value_info(f"row{place}", TensorProto.DOUBLE, [None, channels, width])]
    outputs = [helper.make_tensor_value_info(f"o{place}", TensorProto.DOUBLE, [None, channels, width])]
    body = helper.make_graph(nodes, "body", inputs, outputs)
    turned = graph.add("Transpose", [value], shape, perm=[2, 0, 1, 3])
    graph.values.pop()
    scanned = graph.add("Scan", [turned], shape, num_scan_inputs=1, body=body)
    graph.values.pop()
    graph.add("Transpose", [scanned], (channels, height, width), perm=[1, 2, 0, 3])


def _conv_and_batchnorm(
    graph: Graph, data: st.DataObject, source: str, result: str, weight: str, channels: int
) -> list[NodeProto]:
    """Make the nodes of a body, in either order; parameters are the graph's constants."""
    name = f"bn{result}"
    graph.constants |= statistics(graph.rng, channels, name)
    if data.draw(st.booleans(), "Conv first"):
        conv = helper.make_node("Conv", [source, weight], [f"h{result}"])
        return [conv, batchnorm(f"h{result}", result, name)]
    return [batchnorm(source, f"h{result}", name), helper.make_node("Conv", [f"h{result}", weight], [result])]
