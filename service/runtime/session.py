"""One open ONNX Runtime session: its inputs, its outputs, its placement, its runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from normfold.contract.errors import first_line
from normfold.service.codec.json_tensors import DTYPES
from normfold.service.errors import InvalidRequestError, RunError
from normfold.service.runtime.capture_lock import CAPTURE_LOCK
from normfold.service.runtime.cuda_graph import OPTIONS, CudaGraph
from normfold.service.runtime.providers import cuda
from normfold.service.runtime.providers.placement import Placement
from normfold.service.runtime.providers.session_request import Options
from normfold.service.runtime.providers.table import PROVIDERS
from normfold.service.runtime.run_options import Cancel, quiet_options

Array = npt.NDArray[Any]

_DATATYPES = {
    "tensor(bool)": "BOOL",
    **{f"tensor({sign}int{bits})": f"{sign}int{bits}".upper() for sign in ("", "u") for bits in (8, 16, 32, 64)},
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": "BYTES",
}


class Session:
    """An open network. `run` may be called from several threads at once; it releases the GIL while it computes.

    Args:
        reopen: opens the same network again, with some more provider options.
        session: ONNX Runtime's.
        placement: its provider, and the nodes that each provider runs.
        has_arena: whether the CPU provider keeps the memory of its runs.

    Attributes:
        inputs: name to (datatype, shape). The datatype is the Open Inference Protocol's, or ONNX Runtime's type where
            the protocol has no name for it; -1 in the shape is a free size.
        outputs: likewise.
        placement: its provider, and the nodes that each provider runs.
    """

    def __init__(
        self, reopen: Callable[[Options], Session], session: Any, placement: Placement, has_arena: bool = True
    ) -> None:
        from onnxruntime.capi.onnxruntime_pybind11_state import InvalidArgument

        self._reopen, self._session, self._invalid_argument = reopen, session, InvalidArgument
        self._by_batch_size: dict[int, Any] = {}
        self._graphs: dict[int, CudaGraph] = {}
        self._graph_thread: ThreadPoolExecutor | None = None
        self.inputs = {value.name: _describe(value) for value in session.get_inputs()}
        self.outputs = {value.name: _describe(value) for value in session.get_outputs()}
        self.placement = placement
        self._has_arena = has_arena
        self._default_options = quiet_options()

    @property
    def provider(self) -> str:
        """Short name of the provider that runs the network."""
        return self.placement.provider

    def run(self, tensors: Mapping[str, Array], outputs: Sequence[str], cancel: Cancel | None = None) -> list[Array]:
        """Run the network once.

        Args:
            tensors: one array for each input.
            outputs: names of those to compute.
            cancel: stops this run.

        Returns:
            One array for each of `outputs`, in their order.

        Raises:
            InvalidRequestError: ONNX Runtime rejected the tensors.
            RunError: the network failed, or the run was cancelled.
        """
        options = self._default_options if cancel is None else cancel.run_options()
        try:
            if not self.placement.runs_on_host:
                return self._run_on_accelerator(tensors, outputs, options)
            results: list[Array] = self._session.run(outputs, tensors, options)
        except self._invalid_argument as error:
            raise InvalidRequestError(f"The network rejects these tensors: {first_line(error)}") from error
        except Exception as error:
            raise RunError(first_line(error)) from error
        return results

    def warmup_order(self, max_batch_size: int) -> tuple[int, ...]:
        """Return the batch sizes that must be run first, in order; empty if the order does not matter."""
        return PROVIDERS[self.provider].warmup_order(max_batch_size)

    def warmup_sizes(self, max_batch_size: int) -> tuple[int, ...]:
        """Return the batch sizes to warm up and to pad to; empty where a new size costs nothing."""
        return () if self.placement.runs_on_host else cuda.warmup_sizes(max_batch_size)

    @property
    def caches_last_shape_only(self) -> bool:
        """Whether the provider keeps its plan for the last shape only, so that a change of shape may cost time."""
        return PROVIDERS[self.provider].caches_last_shape_only

    def open_per_batch_size(self, sizes: Sequence[int]) -> None:
        """Open a session for each batch size; the largest size keeps the first session.

        The first session also runs every other size. With no sizes it runs all of them, as before the first call.

        Raises:
            ProviderError, BundleLoadError: ONNX Runtime cannot open another session.
        """
        self._by_batch_size = {}
        self._by_batch_size = {rows: self._reopen({})._session for rows in sizes[:-1]}

    def reopen(self, options: Options) -> Session:
        """Open the network again, with some more provider options; the user's own override them.

        Raises:
            ProviderError, BundleLoadError: ONNX Runtime cannot open it so.
        """
        return self._reopen(options)

    def capture_graph(self, tensors: Mapping[str, Array]) -> CudaGraph:
        """Capture a CUDA graph of the network, in a session of its own, for inputs of these shapes.

        Raises:
            ProviderError, BundleLoadError: ONNX Runtime cannot open such a session.
            RunError: the graph cannot be captured.
        """
        results = dict(zip(self.outputs, self.run(tensors, list(self.outputs)), strict=True))
        session = self._reopen(OPTIONS)._session
        if self._graph_thread is None:
            self._graph_thread = ThreadPoolExecutor(1, thread_name_prefix="normfold-cuda-graph")
        device_id = int(self.placement.options.get("device_id", 0))
        try:
            return CudaGraph(session, tensors, results, device_id, self._graph_thread)
        except Exception as error:
            raise RunError(first_line(error)) from error

    def use_graph(self, graph: CudaGraph) -> None:
        """Replay this graph for all inputs that it fits."""
        self._graphs[graph.rows] = graph
        self._by_batch_size.pop(graph.rows, None)

    def _run_on_accelerator(self, tensors: Mapping[str, Array], outputs: Sequence[str], options: Any) -> list[Array]:
        first = next(iter(tensors.values()))
        rows = len(first) if first.ndim else 1
        graph = self._graphs.get(rows)
        if graph is not None and graph.fits(tensors) and not options.terminate:
            return graph.run(tensors, outputs)
        session = self._by_batch_size.get(rows, self._session)
        with CAPTURE_LOCK.running():
            results: list[Array] = session.run(outputs, tensors, options)
        return results

    def shrink_arena(self) -> None:
        """Release the free memory of the CPU's arena, which otherwise keeps its peak; other runs may go on.

        ONNX Runtime does so at the end of a run only, so this starts a run and stops it before its first node.

        Raises:
            RunError: the run failed.
        """
        if not self._has_arena or any(datatype not in DTYPES for datatype, _ in self.inputs.values()):
            return
        options = quiet_options()
        options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        options.terminate = True
        tensors = {
            name: np.full([max(size, 1) for size in shape], "" if datatype == "BYTES" else 0, DTYPES[datatype])
            for name, (datatype, shape) in self.inputs.items()
        }
        try:
            self._session.run(None, tensors, options)
        except Exception as error:
            if "terminate flag" not in str(error):
                raise RunError(first_line(error)) from error


def _describe(value: Any) -> tuple[str, tuple[int, ...]]:
    shape = tuple(size if isinstance(size, int) else -1 for size in value.shape)
    return _DATATYPES.get(value.type, value.type), shape
