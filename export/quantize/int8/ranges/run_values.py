"""Run a network under ONNX Runtime and look at the values inside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx_ir as ir

from normfold.contract.onnxruntime_package import require_onnxruntime
from normfold.export.arrays import Tensor
from normfold.export.errors import QuantizeError
from normfold.export.onnx_io.runtime_check import in_one_line


def float_values(graph: ir.Graph) -> list[ir.Value]:
    """Return the float32 values that a graph's nodes make, in order."""
    return [value for node in graph for value in node.outputs if value.name and value.dtype == ir.DataType.FLOAT]


@contextmanager
def run_errors_as_quantize_errors() -> Iterator[None]:
    """Raise a QuantizeError for whatever ONNX Runtime raises: a network of a fixed size in its body, for example."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 -- ONNX Runtime raises many kinds
        raise QuantizeError(f"The network cannot be run: {in_one_line(error)}") from None


class ValueRunner:
    """A network that gives values from inside it.

    Args:
        model: is left as it is.
        names: of the values; without any, nothing is run: ONNX Runtime opens no network without outputs.
    """

    def __init__(self, model: ir.Model, names: Sequence[str]) -> None:
        require_onnxruntime()
        import onnxruntime

        self._session: Any = None
        self.inputs: list[str] = []
        proto = ir.to_proto(model)
        infos = {info.name: info for info in (*proto.graph.value_info, *proto.graph.output)}
        del proto.graph.output[:]
        proto.graph.output.extend(infos[name] for name in names if name in infos)
        if not proto.graph.output:
            return
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(
            proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        self.inputs = [value.name for value in self._session.get_inputs()]

    def run(self, inputs: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
        """Yield each value by its name."""
        if self._session is None:
            return
        names = [value.name for value in self._session.get_outputs()]
        results = self._session.run(names, {name: inputs[name] for name in self.inputs})
        yield from zip(names, map(np.asarray, results), strict=True)
