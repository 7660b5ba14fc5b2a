"""Verification: equal networks pass, wrong folds do not."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import normfold
from normfold.cli.commands.onnx_files import fold as fold_command
from normfold.cli.commands.onnx_files import verify as verify_command
from normfold.export.errors import ModelFileError, ModelInputError, VerificationError
from normfold.export.files.fold_file import fold_file
from normfold.export.verify.inputs import BATCH_SIZE
from normfold.export.verify.measure import measure
from normfold.export.verify.runner import Engine
from normfold.export.verify.tolerance import FLOOR, NOISE_FACTOR
from normfold.export.verify.verify import verify
from tests.support.onnx_models import folded, model, small_convnet


def initializer(proto: onnx.ModelProto, name: str) -> onnx.TensorProto:
    return next(tensor for tensor in proto.graph.initializer if tensor.name == name)


def array_of(proto: onnx.ModelProto, name: str) -> np.ndarray:
    return numpy_helper.to_array(initializer(proto, name)).copy()


def put(proto: onnx.ModelProto, name: str, array: np.ndarray) -> None:
    initializer(proto, name).CopyFrom(numpy_helper.from_array(array, name))


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path, onnx.ModelProto, onnx.ModelProto]:
    """Give the paths and models of a network and its right fold."""
    source = small_convnet(np.random.default_rng(0))
    result, _ = folded(source)
    paths = tmp_path / "a.onnx", tmp_path / "b.onnx"
    for path, proto in zip(paths, (source, result), strict=True):
        onnx.save(proto, path)
    return *paths, source, result


def test_a_right_fold_passes_within_its_noise(pair: Any) -> None:
    original, result, *_ = pair

    verification = verify(original, result)

    assert verification.passes
    assert verification.batchable
    difference = verification.outputs["y"]
    assert 0 < difference.noise < 1e-5
    assert difference.error <= difference.allowed == 8 * difference.noise + 1e-6


def wrong_shift(source: onnx.ModelProto, result: onnx.ModelProto) -> None:
    put(result, "b", array_of(result, "b") - array_of(source, "bn.shift"))


def wrong_group(_source: onnx.ModelProto, result: onnx.ModelProto) -> None:
    put(result, "w", np.roll(array_of(result, "w"), 2, axis=0))


def wrong_epsilon(source: onnx.ModelProto, result: onnx.ModelProto) -> None:
    var, shift = array_of(source, "bn.var"), array_of(source, "bn.shift")
    correction = np.sqrt((var + 1e-5) / (var + 1e-3))
    put(result, "w", array_of(result, "w") * correction.reshape(-1, 1, 1, 1))
    put(result, "b", (array_of(result, "b") - shift) * correction + shift)


def forgotten_old_bias(source: onnx.ModelProto, result: onnx.ModelProto) -> None:
    put(result, "b", array_of(result, "b") - array_of(source, "b"))


def not_a_number(_source: onnx.ModelProto, result: onnx.ModelProto) -> None:
    put(result, "b", np.full(4, np.nan, np.float32))


def one_weight_in_the_last_digits(_source: onnx.ModelProto, result: onnx.ModelProto) -> None:
    put(result, "v", array_of(result, "v") * np.float32(1 + 1e-4))


@pytest.mark.parametrize(
    "plant",
    [wrong_shift, wrong_group, wrong_epsilon, forgotten_old_bias, not_a_number, one_weight_in_the_last_digits],
)
def test_a_wrong_fold_is_caught(pair: Any, plant: Any) -> None:
    original, target, source, result = pair
    plant(source, result)
    onnx.save(result, target)

    verification = verify(original, target)

    assert not verification.passes
    with pytest.raises(VerificationError, match="Output 'y' differs by .*, allowed .*; nothing was written.") as caught:
        verification.require()
    assert caught.value.exit_code == 1
    assert not caught.value.error <= caught.value.allowed


def test_a_wrong_fold_is_never_written(pair: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("normfold.export.fold.batchnorm_parameters.DEFAULT_EPSILON", 1e-3)
    target = tmp_path / "target.onnx"
    before = sorted(tmp_path.iterdir())

    with pytest.raises(VerificationError):
        fold_file(pair[0], target)

    assert sorted(tmp_path.iterdir()) == before


def test_float64_models_are_verified_too(tmp_path: Path) -> None:
    source = small_convnet(np.random.default_rng(1), dtype=np.float64)
    onnx.save(source, tmp_path / "a.onnx")

    verification = fold_file(tmp_path / "a.onnx", tmp_path / "b.onnx").verification

    assert verification is not None
    assert verification.outputs["y"].noise < 1e-14
    assert verification.engine is Engine.REFERENCE


@pytest.mark.parametrize("opset", [17, onnx.defs.onnx_opset_version()])
def test_a_newer_ir_version_or_opset_than_the_runtime_knows(tmp_path: Path, opset: int) -> None:
    """The helpers of onnx write the newest IR version and opset, which are ahead of ONNX Runtime's."""
    source = small_convnet(np.random.default_rng(4))
    source.ir_version = onnx.IR_VERSION
    source.opset_import[0].version = opset
    onnx.save(source, tmp_path / "a.onnx")

    verification = fold_file(tmp_path / "a.onnx", tmp_path / "b.onnx").verification

    assert verification is not None
    assert verification.passes
    assert onnx.load(tmp_path / "b.onnx", load_external_data=False).ir_version <= onnx.IR_VERSION
    if opset == 17:
        onnxruntime.InferenceSession(tmp_path / "b.onnx", providers=["CPUExecutionProvider"])


