"""Parameters that add a bias and nothing else: what a fold reads of them, rounded as the file holds them."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from normfold.export.unfold.parameters import Parameters, bias_parameters

DTYPES = {np.float32: ir.DataType.FLOAT, np.float64: ir.DataType.DOUBLE, np.float16: ir.DataType.FLOAT16}


def gain_and_offset(parameters: Parameters) -> tuple[np.ndarray, np.ndarray]:
    gain = parameters.scale / np.sqrt(parameters.running_var + parameters.epsilon)
    return gain, parameters.shift - gain * parameters.running_mean


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("spread", [1e-3, 1.0, 30.0])
def test_parameters_without_bias_are_the_identity_exactly(dtype: type, spread: float) -> None:
    rng = np.random.default_rng(0)
    mean, var = rng.normal(size=1000) * spread, (rng.uniform(0.1, 3, 1000) * spread) ** 2
    var[:3] = 0, 1e-12, 1e-6

    parameters = bias_parameters(mean, var, np.zeros(1000), DTYPES[dtype])

    gain, offset = gain_and_offset(parameters)
    assert (gain == 1).all()
    assert (offset == 0).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [1e-2, 1.0, 100.0])
def test_bias_comes_back_within_two_units_in_the_last_place(dtype: type, size: float) -> None:
    rng = np.random.default_rng(1)
    bias = (rng.normal(size=100) * size).astype(dtype).astype(np.float64)
    bias[:10] = 0
    mean = rng.normal(size=100) * 3

    parameters = bias_parameters(mean, rng.uniform(0.1, 3, 100), bias, DTYPES[dtype])

    gain, offset = gain_and_offset(parameters)
    unit = np.finfo(dtype).eps
    assert np.abs(gain - 1).max() <= unit * (2 if dtype is np.float64 else 1)  # the gain itself is float64
    near = np.abs(bias) > np.abs(mean) / (20_000 if dtype is np.float32 else 2)
    found = np.abs(offset.astype(dtype).astype(np.float64) - bias)[near]
    assert (found <= 2 * np.spacing(np.abs(bias[near]).astype(dtype)).astype(np.float64)).all()
    assert (offset[:10] == 0).all()


def test_plain_rounding_would_lose_a_bias_that_is_small_beside_the_mean() -> None:
    rng = np.random.default_rng(1)
    bias = (rng.normal(size=1000) * 1e-2).astype(np.float32).astype(np.float64)
    mean = rng.normal(size=1000) * 3

    lost = (mean + bias).astype(np.float32).astype(np.float64) - mean.astype(np.float32).astype(np.float64)

    assert (np.abs(lost.astype(np.float32) - bias) > 2 * np.spacing(np.abs(bias).astype(np.float32))).any()


def test_statistics_are_those_that_are_given() -> None:
    rng = np.random.default_rng(0)
    mean, var, bias = rng.normal(size=100), rng.uniform(0.01, 5, 100), rng.normal(size=100)

    parameters = bias_parameters(mean, var, bias, ir.DataType.FLOAT)

    np.testing.assert_allclose(parameters.running_mean, mean, rtol=1e-7)
    np.testing.assert_allclose(parameters.running_var, var, rtol=2e-3)
    np.testing.assert_allclose(parameters.shift, mean + bias, rtol=1e-6, atol=1e-7)
    assert parameters.epsilon == 2**-17
    assert all((array.astype(np.float32) == array).all() for array in parameters.arrays)


def test_statistics_beyond_the_dtype_are_not_finite() -> None:
    parameters = bias_parameters(np.array([1e6]), np.array([1.0]), np.zeros(1), ir.DataType.FLOAT16)
    assert not parameters.are_finite


def test_bias_that_is_lost_beside_a_mean_is_noticed() -> None:
    bias, mean = np.array([1e-6, 0.0]), np.array([1e6, 1e6])
    kept = bias_parameters(mean, np.ones(2), np.zeros(2), ir.DataType.FLOAT)
    assert not bias_parameters(mean, np.ones(2), bias, ir.DataType.FLOAT).add_only(bias, ir.DataType.FLOAT)
    assert kept.add_only(np.zeros(2), ir.DataType.FLOAT)
    assert not kept.add_only(np.array([0.0, 1e-30]), ir.DataType.FLOAT)


def test_bias_of_bfloat16_is_compared_in_its_own_precision() -> None:
    bias = np.array([1.0, 0.0])
    parameters = bias_parameters(np.array([3.0, 4.0]), np.ones(2), np.array([1.01, 0.0]), ir.DataType.FLOAT)
    assert parameters.add_only(bias, ir.DataType.BFLOAT16)
    assert not parameters.add_only(bias, ir.DataType.FLOAT)
