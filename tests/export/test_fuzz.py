"""Random graphs out of all operators: folded and merged, they compute in float64 what they did. Folded again they stay.

Hundreds run with the tests; `make fuzz` runs many more (the profile is chosen by HYPOTHESIS_PROFILE, see conftest.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from normfold.export.adapt.samples import Samples
from normfold.export.errors import NotAdaptableError, UnfoldError
from normfold.export.files.fold_file import fold_file
from normfold.export.unfold.with_samples import unfold_with_samples
from tests.support.fold.random_bodies import grow_if, grow_loop, grow_scan
from tests.support.fold.random_elements import (
    grow_chosen,
    grow_constant,
    grow_pool,
    grow_reduced,
    grow_regions,
    grow_sampled,
    grow_simple,
    grow_sum,
)
from tests.support.fold.random_graph import Graph, Shape
from tests.support.fold.random_layers import (
    grow_batchnorm,
    grow_conv,
    grow_deform_conv,
    grow_dense,
    grow_einsum,
    grow_embedding,
    grow_recurrent,
)
from tests.support.fold.random_moves import (
    grow_concat,
    grow_gathered,
    grow_moved,
    grow_padded,
    grow_slice,
    grow_split,
    grow_tiled,
)
from tests.support.fold.random_quantized import grow_plain_batchnorm, grow_quantized_conv, grow_quantized_dense
from tests.support.onnx_models import all_operators, assert_same, assert_same_weights, folded, model

OPSET = 19
Grow = Callable[[Graph, st.DataObject, str, Shape], None]

GROWTH: list[Grow] = [
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
    grow_deform_conv,
    grow_regions,
    grow_if,
    grow_loop,
    grow_scan,
]

QUANTIZED_GROWTH: list[Grow] = [
    grow_plain_batchnorm,
    grow_plain_batchnorm,
    grow_quantized_conv,
    grow_quantized_conv,
    grow_quantized_dense,
    grow_pool,
    grow_simple,
]


def random_model(
    data: st.DataObject,
    graph: Graph,
    length: int,
    batch: int | str,
    growth: Sequence[Grow] = GROWTH,
    dtype: Any = np.float64,
) -> onnx.ModelProto | None:
    """Grow a graph; None where no node came of it."""
    for _ in range(length):
        grow = data.draw(st.sampled_from(growth), "operator")
        recent = graph.values[-4:]
        value, shape = recent[data.draw(st.integers(0, len(recent) - 1), "value")]
        grow(graph, data, value, shape)
    if not graph.nodes:
        return None
    read = {name for node in graph.nodes for name in node.input}
    outputs = [name for node in graph.nodes for name in node.output if name not in read][:3]
    typed = {key: array.astype(dtype) if array.dtype.kind == "f" else array for key, array in graph.constants.items()}
    return model(graph.nodes, {"x": [batch, 4, 6, 6]}, outputs, typed, OPSET, dtype)


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


@pytest.mark.slow
@settings(max_examples=settings().max_examples // 5)
@given(data=st.data(), seed=st.integers(0, 2**16), length=st.integers(2, 8), batch=st.sampled_from(["n", 2]))
def test_a_random_graph_of_quantized_weights_computes_what_it_did(
    data: st.DataObject, seed: int, length: int, batch: int | str
) -> None:
    graph = Graph(np.random.default_rng(seed))
    source = random_model(data, graph, length, batch, QUANTIZED_GROWTH, np.float32)
    if source is None:
        return

    result, _ = folded(source)

    assert len(all_operators(result)) <= len(all_operators(source))
    assert_same(source, result, {"x": graph.rng.normal(size=(2, 4, 6, 6)).astype(np.float32)})
    assert all_operators(folded(result)[0]) == all_operators(result)


@pytest.mark.slow
@settings(max_examples=settings().max_examples // 10)
@given(data=st.data(), seed=st.integers(0, 2**16), length=st.integers(2, 10))
def test_a_random_graph_of_ir_version_3_folds_as_one_of_a_later_version(
    data: st.DataObject, seed: int, length: int
) -> None:
    """Its initializers are all inputs of the graph too, and constants all the same."""
    source = random_model(data, Graph(np.random.default_rng(seed)), length, 2)
    if source is None:
        return
    older = onnx.ModelProto.FromString(source.SerializeToString())
    older.ir_version = 3
    older.graph.input.extend(
        onnx.helper.make_tensor_value_info(each.name, each.data_type, each.dims) for each in older.graph.initializer
    )
    with TemporaryDirectory() as folder:
        paths = [Path(folder, name) for name in ("a.onnx", "b.onnx", "c.onnx", "d.onnx")]
        onnx.save(source, paths[0])
        onnx.save(older, paths[1])

        for path, target in zip(paths[:2], paths[2:], strict=True):
            fold_file(path, target, verified=False)

        newer, from_older = (onnx.load(path) for path in paths[2:])
    assert [value.name for value in from_older.graph.input] == ["x"]
    assert_same_weights(newer, from_older, units=0)
