"""One ONNX Runtime session: everything that depends on the provider is in this file.

ONNX Runtime falls back from CUDA to the CPU with only a log line, and `get_available_providers()` lists CUDA where its
libraries are missing. So the providers got are compared with those asked for after the session is open.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy.typing as npt

from contract.runtime import require_onnxruntime
from service.errors import BundleError, ProviderError, RunError, WireError

Array = npt.NDArray[Any]

logger = logging.getLogger(__name__)

_CPU, _CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"

# HEURISTIC: an exhaustive search would run again for every new batch size.
_CUDA_OPTIONS = {"cudnn_conv_algo_search": "HEURISTIC", "do_copy_in_default_stream": "1"}

_DATATYPES = {
    "tensor(bool)": "BOOL",
    **{f"tensor({sign}int{bits})": f"{sign}int{bits}".upper() for sign in ("", "u") for bits in (8, 16, 32, 64)},
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": "BYTES",
}


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
        import onnxruntime

        self._options = onnxruntime.RunOptions()
        if self.is_set:
            self._options.terminate = True
        return self._options


class Session:
    """An open network. `run` may be called from several threads at once; it releases the GIL while it computes.

    Attributes:
        inputs: name to (datatype, shape); the datatype is the Open Inference Protocol's, or ONNX Runtime's own words
            for what the protocol cannot name; -1 for a free size.
        outputs: likewise.
        provider: `cpu` or `cuda`: what was got.
    """

    def __init__(self, session: Any) -> None:
        from onnxruntime.capi.onnxruntime_pybind11_state import InvalidArgument

        self._session, self._invalid_argument = session, InvalidArgument
        self.inputs = {value.name: _describe(value) for value in session.get_inputs()}
        self.outputs = {value.name: _describe(value) for value in session.get_outputs()}
        self.provider = "cuda" if session.get_providers()[0] == _CUDA else "cpu"

    def run(self, tensors: Mapping[str, Array], outputs: Sequence[str], cancel: Cancel | None = None) -> list[Array]:
        """Run the network once.

        Args:
            tensors: one array for each input.
            outputs: names of those to compute.
            cancel: stops this run.

        Raises:
            WireError: ONNX Runtime refused the tensors.
            RunError: the network failed, or was stopped.
        """
        options = None if cancel is None else cancel.run_options()
        try:
            results: list[Array] = self._session.run(outputs, tensors, options)
        except self._invalid_argument as error:
            raise WireError(f"The network does not take these tensors: {_first_line(error)}") from error
        except Exception as error:
            raise RunError(_first_line(error)) from error
        return results


def open_session(path: Path, provider: str, intra_op_threads: int, arena: bool = True) -> Session:
    """Open a network on the provider asked for.

    The model is opened from its path, never from bytes: from bytes, other threads stall for tens of milliseconds.

    Args:
        path: the ONNX file.
        provider: `cpu`, `cuda`, or `auto`, which takes CUDA where it works, and otherwise the CPU.
        intra_op_threads: threads within one run.
        arena: keep the memory of a run on the CPU for the next one, and never give it back.

    Raises:
        RuntimePackageError: no ONNX Runtime is installed, or two are.
        ProviderError: `cuda` was asked for and not got.
        BundleError: ONNX Runtime cannot open the file.
    """
    require_onnxruntime()
    import onnxruntime

    if provider == "cpu" or (provider == "auto" and _CUDA not in onnxruntime.get_available_providers()):
        return Session(_open(path, [_CPU], intra_op_threads, arena))
    if _CUDA not in onnxruntime.get_available_providers():
        raise ProviderError(
            "cuda",
            "this ONNX Runtime is built without it",
            "uninstall onnxruntime and pip install 'normfold[gpu]', or ask for cpu or auto.",
        )
    if hasattr(onnxruntime, "preload_dlls"):
        onnxruntime.preload_dlls()
    session = Session(_open(path, [(_CUDA, _CUDA_OPTIONS), _CPU], intra_op_threads, arena))
    if session.provider != "cuda":
        if provider == "cuda":
            raise ProviderError(
                "cuda",
                "ONNX Runtime fell back to the CPU",
                "check the driver and the CUDA and cuDNN libraries (pip install 'normfold[gpu]'), or ask for auto.",
            )
        bundle = "/".join(path.parts[-3:-1])
        logger.warning("CUDA does not work here: %s runs on the CPU, as provider 'auto' allows.", bundle)
    return session


def _open(path: Path, providers: list[Any], intra_op_threads: int, arena: bool) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = intra_op_threads
    options.enable_cpu_mem_arena = arena
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # a server's idle threads must not burn
    options.log_severity_level = 3  # errors only: they come back as exceptions, and the log is JSON
    try:
        return onnxruntime.InferenceSession(path, options, providers=providers)
    except Exception as error:
        raise BundleError(f"ONNX Runtime cannot open {path.name!r}: {_first_line(error)}") from error


def _describe(value: Any) -> tuple[str, tuple[int, ...]]:
    shape = tuple(size if isinstance(size, int) else -1 for size in value.shape)
    return _DATATYPES.get(value.type, value.type), shape


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