def test_a_fixed_batch_axis_is_not_batchable(tmp_path: Path) -> None:
    onnx.save(small_convnet(np.random.default_rng(2), batch=2), tmp_path / "a.onnx")

    verification = verify(tmp_path / "a.onnx", tmp_path / "a.onnx")

    assert verification.passes
    assert not verification.batchable
    assert verification.outputs["y"].error == 0


def test_rows_that_interact_are_not_batchable(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["m"], axes=[0], keepdims=1),
        helper.make_node("Sub", ["x", "m"], ["y"]),
    ]
    onnx.save(model(nodes, {"x": ["n", 4]}, ["y"], {}, dtype=np.float32), tmp_path / "a.onnx")

    assert not verify(tmp_path / "a.onnx", tmp_path / "a.onnx").batchable


def test_integer_outputs_are_compared_element_by_element(tmp_path: Path) -> None:
    for name, maximum in (("a", 1), ("b", 0)):
        nodes = [helper.make_node("ArgMax" if maximum else "ArgMin", ["x"], ["y"], axis=1)]
        onnx.save(model(nodes, {"x": ["n", 4]}, ["y"], {}, dtype=np.float32), tmp_path / f"{name}.onnx")

    assert verify(tmp_path / "a.onnx", tmp_path / "a.onnx").outputs["y"].error == 0
    assert verify(tmp_path / "a.onnx", tmp_path / "b.onnx").outputs["y"].error == 1


def embedding(rng: np.random.Generator, scale: float) -> onnx.ModelProto:
    """Make a network that takes indices only."""
    table = (scale * rng.normal(size=(2, 4))).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("Gather", ["t", "x"], ["g"]), helper.make_node("ReduceSum", ["g", "axes"], ["y"])],
        "embedding",
        [helper.make_tensor_value_info("x", TensorProto.INT64, ["n", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 1, 4])],
        [numpy_helper.from_array(table, "t"), numpy_helper.from_array(np.array([1]), "axes")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)


def test_weights_are_perturbed_where_no_input_is_float(tmp_path: Path) -> None:
    onnx.save(embedding(np.random.default_rng(3), 1.0), tmp_path / "a.onnx")
    onnx.save(embedding(np.random.default_rng(3), 1.001), tmp_path / "b.onnx")

    same = verify(tmp_path / "a.onnx", tmp_path / "a.onnx")
    other = verify(tmp_path / "a.onnx", tmp_path / "b.onnx")

    assert 0 < same.outputs["y"].noise < 1e-6
    assert same.passes
    assert not other.passes


