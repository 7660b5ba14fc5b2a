"""Statistics recalibrated inside a graph, against float64 references that share no code with it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from normfold.export.adapt import activations
from normfold.export.adapt.recalibrate import Recalibration, recalibrate
from normfold.export.adapt.sample_stability import MIN_SAMPLES, measure_stability
from normfold.export.adapt.samples import Samples
from normfold.export.errors import (
    NotAdaptableError,
    SampleError,
    SampleStatisticsError,
    TrainingModeError,
    UnstableSamplesError,
)
from normfold.export.onnx_io.model_file import load_model, save_model
from tests.support.onnx_models import batchnorm, model, run32, run64, statistics
from tests.support.published_graphs import published_graph

PRIOR = 16.0
COUNT = 40
RNG_ROWS = np.random.default_rng(7).normal(size=(COUNT, 3, 2))


def samples(**arrays: np.ndarray) -> Samples:
    count = len(next(iter(arrays.values())))
    return Samples(count, lambda start, stop: {name: array[start:stop] for name, array in arrays.items()})


def adapted(
    proto: onnx.ModelProto, given: Samples, tmp_path: Path, **options: Any
) -> tuple[onnx.ModelProto, Recalibration]:
    """Re-estimate a copy of a model."""
    onnx.save(proto, tmp_path / "source.onnx")
    working = load_model(tmp_path / "source.onnx")
    found = recalibrate(working, given, options.pop("prior", PRIOR), **options)
    save_model(working, tmp_path / "adapted.onnx")
    result = onnx.load(tmp_path / "adapted.onnx")
    onnx.checker.check_model(result, full_check=True)
    return result, found


def corrected(
    proto: onnx.ModelProto, inputs: Mapping[str, np.ndarray], layers: Mapping[str, str], prior: float = PRIOR
) -> onnx.ModelProto:
    """Correct one layer after the other by running the whole model on all samples: the reference.

    `layers` gives the value that each BatchNormalization reads, by its name, in an order that fits.
    """
    proto = onnx.ModelProto.FromString(proto.SerializeToString())
    for name, source in layers.items():
        probe = onnx.ModelProto.FromString(proto.SerializeToString())
        del probe.graph.output[:]
        probe.graph.output.append(onnx.ValueInfoProto(name=source))
        (x,) = run64(probe, inputs) if source not in inputs else [inputs[source]]
        axes = (0, *range(2, x.ndim))
        for field, sampled in (("mean", x.mean(axes)), ("var", x.var(axes))):
            tensor = next(each for each in proto.graph.initializer if each.name == f"{name}.{field}")
            old = onnx.numpy_helper.to_array(tensor)
            count = len(next(iter(inputs.values())))
            blended = (prior * old + count * sampled) / (prior + count)
            tensor.CopyFrom(onnx.numpy_helper.from_array(blended, tensor.name))
    return proto


def assert_same_statistics(wanted: onnx.ModelProto, got: onnx.ModelProto) -> None:
    arrays = [
        {each.name: onnx.numpy_helper.to_array(each) for each in proto.graph.initializer} for proto in (wanted, got)
    ]
    assert arrays[0].keys() == arrays[1].keys()
    for name, array in arrays[0].items():
        np.testing.assert_allclose(arrays[1][name], array, rtol=1e-9, atol=1e-9, err_msg=name)


def chain(rng: np.random.Generator, spatial: int) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """Make BatchNormalization, Relu, BatchNormalization, and off-centre samples for it."""
    nodes = [batchnorm("x", "a", "one"), helper.make_node("Relu", ["a"], ["r"]), batchnorm("r", "y", "two")]
    size = [3, 4, 2][:spatial]
    proto = model(nodes, {"x": ["n", 3, *size]}, ["y"], statistics(rng, 3, "one") | statistics(rng, 3, "two"))
    return proto, {"x": 2 + 3 * rng.normal(size=(COUNT, 3, *size))}


@pytest.mark.parametrize("spatial", [0, 1, 2, 3])
def test_recalibration_corrects_every_rank_layer_after_layer(spatial: int, tmp_path: Path) -> None:
    proto, inputs = chain(np.random.default_rng(spatial), spatial)

    result, found = adapted(proto, samples(**inputs), tmp_path)

    wanted = corrected(proto, inputs, {"one": "x", "two": "r"})
    assert_same_statistics(wanted, result)
    with pytest.raises(AssertionError):  # the second layer on what the uncorrected first one gives
        assert_same_statistics(corrected(proto, inputs, {"two": "r", "one": "x"}), result)
    assert [layer.node for layer in found.layers] == ["one", "two"]
    one = found.layers[0]
    assert one.moved[2] == pytest.approx(abs(one.new.mean[2] - one.old.mean[2]) / np.sqrt(one.old.var[2] + 1e-5))
    assert one.variance_ratio[2] == pytest.approx((one.new.var[2] + 1e-5) / (one.old.var[2] + 1e-5))


def test_the_prior_weighs_samples_not_pixels(tmp_path: Path) -> None:
    proto, inputs = chain(np.random.default_rng(0), 2)

    _, found = adapted(proto, samples(**inputs), tmp_path, prior=float(COUNT))

    layer = found.layers[0]
    np.testing.assert_allclose(layer.new.mean, (layer.old.mean + inputs["x"].mean((0, 2, 3))) / 2)


def test_chunk_size_does_not_change_the_statistics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    proto, inputs = chain(np.random.default_rng(0), 2)
    whole, _ = adapted(proto, samples(**inputs), tmp_path)
    monkeypatch.setattr(activations, "MAX_CHUNK_ROWS", 7)  # 5 chunks of 7, and one of 5

    pieces, _ = adapted(proto, samples(**inputs), tmp_path)
    alone, _ = adapted(proto, samples(**inputs), tmp_path, batchable=False)

    assert_same_statistics(whole, pieces)
    assert_same_statistics(whole, alone)


def test_a_mean_far_from_zero_keeps_its_variance(tmp_path: Path) -> None:
    """E[x²] - E[x]² would lose it all: 1e8² is 1e16."""
    proto, inputs = chain(np.random.default_rng(0), 2)
    inputs["x"] += 1e8

    _, found = adapted(proto, samples(**inputs), tmp_path, prior=0.0)

    np.testing.assert_allclose(found.layers[0].new.var, inputs["x"].var((0, 2, 3)), rtol=1e-6)


def test_parallel_branches_are_corrected_each(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        batchnorm("c", "a", "one"),
        batchnorm("x", "b", "two"),
        helper.make_node("Add", ["a", "b"], ["s"]),
        batchnorm("s", "t", "three"),
        helper.make_node("Add", ["t", "x"], ["y"]),
    ]
    constants = {"w": rng.normal(size=(3, 3, 3, 3))}
    for name in ("one", "two", "three"):
        constants |= statistics(rng, 3, name)
    proto = model(nodes, {"x": ["n", 3, 4, 4]}, ["y"], constants)
    inputs = {"x": 1 + rng.normal(size=(COUNT, 3, 4, 4))}

    result, _ = adapted(proto, samples(**inputs), tmp_path)

    assert_same_statistics(corrected(proto, inputs, {"one": "c", "two": "x", "three": "s"}), result)


def test_rows_behind_a_reshape_belong_to_their_samples(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("Reshape", ["x", "flat"], ["f"]),
        batchnorm("f", "b"),
        helper.make_node("Reshape", ["b", "back"], ["y"]),
    ]
    constants = statistics(rng, 4) | {"flat": np.array([-1, 4]), "back": np.array([-1, 5, 4])}
    proto = model(nodes, {"x": ["n", 5, 4]}, ["y"], constants)
    inputs = {"x": rng.normal(size=(COUNT, 5, 4)) + rng.normal(size=(COUNT, 1, 4))}

    result, found = adapted(proto, samples(**inputs), tmp_path)

    assert_same_statistics(corrected(proto, inputs, {"bn": "f"}), result)
    per_sample = measure_stability(inputs["x"].mean(1), inputs["x"].var(1), 1e-5)
    assert found.layers[0].stability.means.z == pytest.approx(per_sample.means.z)


def test_two_layers_that_share_their_statistics_get_their_own(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    nodes = [batchnorm("x", "a"), helper.make_node("Exp", ["a"], ["e"]), batchnorm("e", "y")]
    nodes[0].name, nodes[2].name = "first", "second"
    proto = model(nodes, {"x": ["n", 2]}, ["y"], statistics(rng, 2))

    _, found = adapted(proto, samples(x=rng.normal(size=(COUNT, 2))), tmp_path)

    assert [layer.node for layer in found.layers] == ["first", "second"]
    np.testing.assert_array_equal(found.layers[0].old.mean, found.layers[1].old.mean)
    assert not np.allclose(found.layers[0].new.mean, found.layers[1].new.mean)


def test_a_network_that_fixes_its_batch_gets_whole_batches(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    proto = model([batchnorm("x", "y")], {"x": [8, 3]}, ["y"], statistics(rng, 3))
    inputs = {"x": rng.normal(size=(COUNT, 3))}

    _, found = adapted(proto, samples(**inputs), tmp_path, prior=0.0)

    np.testing.assert_allclose(found.layers[0].new.mean, inputs["x"].mean(0))
    with pytest.raises(SampleError, match="takes batches of 8 samples; 39 are not whole batches"):
        adapted(proto, samples(x=inputs["x"][:39]), tmp_path)


def test_several_inputs_and_a_branch_that_reads_outer_values(tmp_path: Path) -> None:
    """Between two layers stands an If; its branches read a value that was made before the first layer."""
    rng = np.random.default_rng(0)
    kind = helper.make_tensor_value_info("o", TensorProto.DOUBLE, None)
    branches = {
        "then_branch": helper.make_graph([helper.make_node("Add", ["a", "s"], ["o"])], "then", [], [kind]),
        "else_branch": helper.make_graph(
            [helper.make_node("Sub", ["a", "s"], ["o2"])],
            "else",
            [],
            [helper.make_tensor_value_info("o2", TensorProto.DOUBLE, None)],
        ),
    }
    nodes = [
        helper.make_node("Add", ["x", "z"], ["s"]),
        batchnorm("s", "a", "one"),
        helper.make_node("ReduceSum", ["s"], ["total"], keepdims=0),
        helper.make_node("Greater", ["total", "limit"], ["which"]),
        helper.make_node("If", ["which"], ["i"], **branches),
        helper.make_node("Reshape", ["i", "shape"], ["j"]),
        batchnorm("j", "y", "two"),
    ]
    constants = statistics(rng, 2, "one") | statistics(rng, 2, "two")
    constants |= {"limit": np.array(-1e9), "shape": np.array([-1, 2])}
    proto = model(nodes, {"x": ["n", 2], "z": ["n", 2]}, ["y"], constants)
    inputs = {name: rng.normal(size=(COUNT, 2)) for name in "xz"}

    result, _ = adapted(proto, samples(**inputs), tmp_path)

    assert_same_statistics(corrected(proto, inputs, {"one": "s", "two": "j"}), result)


def test_functions_are_inlined(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    parameters = ["scale", "shift", "mean", "var"]
    inner = helper.make_node("BatchNormalization", ["in", *parameters], ["out"])
    function = helper.make_function("own", "Norm", ["in", *parameters], ["out"], [inner], [helper.make_opsetid("", 17)])
    names = [f"bn.{field}" for field in parameters]
    graph = model([batchnorm("x", "y")], {"x": ["n", 2]}, ["y"], statistics(rng, 2)).graph
    graph.node[0].CopyFrom(helper.make_node("Norm", ["x", *names], ["y"], domain="own", name="call"))
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    proto = helper.make_model(graph, functions=[function], opset_imports=imports, ir_version=10)
    x = rng.normal(size=(COUNT, 2))

    _, found = adapted(proto, samples(x=x), tmp_path, prior=0.0)

    np.testing.assert_allclose(found.layers[0].new.mean, x.mean(0))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["legacy_seresnet18", "levit_128s", "mobilenetv3_small_050", "test_coatnet"])
def test_published_graphs_end_with_the_statistics_of_their_own_activations(name: str, tmp_path: Path) -> None:
    """Without a prior, each layer of the result holds mean and variance of what it is given in the result."""
    proto = published_graph(name)
    (port,) = proto.graph.input
    batch, *size = [axis.dim_value for axis in port.type.tensor_type.shape.dim]
    x = np.random.default_rng(0).normal(0.5, 2, (3 * batch, *size)).astype(np.float32)

    result, found = adapted(proto, samples(**{port.name: x}), tmp_path, prior=0.0)

    nodes = [node for node in result.graph.node if node.op_type == "BatchNormalization"]
    assert len(found.layers) == len(nodes)
    read = list(dict.fromkeys(node.input[0] for node in nodes))
    del result.graph.output[:]
    result.graph.output.extend(onnx.ValueInfoProto(name=value) for value in read)
    runs = [run32(result, {port.name: rows}) for rows in np.split(x, 3)]
    given_to = {value: np.concatenate(arrays) for value, *arrays in zip(read, *runs, strict=True)}
    held = {each.name: onnx.numpy_helper.to_array(each) for each in result.graph.initializer}
    for node in nodes:
        given = given_to[node.input[0]].astype(np.float64)
        over = (0, *range(2, given.ndim))
        deviation = np.sqrt(given.var(over)) + 1e-6 * np.abs(given).max()
        assert (np.abs(held[node.input[3]] - given.mean(over)) <= 1e-4 * deviation).all()
        assert (np.abs(np.sqrt(held[node.input[4]]) - given.std(over)) <= 1e-4 * deviation).all()


def test_recalibration_blends_with_given_trained_statistics(tmp_path: Path) -> None:
    proto, inputs = chain(np.random.default_rng(0), 1)
    once, found = adapted(proto, samples(**inputs), tmp_path)

    twice, again = adapted(once, samples(**inputs), tmp_path, trained=found.trained)
    drifted, _ = adapted(once, samples(**inputs), tmp_path)

    assert_same_statistics(once, twice)
    assert all((layer.moved < 1e-9).all() for layer in again.layers)
    with pytest.raises(AssertionError):
        assert_same_statistics(once, drifted)


def subgraph() -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    out = [helper.make_tensor_value_info(name, TensorProto.DOUBLE, ["n", 2]) for name in ("o", "p")]
    branches = {
        "then_branch": helper.make_graph([batchnorm("x", "o")], "then", [], out[:1]),
        "else_branch": helper.make_graph([helper.make_node("Identity", ["x"], ["p"])], "else", [], out[1:]),
    }
    nodes = [helper.make_node("If", ["which"], ["y"], **branches)]
    return model(nodes, {"x": ["n", 2]}, ["y"], statistics(rng, 2) | {"which": np.array(True)})


def other_axis() -> onnx.ModelProto:
    nodes = [helper.make_node("Transpose", ["x"], ["t"], perm=[1, 2, 0]), batchnorm("t", "y")]
    return model(nodes, {"x": ["n", 3, 2]}, ["y"], statistics(np.random.default_rng(0), 2))


def overridden() -> onnx.ModelProto:
    proto = model([batchnorm("x", "y")], {"x": ["n", 2]}, ["y"], statistics(np.random.default_rng(0), 2))
    proto.graph.input.append(helper.make_tensor_value_info("bn.mean", TensorProto.DOUBLE, [2]))
    return proto


@pytest.mark.parametrize(
    ("proto", "shape", "says"),
    [
        (model([helper.make_node("Relu", ["x"], ["y"])], {"x": ["n", 2]}, ["y"], {}), (2,), "no BatchNormalization"),
        (subgraph(), (2,), "'bn' stands in the subgraph of a control flow node"),
        (other_axis(), (3, 2), "'bn' is given 't', whose first axis does not hold the samples"),
        (overridden(), (2,), "cannot be replaced: BatchNormalization 'bn': its running_mean may be overridden"),
    ],
)
def test_model_that_cannot_be_adapted_is_named_with_the_reason(
    proto: onnx.ModelProto, shape: Any, says: str, tmp_path: Path
) -> None:
    with pytest.raises(NotAdaptableError, match=says):
        adapted(proto, samples(x=np.ones((COUNT, *shape))), tmp_path)


def chain_with_overridden() -> onnx.ModelProto:
    """Make BatchNormalization one, Relu, two and three, of which the caller may override the mean of two."""
    nodes = [
        batchnorm("x", "a", "one"),
        helper.make_node("Relu", ["a"], ["r"]),
        batchnorm("r", "b", "two"),
        helper.make_node("Relu", ["b"], ["s"]),
        batchnorm("s", "y", "three"),
    ]
    constants = {}
    for name in ("one", "two", "three"):
        constants |= statistics(np.random.default_rng(3), 2, name)
    proto = model(nodes, {"x": ["n", 2]}, ["y"], constants)
    proto.graph.input.append(helper.make_tensor_value_info("two.mean", TensorProto.DOUBLE, [2]))
    return proto


def test_layer_that_cannot_be_replaced_is_named_and_left_with_allow_partial(tmp_path: Path) -> None:
    proto, inputs = chain_with_overridden(), {"x": 1 + np.random.default_rng(0).normal(size=(COUNT, 2))}
    says = (
        "The statistics of a layer cannot be replaced: BatchNormalization 'two': its running_mean may be overridden by "
        "the caller (`freeze_inputs` makes its default a constant). `allow_partial` leaves it and "
        "goes on with the other 2."
    )
    with pytest.raises(NotAdaptableError) as raised:
        adapted(proto, samples(**inputs), tmp_path)
    assert str(raised.value) == says

    result, found = adapted(proto, samples(**inputs), tmp_path, allow_partial=True)

    assert [layer.node for layer in found.layers] == ["one", "three"]
    assert [says.startswith(sentence) for sentence in found.unchanged] == [True]
    assert_same_statistics(corrected(proto, inputs, {"one": "x", "three": "s"}), result)


def test_layer_that_cannot_be_sampled_is_left_with_allow_partial(tmp_path: Path) -> None:
    nodes = [
        batchnorm("x", "a", "one"),
        helper.make_node("Transpose", ["a"], ["t"], perm=[1, 2, 0]),
        batchnorm("t", "y", "two"),
    ]
    constants = statistics(np.random.default_rng(0), 3, "one") | statistics(np.random.default_rng(0), 2, "two")
    proto, given = model(nodes, {"x": ["n", 3, 2]}, ["y"], constants), samples(x=RNG_ROWS)
    with pytest.raises(NotAdaptableError, match=r"first axis does not hold the samples. `allow_partial` .* other 1"):
        adapted(proto, given, tmp_path)

    _, found = adapted(proto, given, tmp_path, allow_partial=True)

    assert [layer.node for layer in found.layers] == ["one"]
    assert len(found.unchanged) == 1


def test_allow_partial_still_needs_one_layer(tmp_path: Path) -> None:
    with pytest.raises(
        NotAdaptableError, match=r"may be overridden by the caller \(`freeze_inputs` makes its default a constant\)\.$"
    ):
        adapted(overridden(), samples(x=np.ones((COUNT, 2))), tmp_path, allow_partial=True)


def test_batchnorm_in_training_mode_is_rejected(tmp_path: Path) -> None:
    node = batchnorm("x", "y", training_mode=1)
    node.output.extend(["m", "v"])
    proto = model([node], {"x": ["n", 2]}, ["y"], statistics(np.random.default_rng(0), 2))
    with pytest.raises(TrainingModeError):
        adapted(proto, samples(x=np.ones((COUNT, 2))), tmp_path)


def test_statistics_beyond_their_dtype_are_rejected(tmp_path: Path) -> None:
    nodes = [helper.make_node("Exp", ["x"], ["e"]), batchnorm("e", "y")]
    constants = statistics(np.random.default_rng(0), 2, dtype=np.float32)
    proto = model(nodes, {"x": ["n", 2]}, ["y"], constants, dtype=np.float32)
    with pytest.raises(SampleStatisticsError, match="drive BatchNormalization 'bn' beyond"):
        adapted(proto, samples(x=np.full((COUNT, 2), 1e4, np.float32)), tmp_path)


def test_samples_that_the_network_cannot_run_on_are_rejected(tmp_path: Path) -> None:
    nodes = [helper.make_node("Gather", ["table", "x"], ["t"]), batchnorm("t", "y")]
    constants = statistics(np.random.default_rng(0), 2, dtype=np.float32) | {"table": np.zeros((4, 2), np.float32)}
    proto = model(nodes, {"x": ["n"]}, ["y"], constants, dtype=np.int64)

    with pytest.raises(NotAdaptableError, match="The network cannot be run on these samples: .*out of"):
        adapted(proto, samples(x=np.full(COUNT, 9)), tmp_path)


def recalibrate_at_one_layer(x: np.ndarray, tmp_path: Path) -> Recalibration:
    nodes = [helper.make_node("Identity", ["x"], ["i"]), batchnorm("i", "y")]
    proto = model(nodes, {"x": ["n", *x.shape[1:]]}, ["y"], statistics(np.random.default_rng(0), x.shape[1]))
    return adapted(proto, samples(x=x), tmp_path)[1]


@pytest.mark.parametrize("seed", range(10))
def test_equal_samples_are_stable_though_their_pixels_are_alike(seed: int, tmp_path: Path) -> None:
    """Each sample has a level of its own: halves of as many independent pixels would never differ so much."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(COUNT, 3, 8, 8)) * 0.1 + rng.normal(size=(COUNT, 1, 1, 1))

    recalibrate_at_one_layer(x, tmp_path).require()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda x, late: x + late, "'bn' their means lie"),
        (lambda x, late: x * (1 + 2 * late), "'bn' their variances lie"),
        (lambda x, _: x + 2 * np.linspace(0, 1, len(x)).reshape(-1, 1, 1, 1), "means lie"),
    ],
)
def test_samples_that_change_half_way_are_rejected(change: Any, says: str, tmp_path: Path) -> None:
    late = (np.arange(COUNT) >= COUNT // 2).reshape(-1, 1, 1, 1)
    x = change(np.random.default_rng(0).normal(size=(COUNT, 3, 8, 8)), late)

    with pytest.raises(UnstableSamplesError, match=says) as caught:
        recalibrate_at_one_layer(x, tmp_path).require()

    assert caught.value.z > 4
    shuffled = np.random.default_rng(1).permutation(x)  # a drift shows in the order alone
    recalibrate_at_one_layer(shuffled, tmp_path).require()


def test_small_gap_between_samples_is_stable_however_certain(tmp_path: Path) -> None:
    late = (np.arange(4000) >= 2000).reshape(-1, 1)

    found = recalibrate_at_one_layer(np.random.default_rng(0).normal(size=(4000, 3)) + 0.2 * late, tmp_path)

    assert found.layers[0].stability.means.z > 4
    found.require()


def test_activations_leave_nothing_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "aside").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "aside"))
    proto, inputs = chain(np.random.default_rng(0), 2)

    adapted(proto, samples(**inputs), tmp_path)
    with pytest.raises(NotAdaptableError):
        adapted(other_axis(), samples(x=np.ones((COUNT, 3, 2))), tmp_path)

    assert list((tmp_path / "aside").iterdir()) == []


def test_stability_needs_a_minimum_of_samples() -> None:
    means = np.random.default_rng(0).normal(size=(MIN_SAMPLES, 2))

    assert np.isfinite(measure_stability(means, np.ones_like(means), 1e-5).means.z)
    with pytest.raises(ValueError, match="3 samples have no halves to compare"):
        measure_stability(means[1:], np.ones_like(means[1:]), 1e-5)
