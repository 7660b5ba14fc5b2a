"""Ten published graphs: the most that a fold may leave, with a fixed batch of two and a free one."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from normfold.export.files.fold_file import FoldedFile, fold_file
from normfold.export.fold.report import Outcome
from tests.support.published_graphs import published_graph


@dataclass(frozen=True)
class Bar:
    """At most so many of each left."""

    batchnorm: int = 0
    convs: int | None = None
    nodes: int | None = None


BARS = {
    "densenet121": Bar(batchnorm=59),  # before a Relu, behind a Concat: neither passes an offset
    "fastvit_t8": Bar(convs=52),
    "inception_next_atto": Bar(),
    "legacy_seresnet18": Bar(),
    "levit_128s": Bar(),
    "mobilenetv3_small_050": Bar(),
    "repghostnet_050": Bar(nodes=180),
    "shvit_s1": Bar(),
    "test_coatnet": Bar(),
    "xcit_nano_12_p8_224": Bar(batchnorm=12),  # between a Gelu and a zero-padded depthwise Conv
}


def with_free_batch(static: onnx.ModelProto) -> onnx.ModelProto:
    """Free the batch axis: where a target shape says two rows, it says any number."""
    model = onnx.shape_inference.infer_shapes(static, data_prop=True)
    graph = model.graph
    values = (*graph.value_info, *graph.output)
    shapes = {value.name: [size.dim_value for size in value.type.tensor_type.shape.dim] for value in values}
    for value in (*graph.input, *graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    del graph.value_info[:]
    constants = {tensor.name: tensor for tensor in graph.initializer}
    constants |= {node.output[0]: node.attribute[0].t for node in graph.node if node.op_type == "Constant"}

    def put(node: onnx.NodeProto, numbers: list[int]) -> None:
        name = f"{node.output[0]}.free"
        graph.initializer.append(numpy_helper.from_array(np.array(numbers, np.int64), name))
        node.input[1] = name

    for node in list(graph.node):
        shape = shapes.get(node.output[0])
        if node.op_type == "Reshape" and shape and all(shape):
            put(node, [-1, *shape[1:]])
        elif node.op_type in ("Expand", "Tile") and node.input[1] in constants:
            numbers = numpy_helper.to_array(constants[node.input[1]]).tolist()
            if numbers[0] == 2:
                put(node, [1, *numbers[1:]])
        elif node.op_type == "Concat" and node.attribute[0].i != 0:
            for index, name in enumerate(node.input):
                if name in constants and constants[name].dims[0] == 2:
                    node.input[index] = repeat_row(graph, constants[name])
    return model


def repeat_row(graph: onnx.GraphProto, tensor: onnx.TensorProto) -> str:
    """Repeat the first row of a constant as often as the input has rows: a class token, written out for two."""
    row, name = numpy_helper.to_array(tensor)[:1], f"{tensor.name}.rows"
    ones = numpy_helper.from_array(np.ones(row.ndim - 1, np.int64), f"{name}.ones")
    graph.initializer.extend([numpy_helper.from_array(row, f"{name}.first"), ones])
    nodes = [
        helper.make_node("Shape", [graph.input[0].name], [f"{name}.count"], start=0, end=1),
        helper.make_node("Concat", [f"{name}.count", ones.name], [f"{name}.target"], axis=0),
        helper.make_node("Expand", [f"{name}.first", f"{name}.target"], [name]),
    ]
    for position, node in enumerate(nodes):
        graph.node.insert(position, node)
    return name


@lru_cache(maxsize=1)
def static_graph(name: str) -> onnx.ModelProto:
    """Return a graph for a batch of two; the next test asks for the same one."""
    return published_graph(name, small=True)


@dataclass(frozen=True)
class Fold:
    """A published graph, and what a fold made of it."""

    name: str
    source: onnx.ModelProto
    folded: FoldedFile
    path: Path

    def operators(self) -> Counter[str]:
        """Return how many of each operator the folded file holds."""
        return operators_of(onnx.load(self.path))


def operators_of(model: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


CASES = [pytest.param((name, free), id=f"{name}-{'dynamic' if free else 'static'}") for name in BARS for free in (0, 1)]


@pytest.fixture(scope="module", params=CASES)
def fold(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fold]:
    """A published graph that is folded and verified, once for all tests; its files are removed after them."""
    name, free_batch = request.param
    source = with_free_batch(static_graph(name)) if free_batch else static_graph(name)
    folder = tmp_path_factory.mktemp(name)
    onnx.save(source, folder / "source.onnx")
    yield Fold(name, source, fold_file(folder / "source.onnx", folder / "folded.onnx"), folder / "folded.onnx")
    shutil.rmtree(folder)


@pytest.mark.slow
def test_a_real_graph_folds_as_far_as_it_can(fold: Fold) -> None:
    bar, report = BARS[fold.name], fold.folded.report
    before, after = operators_of(fold.source), fold.operators()
    assert report.batchnorm_before == before["BatchNormalization"]
    assert report.batchnorm_after <= bar.batchnorm
    assert report.batchnorm_after + report.batchnorm_made == after["BatchNormalization"]
    assert all(entry.reason for entry in report.entries if entry.outcome is Outcome.KEPT)
    assert before.total() - after.total() >= report.batchnorm_before - report.batchnorm_after
    assert after["Mul"] <= before["Mul"]
    assert after["Add"] <= before["Add"]
    assert after["Conv"] <= (before["Conv"] if bar.convs is None else bar.convs)
    assert after.total() <= (before.total() if bar.nodes is None else bar.nodes)
    assert fold.folded.verification is not None
    assert fold.folded.verification.passes


@pytest.mark.slow
def test_a_folded_graph_folds_no_further(fold: Fold) -> None:
    again = fold.path.with_name("again.onnx")
    fold_file(fold.path, again, verified=False)
    assert operators_of(onnx.load(again)) == fold.operators()