@pytest.mark.slow
def test_a_model_that_cannot_run_on_small_pictures_gets_larger_ones(tmp_path: Path) -> None:
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"])]
    weight = np.ones((1, 1, 40, 40), np.float32)
    onnx.save(model(nodes, {"x": ["n", 1, "h", "w_"]}, ["y"], {"w": weight}, dtype=np.float32), tmp_path / "a.onnx")

    assert verify(tmp_path / "a.onnx", tmp_path / "a.onnx").passes


def test_models_with_other_inputs_or_outputs_are_rejected(pair: Any, tmp_path: Path) -> None:
    original, _, source, _ = pair
    source.graph.output[0].name = "z"
    source.graph.node[-1].output[0] = "z"
    onnx.save(source, tmp_path / "c.onnx")

    with pytest.raises(ModelFileError, match="has other outputs than"):
        verify(original, tmp_path / "c.onnx")


def test_the_users_inputs_are_used(pair: Any, tmp_path: Path) -> None:
    original, result, *_ = pair
    np.savez(tmp_path / "zeros.npz", x=np.zeros((1, 4, 5, 5), np.float32))

    assert verify(original, result, tmp_path / "zeros.npz").passes


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"z": np.zeros((1, 4, 5, 5), np.float32)}, r"holds the arrays \['z'\]; the model's inputs are \['x'\]"),
        ({"x": np.zeros((1, 4, 5, 5))}, "'x' is float64, the model's input float32"),
        ({"x": np.zeros((1, 4, 5), np.float32)}, r"'x' has shape \[1, 4, 5\]"),
        ({"x": np.zeros((1, 3, 5, 5), np.float32)}, r"'x' has shape \[1, 3, 5, 5\]"),
    ],
)
def test_inputs_that_do_not_fit_are_named(pair: Any, tmp_path: Path, arrays: Any, says: str) -> None:
    np.savez(tmp_path / "bad.npz", **arrays)

    with pytest.raises(ModelInputError, match=says):
        verify(pair[0], pair[1], tmp_path / "bad.npz")


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_inputs_that_verify_nothing_are_rejected(pair: Any, tmp_path: Path, number: float) -> None:
    np.savez(tmp_path / "bad.npz", x=np.full((1, 4, 5, 5), number, np.float32))

    with pytest.raises(ModelInputError, match="holds NaN or infinity"):
        verify(pair[0], pair[1], tmp_path / "bad.npz")


def test_damaged_archives_are_named(pair: Any, tmp_path: Path) -> None:
    np.savez(tmp_path / "whole.npz", x=np.zeros((1, 4, 5, 5), np.float32))
    (tmp_path / "cut.npz").write_bytes((tmp_path / "whole.npz").read_bytes()[:-40])
    np.save(tmp_path / "one.npy", np.zeros((1, 4, 5, 5), np.float32))

    for name in ("cut.npz", "one.npy"):
        with pytest.raises(ModelInputError, match="is not an .npz file of plain arrays, or is damaged"):
            verify(pair[0], pair[1], tmp_path / name)


def test_noise_without_bound_verifies_nothing() -> None:
    wanted = [np.array([0.0, 1.0])]

    difference = measure(wanted, wanted, [[[np.array([0.0])] * 4]])

    assert difference.noise == float("inf")
    assert not difference.passes


def test_output_that_is_never_finite_verifies_nothing() -> None:
    wanted = [np.array([np.nan, np.inf])]

    assert not measure(wanted, wanted, [[wanted]]).passes


def test_one_unit_in_the_last_place_of_a_nearly_constant_output_is_allowed() -> None:
    wanted = [np.array([1.18, 1.18001], np.float32)]
    got = [np.nextafter(wanted[0], np.float32(2))]

    assert measure(wanted, got, [[wanted]]).passes


