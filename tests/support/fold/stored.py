"""Weights that are integers behind a DequantizeLinear, and a Conv with one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, helper, numpy_helper

from tests.support.onnx_models import batchnorm, model, run32

OUTPUTS, INPUTS = 6, 4
LAST = ["Relu"]


@dataclass
class Stored:
    """A weight's integers and how they are scaled: None for one scale, else the axis of the scales."""

    integers: np.ndarray
    axis: int | None = 0
    zero_point: int | None = 0

    def constants(self, rng: np.random.Generator, dtype: Any = np.float32) -> dict[str, np.ndarray]:
        """Return q, and the scale and zero point of the right shape."""
        size = () if self.axis is None else (self.integers.shape[self.axis],)
        found = {"q": self.integers, "s": rng.uniform(0.01, 0.05, size).astype(dtype)}
        if self.zero_point is not None:
            found["z"] = np.full(size, self.zero_point, self.integers.dtype)
        return found

    def node(self) -> NodeProto:
        """Return the DequantizeLinear: q, s, z -> w."""
        names = ["q", "s"] if self.zero_point is None else ["q", "s", "z"]
        attributes: dict[str, Any] = {} if self.axis is None else {"axis": self.axis}
        return helper.make_node("DequantizeLinear", names, ["w"], name="dequantize", **attributes)


def parameters(rng: np.random.Generator, channels: int, negative: bool = False, dtype: Any = np.float32) -> Any:
    """Return those of a BatchNormalization: no gain is zero; one is negative where asked."""
    scale = rng.uniform(0.5, 1.5, channels)
    scale[1] *= -1 if negative else 1
    fields = {"scale": scale, "shift": rng.normal(size=channels), "mean": rng.normal(size=channels)}
    fields["var"] = rng.uniform(0.5, 2.0, channels)
    return {f"bn.{name}": array.astype(dtype) for name, array in fields.items()}


def signed(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.integers(-127, 128, shape).astype(np.int8)


def unsigned(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.integers(0, 256, shape).astype(np.uint8)


def conv(
    stored: Stored, negative: bool = False, bias: Any = None, opset: int = 17, seed: int = 0, **attributes: Any
) -> onnx.ModelProto:
    """Make x -> Conv with a stored weight -> BatchNormalization -> Relu -> y."""
    rng = np.random.default_rng(seed)
    operands = ["x", "w"] if bias is None else ["x", "w", "b"]
    nodes = [
        stored.node(),
        helper.make_node("Conv", operands, ["c"], name="conv", pads=[1] * 4, **attributes),
        batchnorm("c", "n"),
        helper.make_node("Relu", ["n"], ["y"]),
    ]
    constants = stored.constants(rng) | parameters(rng, OUTPUTS, negative) | ({} if bias is None else {"b": bias})
    return model(nodes, {"x": ["n", INPUTS, 5, "width"]}, ["y"], constants, opset, np.float32)


def picture() -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(1).normal(size=(2, INPUTS, 5, 7)).astype(np.float32)}


def assert_same_optimised(source: onnx.ModelProto, result: onnx.ModelProto, inputs: Any) -> None:
    """Check that ONNX Runtime, all of its optimisations on, gives what the source gives without them.

    Where it computes the source with integers (MatMulNBits), the result may be as far off as that is.
    """
    ((exact,), (wanted,), (got,)) = (run32(source, inputs), run32(source, inputs, True), run32(result, inputs, True))
    allowed = max(1e-5 * max(1.0, float(np.abs(exact).max())), float(np.abs(wanted - exact).max()))
    assert np.abs(got - exact).max() <= allowed


def constant(proto: onnx.ModelProto, name: str) -> np.ndarray:
    (found,) = [one for one in proto.graph.initializer if one.name == name]
    return numpy_helper.to_array(found)


KERNEL = (OUTPUTS, INPUTS, 3, 3)


def stored_forms() -> dict[str, Stored]:
    rng = np.random.default_rng(3)
    return {
        "int8, a scale for each channel": Stored(signed(rng, *KERNEL)),
        "int8, one scale": Stored(signed(rng, *KERNEL), axis=None),
        "int8 without a zero point": Stored(signed(rng, *KERNEL), zero_point=None),
        "uint8 around 128": Stored(unsigned(rng, *KERNEL), zero_point=128),
        "uint8 around 128, one scale": Stored(unsigned(rng, *KERNEL), axis=None, zero_point=128),
        "uint8 around 3": Stored(unsigned(rng, *KERNEL), zero_point=3),
        "uint8 without a zero point": Stored(unsigned(rng, *KERNEL), zero_point=None),
        "uint8, one scale and no zero point": Stored(unsigned(rng, *KERNEL), axis=None, zero_point=None),
    }
