"""The static proof of a quantised file: planted weights that saturate are found, by the name of their layer."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from normfold.export.quantize.int8.saturation import saturation


def quantised_conv(weight: np.ndarray, group: int = 1) -> onnx.ModelProto:
    """Make a Conv of rounded inputs by a rounded weight, as quantisers write it."""
    inputs = weight.shape[1] * group
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "xs", "xz"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "xs", "xz"], ["xd"]),
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["wd"], axis=0),
        helper.make_node("Conv", ["xd", "wd"], ["y"], name="conv", group=group),
    ]
    constants = {
        "xs": np.float32(0.1),
        "xz": np.uint8(0),
        "w": weight,
        "ws": np.full(len(weight), 0.1, np.float32),
        "wz": np.zeros(len(weight), weight.dtype),
    }
    graph = helper.make_graph(
        nodes,
        "quantised",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, inputs, 5, 5])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", "c", "h", "w"])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    onnx.checker.check_model(made)
    return made


def test_layer_whose_pairs_sum_to_128_does_not_saturate() -> None:
    (found,) = saturation(quantised_conv(np.full((2, 4, 3, 3), 64, np.int8)))
    assert (found.layer, found.pair_sum, found.product, found.saturates) == ("conv", 128, 32640, False)


@pytest.mark.parametrize("sign", [1, -1])
def test_planted_weight_that_saturates_is_found(sign: int) -> None:
    weight = np.full((2, 4, 3, 3), 10, np.int8) * np.int8(sign)
    weight[1, 2, 1, 1], weight[1, 3, 1, 1] = sign * 65, sign * 64
    (found,) = saturation(quantised_conv(weight))
    assert found.saturates
    assert found.pair_sum == 129


def test_pair_of_opposite_signs_does_not_saturate() -> None:
    weight = np.tile(np.array([127, -127], np.int8).reshape(1, 2, 1, 1), (2, 1, 3, 3))
    assert not saturation(quantised_conv(weight))[0].saturates


def test_depthwise_conv_does_not_saturate_and_with_a_multiplier_does() -> None:
    assert not saturation(quantised_conv(np.full((4, 1, 3, 3), 127, np.int8), group=4))[0].saturates
    assert saturation(quantised_conv(np.full((8, 1, 3, 3), 127, np.int8), group=4))[0].saturates


def test_weights_in_uint8_are_not_looked_at() -> None:
    assert saturation(quantised_conv(np.full((2, 4, 3, 3), 255, np.uint8))) == ()


@pytest.mark.parametrize(
    ("op_type", "shape"), [("QLinearConv", (2, 4, 1, 1)), ("QLinearMatMul", (4, 2)), ("QLinearMatMul", (3, 4, 2))]
)
def test_weight_of_an_integer_operator_is_found(op_type: str, shape: tuple[int, ...]) -> None:
    names = ["x", "xs", "xz", "w", "ws", "wz", "ys", "yz"]
    node = helper.make_node(op_type, names, ["y"], name="layer")
    weight = numpy_helper.from_array(np.full(shape, 100, np.int8), "w")
    model = helper.make_model(helper.make_graph([node], "integer", [], [], [weight]))
    (found,) = saturation(model)
    assert (found.layer, found.pair_sum) == ("layer", 200)