def test_inputs_that_are_no_archive_are_named(pair: Any, tmp_path: Path) -> None:
    (tmp_path / "bad.npz").write_text("no archive")

    with pytest.raises(ModelInputError, match="is not an .npz file of plain arrays, or is damaged"):
        verify(pair[0], pair[1], tmp_path / "bad.npz")


@pytest.mark.parametrize("shape", [["n", 3, 10**9, 10**9], [2**62, 3], [2**14, 2**15]])
def test_inputs_of_a_shape_beyond_memory_ask_for_a_file(shape: list[Any], tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    graph = model([helper.make_node("Relu", ["x"], ["y"])], {"x": shape}, ["y"], {})
    onnx.save(graph, path)

    with pytest.raises(ModelInputError, match="of input 'x' would not fit in memory; give inputs in an .npz file"):
        verify(path, path)


def test_text_inputs_ask_for_a_file(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "text",
        [helper.make_tensor_value_info("x", TensorProto.STRING, ["n"])],
        [helper.make_tensor_value_info("y", TensorProto.STRING, ["n"])],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    onnx.save(proto, tmp_path / "a.onnx")

    with pytest.raises(ModelInputError, match="Input 'x' is STRING; give inputs in an .npz file"):
        verify(tmp_path / "a.onnx", tmp_path / "a.onnx")


def test_error_is_relative_to_the_range_and_noise_is_a_median() -> None:
    wanted, got = np.array([0.0, 10.0]), np.array([0.0, 10.5])
    perturbed = [np.array([0.0, 10.1]), np.array([0.2, 10.0]), np.array([0.7, 10.0])]

    difference = measure([wanted], [got], [[perturbed]])

    assert difference.error == pytest.approx(0.05)
    assert difference.noise == pytest.approx(0.02)
    assert difference.allowed == pytest.approx(0.16)
    assert difference.ratio == pytest.approx(2.5)


@pytest.mark.parametrize(("calm_error", "wild_error", "passes"), [(1e-5, 0.5, True), (1e-3, 0.5, False)])
def test_allowed_error_of_each_input_is_from_its_own_noise(calm_error: float, wild_error: float, passes: bool) -> None:
    """A network may be well-conditioned at one input and ill-conditioned at another: each has its own noise."""
    wanted = [np.array([0.0, 10.0])] * 2
    got = [np.array([0.0, 10.0 + calm_error]), np.array([0.0, 10.0 + wild_error])]
    perturbed = [[[np.array([0.0, 10.0 + 1e-5])] * 4], [[np.array([0.0, 10.3])] * 4]]

    difference = measure(wanted, got, perturbed)

    assert difference.passes == passes
    assert difference.error == pytest.approx(wild_error / 10 if passes else calm_error / 10)


@pytest.mark.parametrize("got", [np.array([np.inf, 1.0]), np.array([np.nan, 1.0]), np.array([1.0])])
def test_outputs_that_cannot_be_compared_have_infinite_error(got: np.ndarray) -> None:
    wanted = [np.array([0.5, 1.0])]

    assert measure(wanted, [got], [[wanted]]).error == float("inf")


def test_infinities_that_agree_are_equal() -> None:
    wanted = [np.array([-np.inf, 1.0, 2.0, np.nan])]

    assert measure(wanted, wanted, [[wanted]]).error == 0


def test_free_axes_get_several_rows() -> None:
    assert BATCH_SIZE > 1


@pytest.mark.parametrize(
    "quoting",
    [normfold.fold, normfold.verify, fold_command.fold, verify_command.verify],
    ids=["normfold.fold", "normfold.verify", "fold command", "verify command"],
)
def test_docstrings_state_the_allowed_error_of_the_verification(quoting: Callable[..., object]) -> None:
    text = " ".join((quoting.__doc__ or "").split())

    assert re.search(rf"\b{NOISE_FACTOR:g} (times|\* noise)", text)
    assert FLOOR in [float(number) for number in re.findall(r"\b\d+e-\d+\b", text)]
