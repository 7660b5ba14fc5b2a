"""Each channel is measured beside its own range: none hides the error of another, and none fails falsely."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from normfold.export.errors import VerificationError
from normfold.export.verify.channels import MIN_VALUES, values_at_an_index
from normfold.export.verify.measure import measure
from normfold.export.verify.tolerance import CHANNEL_FLOORS, FLOOR
from normfold.export.verify.verify import verify
from tests.support.onnx_models import model

WIDE = 1e6
"""Gain of one channel over that of the others."""


def layer(kind: str, gain: float = WIDE, shift: float = 0.0) -> onnx.ModelProto:
    """Make one layer with four channels: `gain` on the first, `shift` added to the last."""
    rng = np.random.default_rng(0)
    bias = np.array([0.0, 0.0, 0.0, shift], np.float32)
    gains = np.array([gain, 1.0, 1.0, 1.0])
    match kind:
        case "conv":
            nodes = [helper.make_node("Conv", ["x", "w", "b"], ["y"])]
            weight, shape = rng.normal(size=(4, 3, 1, 1)) * gains.reshape(-1, 1, 1, 1), ["n", 3, 8, 8]
        case "sequence":
            nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Add", ["h", "b"], ["y"])]
            weight, shape = rng.normal(size=(3, 4)) * gains, ["n", 6, 3]
        case _:
            nodes = [helper.make_node("Gemm", ["x", "w", "b"], ["y"])]
            weight, shape = rng.normal(size=(3, 4)) * gains, [1 if kind == "one row" else "n", 3]
    return model(nodes, {"x": shape}, ["y"], {"w": weight.astype(np.float32), "b": bias}, dtype=np.float32)


@pytest.mark.parametrize(
    ("kind", "axis", "index"), [("conv", 1, 3), ("rows", 1, 3), ("one row", 1, 3), ("sequence", 2, 3)]
)
def test_channel_with_a_large_gain_hides_no_shift_in_another(kind: str, axis: int, index: int, tmp_path: Path) -> None:
    onnx.save(layer(kind), tmp_path / "a.onnx")
    onnx.save(layer(kind, shift=1e-3), tmp_path / "b.onnx")

    same = verify(tmp_path / "a.onnx", tmp_path / "a.onnx")
    other = verify(tmp_path / "a.onnx", tmp_path / "b.onnx")

    assert same.passes
    found = other.outputs["y"]
    assert found.is_allowed  # beside the widest channel, the shift is nothing
    assert found.channel is not None
    assert (found.channel.axis, found.channel.index) == (axis, index)
    assert not other.passes
    with pytest.raises(VerificationError, match=f"Output 'y' differs by .* at index {index} of axis {axis}, allowed"):
        other.require()


def measured(
    wanted: np.ndarray, error: np.ndarray | float, noise: np.ndarray | float = 0.0, has_steps: bool = False
) -> bool:
    """Return whether an output passes that differs by `error`, and whose noise is `noise`."""
    return measure([wanted], [wanted + error], [[[wanted + noise] * 4]], has_steps=has_steps).passes


def test_channel_that_is_constant_is_measured_beside_the_range_of_the_others() -> None:
    rng = np.random.default_rng(1)
    wanted = rng.normal(size=(16, 4)).astype(np.float32)
    wanted[:, 2] = 0.0
    error = np.zeros_like(wanted)
    error[:, 2] = 1e-7  # a Relu that rounding opened

    assert measured(wanted, error)
    assert not measured(wanted, 1e3 * error)


def test_channel_is_rounded_by_its_magnitude_not_by_its_range() -> None:
    rng = np.random.default_rng(2)
    wanted = rng.normal(size=(16, 4)).astype(np.float32)
    wanted[:, 1] = 240.0 + rng.normal(size=16)

    assert measured(wanted, np.array([0.0, 2e-4, 0.0, 0.0], np.float32))
    assert not measured(wanted, np.array([0.0, 5e-3, 0.0, 0.0], np.float32))


def test_noise_of_one_channel_hides_no_error_of_another() -> None:
    rng = np.random.default_rng(3)
    wanted = rng.normal(size=(64, 16)).astype(np.float32)
    noise, error = np.full_like(wanted, 1e-7), np.zeros_like(wanted)
    noise[:, 0], error[:, 1] = 0.05, 1e-3

    assert not measured(wanted, error, noise)
    assert measured(wanted, np.roll(error, -1, axis=1), noise)  # the same error where the noise is


def test_channel_that_the_perturbations_moved_less_than_others_has_their_noise() -> None:
    rng = np.random.default_rng(4)
    wanted = rng.normal(size=(3, 100, 1, 4)).astype(np.float32)
    noise = rng.uniform(1e-5, 3e-5, wanted.shape).astype(np.float32)
    noise[:, 7] = 0.0

    assert measured(wanted, np.float32(2e-5), noise)


def test_jumps_of_a_quantised_network_are_noise_wherever_they_are() -> None:
    rng = np.random.default_rng(5)
    wanted = rng.integers(0, 255, (64, 16)).astype(np.float32)
    noise, error = np.zeros_like(wanted), np.zeros_like(wanted)
    noise[3, 0], error[5, 1] = 1.0, 1.0

    assert measured(wanted, error, noise, has_steps=True)
    assert not measured(wanted, error, noise)


def test_shift_within_the_noise_of_single_values_is_found_by_the_mean() -> None:
    """A shift of 0.4 % of the range is four units of float16: a few roundings, but not of all values alike."""
    rng = np.random.default_rng(6)
    wanted = rng.normal(size=(4, 3, 16, 16)).astype(np.float16)
    span = float(np.ptp(wanted.astype(np.float32)))
    noise = rng.choice([-1.0, 1.0], wanted.shape) * 5e-4 * span
    shifted = (wanted + np.float16(4e-3 * span)).astype(np.float16)
    moved = (wanted + noise).astype(np.float16)

    found = measure([wanted], [shifted], [[[moved] * 4]])
    right = measure([wanted], [moved], [[[moved] * 4]])

    assert found.is_allowed
    assert found.channel is not None
    assert found.channel.is_mean
    assert not found.passes
    assert right.passes


def test_axis_with_few_values_at_an_index_is_left_out() -> None:
    rng = np.random.default_rng(7)
    few, enough = rng.normal(size=(MIN_VALUES - 1, 4)), rng.normal(size=(MIN_VALUES, 4))

    assert measure([few], [few], [[[few]]]).channel is None
    assert measure([enough], [enough], [[[enough]]]).channel is not None
    assert values_at_an_index([few, few]) == 2 * (MIN_VALUES - 1)
    assert values_at_an_index([few[0]]) == 0


def test_outputs_of_several_sizes_are_measured_on_the_axes_that_agree() -> None:
    rng = np.random.default_rng(8)
    tensors = [rng.normal(size=(3, 2, size, size)).astype(np.float32) for size in (8, 12)]

    found = measure(tensors, tensors, [[[tensor]] for tensor in tensors])

    assert found.channel is not None
    assert found.channel.axis == 1


def test_values_that_are_not_finite_do_not_count_for_a_channel() -> None:
    rng = np.random.default_rng(9)
    wanted = rng.normal(size=(16, 4)).astype(np.float32)
    wanted[3, 1], wanted[:, 2] = np.inf, np.nan

    assert measured(wanted, 0.0)
    assert not measured(wanted, np.float32(1e-4))


def test_channels_of_an_empty_output_are_none() -> None:
    empty, full = np.zeros((0, 4), np.float32), np.ones((3, 0), np.float32)

    assert measure([empty], [empty], [[[empty]]]).passes
    assert measure([full], [full], [[[full]]]).passes


def test_floor_of_a_channel_is_that_of_the_output_or_a_few_times_as_much() -> None:
    assert CHANNEL_FLOORS["float32"] == 4 * FLOOR
    assert CHANNEL_FLOORS["float16"] == 2 * np.finfo(np.float16).eps


def test_shift_in_one_channel_of_a_wide_network_is_found(tmp_path: Path) -> None:
    source = layer("conv")
    onnx.save(source, tmp_path / "a.onnx")
    weight = next(tensor for tensor in source.graph.initializer if tensor.name == "w")
    array = numpy_helper.to_array(weight).copy()
    array[2] *= 1 + 1e-3
    weight.CopyFrom(numpy_helper.from_array(array, "w"))
    onnx.save(source, tmp_path / "b.onnx")

    assert not verify(tmp_path / "a.onnx", tmp_path / "b.onnx").passes
