"""One open ONNX Runtime session: tensors in, tensors out, and what it says of itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from normfold.service.codec.json_tensors import DTYPES
from normfold.service.errors import InvalidRequestError, RunError
from normfold.service.runtime.providers import cuda
from normfold.service.runtime.providers.ort_messages import first_line
from normfold.service.runtime.providers.placement import Place
from normfold.service.runtime.providers.table import PROVIDERS

Array = npt.NDArray[Any]

_DATATYPES = {
    "tensor(bool)": "BOOL",
    **{f"tensor({sign}int{bits})": f"{sign}int{bits}".upper() for sign in ("", "u") for bits in (8, 16, 32, 64)},
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": "BYTES",
}


_FATAL = 4
"""ONNX Runtime's severity above errors."""


def _quiet_options() -> Any:
    """Return options of a run with which ONNX Runtime logs nothing: what it says comes back as an exception."""
    import onnxruntime

    options = onnxruntime.RunOptions()
    options.log_severity_level = _FATAL
    return options


class Cancel:
    """Stops a run, from another thread, between two of its nodes."""

    def __init__(self) -> None:
        self._options: Any = None
        self.is_set = False

    def set(self) -> None:
        """Stop the run, or keep it from starting."""
        self.is_set = True
        if self._options is not None:
            self._options.terminate = True

    def run_options(self) -> Any:
        """Return ONNX Runtime's options for the one run that this stops; they are never used again."""
        self._options = _quiet_options()
        if self.is_set:
            self._options.terminate = True
        return self._options


class Session:
    """An open network. `run` may be called from several threads at once; it releases the GIL while it computes.

    Args:
        open_again: opens ONNX Runtime's session once more, for `keep_apart`.
        session: ONNX Runtime's.
        place: where it runs.
        keeps_memory: whether its runs on the CPU keep what they took.

    Attributes:
        inputs: name to (datatype, shape); the datatype is the Open Inference Protocol's, or ONNX Runtime's own words
            for what the protocol cannot name; -1 for a free size.
        outputs: likewise.
        place: where it runs.
    """

    def __init__(self, open_again: Callable[[], Any], session: Any, place: Place, keeps_memory: bool = True) -> None:
        from onnxruntime.capi.onnxruntime_pybind11_state import InvalidArgument

        self._open_again, self._session, self._invalid_argument = open_again, session, InvalidArgument
        self._by_rows: dict[int, Any] = {}
        self.inputs = {value.name: _describe(value) for value in session.get_inputs()}
        self.outputs = {value.name: _describe(value) for value in session.get_outputs()}
        self.place = place
        self._keeps_memory = keeps_memory
        self._usual_options = _quiet_options()

    @property
    def provider(self) -> str:
        """What was got, by our name."""
        return self.place.provider

    def run(self, tensors: Mapping[str, Array], outputs: Sequence[str], cancel: Cancel | None = None) -> list[Array]:
        """Run the network once.

        Args:
            tensors: one array for each input.
            outputs: names of those to compute.
            cancel: stops this run.

        Raises:
            InvalidRequestError: ONNX Runtime refused the tensors.
            RunError: the network failed, or was stopped.
        """
        options = self._usual_options if cancel is None else cancel.run_options()
        try:
            results: list[Array] = self._session_of(tensors).run(outputs, tensors, options)
        except self._invalid_argument as error:
            raise InvalidRequestError(f"The network does not take these tensors: {first_line(error)}") from error
        except Exception as error:
            raise RunError(first_line(error)) from error
        return results

    def first_sizes(self, max_batch_size: int) -> tuple[int, ...]:
        """Return the batch sizes to run before any other."""
        return PROVIDERS[self.provider].first_sizes(max_batch_size)

    def warmed_sizes(self, max_batch_size: int) -> tuple[int, ...]:
        """Return the batch sizes to warm and to pad to; none where a new size costs nothing."""
        return () if self.place.runs_on_host else cuda.warmed_sizes(max_batch_size)

    @property
    def plans_for_one_shape(self) -> bool:
        """Whether a shape that was run before may be dear again behind another one."""
        return PROVIDERS[self.provider].plans_for_one_shape

    def keep_apart(self, sizes: Sequence[int]) -> None:
        """Give every number of rows a session of its own; the largest keeps the one that is open.

        That one also runs what is of none of these sizes. Given none, it runs everything, as at first.

        Raises:
            ProviderError, BundleError: ONNX Runtime opens no more of them.
        """
        self._by_rows = {}
        self._by_rows = {rows: self._open_again() for rows in sizes[:-1]}

    def _session_of(self, tensors: Mapping[str, Array]) -> Any:
        if not self._by_rows:
            return self._session
        first = next(iter(tensors.values()))
        return self._by_rows.get(len(first), self._session) if first.ndim else self._session

    def give_back_memory(self) -> None:
        """Give back what large runs left in the CPU's arena, which keeps all that it ever had; others may run on.

        ONNX Runtime does that behind a run alone, so this starts one and stops it before its first node.

        Raises:
            RunError: it failed.
        """
        if not self._keeps_memory or any(datatype not in DTYPES for datatype, _ in self.inputs.values()):
            return
        options = _quiet_options()
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
