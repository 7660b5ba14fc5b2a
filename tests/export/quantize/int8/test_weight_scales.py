"""Scales of int8 weights: no pair of products overflows 16 bits, and no bit is given away where none would."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from normfold.export.quantize.int8.layers import Layer
from normfold.export.quantize.int8.weights.weight_scales import is_depthwise, pair_sums, quantised_rows, weight_scales


def layer_of(weight: np.ndarray, group: int = 1, op_type: str = "Conv", **attributes: int) -> Layer:
    value = ir.Value(name="w", shape=ir.Shape(weight.shape), type=ir.TensorType(ir.DataType.FLOAT))
    value.const_value = ir.tensor(weight.astype(np.float32))
    given = dict(attributes) | ({"group": group} if op_type == "Conv" else {})
    return Layer(ir.node(op_type, [ir.Value(name="x"), value], attributes=given))


def plain_scales(rows: np.ndarray) -> np.ndarray:
    """Return the scales of 8 bits for each output without regard to pairs."""
    return (np.abs(rows).reshape(len(rows), -1).max(axis=1) / 127).astype(np.float32)


def multiply_as_vpmaddubsw(row: np.ndarray, activations: np.ndarray) -> int:
    """Return the product of a row of int8 weights with uint8 activations, each pair added in saturating 16 bits."""
    products = row.astype(np.int64) * activations.astype(np.int64)
    pairs = np.pad(products, (0, len(products) % 2)).reshape(-1, 2).sum(axis=1)
    return int(np.clip(pairs, -(2**15), 2**15 - 1).sum())


def test_pair_sum_is_of_neighbours_of_the_same_sign() -> None:
    rows = np.array([[[3.0], [4.0], [5.0], [-9.0]], [[1.0], [-2.0], [-3.0], [-4.0]]])
    assert pair_sums(rows, depthwise=False).tolist() == [9.0, 7.0]


def test_pair_sum_of_an_odd_number_of_channels_goes_over_the_end_of_a_tap() -> None:
    rows = np.zeros((1, 3, 2))  # in order: tap 0 of the three channels, then tap 1
    rows[0, 2, 0], rows[0, 0, 1] = 5, 6
    assert pair_sums(rows, depthwise=False).tolist() == [11]
    rows = np.zeros((1, 3, 2))
    rows[0, 0, 1], rows[0, 1, 1] = 5, 6  # neighbours where pairs begin anew with every tap
    assert pair_sums(rows, depthwise=False).tolist() == [11]


def test_pair_sum_of_a_depthwise_weight_is_that_of_one_weight() -> None:
    rows = np.array([[[7, 6, -8]]], np.int8)
    assert pair_sums(rows, depthwise=True).tolist() == [8]
    assert pair_sums(rows, depthwise=False).tolist() == [13]


def test_pair_sum_of_int8_is_not_rounded_to_8_bits() -> None:
    assert pair_sums(np.array([[[-128], [-128]]], np.int8), depthwise=False).tolist() == [256]


def test_depthwise_weight_with_a_multiplier_has_pairs() -> None:
    assert is_depthwise(np.zeros((6, 1, 9)), group=6)
    assert not is_depthwise(np.zeros((12, 1, 9)), group=6)
    assert not is_depthwise(np.zeros((1, 1, 9)), group=1)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("channels", [1, 3, 8])
def test_rounded_weights_never_saturate(seed: int, channels: int) -> None:
    rng = np.random.default_rng(seed)
    weight = rng.choice([-1.0, 1.0, 0.5, 0.999], (16, channels, 3, 3)) * rng.uniform(0.9, 1, (16, channels, 3, 3))
    layer = layer_of(weight)
    rounded = quantised_rows(layer.rows(), weight_scales(layer))
    assert pair_sums(rounded, depthwise=False).max() <= 128
    assert pair_sums(quantised_rows(layer.rows(), plain_scales(layer.rows())), depthwise=False).max() > 128


def test_pair_of_ties_does_not_saturate() -> None:
    for first in np.arange(1, 128) + 0.5:
        layer = layer_of(np.array([first, 128 - first]).reshape(1, 2, 1, 1) / 100)
        rounded = quantised_rows(layer.rows(), weight_scales(layer))
        assert pair_sums(rounded, depthwise=False).max() <= 128


def test_weights_without_large_pairs_keep_all_8_bits() -> None:
    weight = np.array([1.0, -1.0, 0.2, 0.3]).reshape(1, 4, 1, 1)
    layer = layer_of(weight)
    assert np.abs(quantised_rows(layer.rows(), weight_scales(layer))).max() == 127


def test_products_are_exact_in_16_bits_with_our_scales_and_not_with_plain_ones() -> None:
    layer = layer_of(np.full((1, 64, 1, 1), 0.9))
    activations = np.full(64, 255, np.uint8)
    for scales, is_exact in ((weight_scales(layer), True), (plain_scales(layer.rows()), False)):
        row = quantised_rows(layer.rows(), scales)[0, :, 0]
        exact = int(row.astype(np.int64) @ activations.astype(np.int64))
        assert (multiply_as_vpmaddubsw(row, activations) == exact) is is_exact


@pytest.mark.parametrize(("op_type", "attributes"), [("Gemm", {}), ("Gemm", {"transB": 1}), ("MatMul", {})])
def test_pairs_of_a_matrix_are_neighbours_among_its_inputs(op_type: str, attributes: dict[str, int]) -> None:
    matrix = np.array([[1.0, 0.1], [1.0, 0.1], [0.1, 1.0]])  # three inputs, two outputs
    layer = layer_of(matrix.T if attributes else matrix, op_type=op_type, **attributes)
    first, second = weight_scales(layer)
    assert first == pytest.approx(2 / 128, rel=1e-6)
    assert second == pytest.approx(1 / 127, rel=1e-6)


def test_row_of_zeros_has_a_positive_scale() -> None:
    layer = layer_of(np.stack([np.zeros((4, 1, 1)), np.ones((4, 1, 1))]))
    scales = weight_scales(layer)
    assert scales[0] == pytest.approx(scales[1])
    assert weight_scales(layer_of(np.zeros((2, 4, 1, 1)))).tolist() == pytest.approx([1, 1])
