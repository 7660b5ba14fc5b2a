"""CUDA: options, libraries and batch sizes. Tested on an H100 and an H200 (tests/service/runtime/test_cuda.py).

ONNX Runtime's wheel has no CUDA: its libraries come from the packages that the extra `gpu` installs, and are loaded
before a session is opened. Where one is missing, ONNX Runtime opens the session on the CPU and raises nothing.
"""

from __future__ import annotations

import logging
from contextlib import redirect_stdout
from io import StringIO

from normfold.service.runtime.providers.session_request import SessionRequest

logger = logging.getLogger(__name__)

_DEFAULTS = {
    # An exhaustive search of cuDNN's algorithms would run again for every new shape, while a request waits.
    "cudnn_conv_algo_search": "HEURISTIC",
    # Copies on a separate stream may race with the kernels that read them.
    "do_copy_in_default_stream": "1",
}


def options(request: SessionRequest) -> dict[str, str]:
    """Return the default options; the user may add others, such as `gpu_mem_limit` (bytes, of one session)."""
    # TF32 keeps 10 of float32's 23 mantissa bits: the bundle's verification would no longer hold. ONNX Runtime's own
    # default is 1.
    return {"device_id": str(request.device_id), **_DEFAULTS, "use_tf32": str(int(request.tf32))}


def load_libraries() -> str:
    """Load CUDA and cuDNN from pip's packages, or from the system.

    Returns:
        ONNX Runtime's message on the first library that could not be loaded; empty if all were.
    """
    import onnxruntime

    if not hasattr(onnxruntime, "preload_dlls"):
        return ""
    messages = StringIO()
    with redirect_stdout(messages):  # it prints, and standard output is for `--json`
        onnxruntime.preload_dlls()
    lines = [line.strip() for line in messages.getvalue().splitlines() if line.strip()]
    for line in lines:
        logger.debug("%s", line)
    return next((line for line in lines if line.startswith("Failed to load")), "")


def warmup_sizes(max_batch_size: int) -> tuple[int, ...]:
    """Return the batch sizes to run while loading, ascending; a batch is padded with zeros to the next of them.

    No request should bring a new shape: cuDNN plans for it, and the arena allocates. With powers of two the padding is
    less than half of a run.
    """
    sizes = [1]
    while 2 * sizes[-1] < max_batch_size:
        sizes.append(2 * sizes[-1])
    return tuple(sizes) if max_batch_size <= 1 else (*sizes, max_batch_size)
