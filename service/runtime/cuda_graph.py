"""A CUDA graph of one session for inputs of one shape: all kernels of a run are launched at once.

A replay reads and writes the addresses of the capture. So inputs and outputs are bound to fixed memory on the GPU; each
run copies its inputs there, and its outputs to the host. ONNX Runtime keeps a graph for the thread that captured it, so
that capture and replays are in one thread of their own.

Source: ONNX Runtime's documentation of the CUDA execution provider, `enable_cuda_graph`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from typing import Any

import numpy as np
import numpy.typing as npt

from normfold.service.runtime.capture_lock import CAPTURE_LOCK

Array = npt.NDArray[Any]

DEVICE = "cuda"
OPTIONS = {"enable_cuda_graph": "1"}
"""Of the session whose graph is captured; it must run nothing else."""

_CAPTURE_RUNS = 4
"""ONNX Runtime captures after two runs that allocate; it starts them itself within the first, in most versions."""


class CudaGraph:
    """A captured graph.

    Args:
        session: ONNX Runtime's, opened with OPTIONS.
        tensors: inputs of the shapes to capture.
        results: outputs for `tensors`, all of the network; their shapes and dtypes count.
        device_id: index of the GPU.
        thread: one thread, which captures and replays.

    Raises:
        RuntimeError and others of ONNX Runtime: without memory, or if the network cannot be captured.
    """

    def __init__(
        self,
        session: Any,
        tensors: Mapping[str, Array],
        results: Mapping[str, Array],
        device_id: int,
        thread: Executor,
    ) -> None:
        from onnxruntime import OrtValue

        self._session, self._thread = session, thread
        with CAPTURE_LOCK.running():
            self._inputs = {
                name: OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array), DEVICE, device_id)
                for name, array in tensors.items()
            }
            self._outputs = {
                name: OrtValue.ortvalue_from_shape_and_type(array.shape, array.dtype, DEVICE, device_id)
                for name, array in results.items()
            }
            self._binding = session.io_binding()
            for name, value in self._inputs.items():
                self._binding.bind_ortvalue_input(name, value)
            for name, value in self._outputs.items():
                self._binding.bind_ortvalue_output(name, value)
        self._shapes = {name: array.shape for name, array in tensors.items()}
        thread.submit(self._capture).result()

    @property
    def rows(self) -> int:
        """Size of the first axis of the first input; 1 for a scalar."""
        shape = next(iter(self._shapes.values()))
        return shape[0] if shape else 1

    def fits(self, tensors: Mapping[str, Array]) -> bool:
        """Return whether all inputs have the shapes of the capture."""
        return all(tensors[name].shape == shape for name, shape in self._shapes.items())

    def run(self, tensors: Mapping[str, Array], outputs: Sequence[str]) -> list[Array]:
        """Replay the graph on inputs that fit; return an array for each of `outputs`, in their order."""
        return self._thread.submit(self._replay, tensors, outputs).result()

    def _capture(self) -> None:
        with CAPTURE_LOCK.capturing():
            for _ in range(_CAPTURE_RUNS):
                self._session.run_with_iobinding(self._binding)

    def _replay(self, tensors: Mapping[str, Array], outputs: Sequence[str]) -> list[Array]:
        with CAPTURE_LOCK.running():
            for name, value in self._inputs.items():
                value.update_inplace(np.ascontiguousarray(tensors[name]))
            self._session.run_with_iobinding(self._binding)
            self._binding.synchronize_outputs()
            return [_own(self._outputs[name].numpy()) for name in outputs]


def _own(array: Array) -> Array:
    """Return an array with memory of its own: the next replay overwrites what a view shows."""
    return array if array.flags.owndata else array.copy()
