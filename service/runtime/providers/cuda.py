"""CUDA: everything about it that the service knows.

Run on an H100 and an H200; where there is a GPU, tests/service/runtime/test_cuda.py runs it.

ONNX Runtime's wheel brings no CUDA: its libraries come from the packages that the extra `gpu` installs, and are loaded
before a session is opened. Where one is missing, ONNX Runtime opens the session on the CPU and raises nothing.
"""

from __future__ import annotations

import logging
from contextlib import redirect_stdout
from io import StringIO

from normfold.service.runtime.providers.session_request import Wish

logger = logging.getLogger(__name__)

_DEFAULTS = {
    # An exhaustive search of cuDNN's algorithms would run again for every new shape, while somebody waits.
    "cudnn_conv_algo_search": "HEURISTIC",
    # Copies on a stream of their own may race with the kernels that read them.
    "do_copy_in_default_stream": "1",
    # TF32 keeps 10 bits of a float32's 23: the proof that came with the bundle would no longer hold.
    "use_tf32": "0",
}


def options(wish: Wish) -> dict[str, str]:
    """Return our options; `gpu_mem_limit` (bytes, of one session) and the like are the user's to add."""
    return {"device_id": str(wish.device_id), **_DEFAULTS}


def load_libraries() -> str:
    """Load CUDA and cuDNN from where pip put them, or from the system.

    Returns:
        What could not be loaded, in ONNX Runtime's words, for an error; empty if all is there.
    """
    import onnxruntime

    if not hasattr(onnxruntime, "preload_dlls"):
        return ""
    said = StringIO()
    with redirect_stdout(said):  # it prints, and standard output is for `--json`
        onnxruntime.preload_dlls()
    lines = [line.strip() for line in said.getvalue().splitlines() if line.strip()]
    for line in lines:
        logger.debug("%s", line)
    return next((line for line in lines if line.startswith("Failed to load")), "")


def warmed_sizes(max_batch_size: int) -> tuple[int, ...]:
    """Return the batch sizes that are run while loading, ascending; a batch is padded with zeros to the next of them.

    No shape is to be new while somebody waits: cuDNN plans for it, and the arena takes memory. Powers of two waste less
    than half of a run.
    """
    sizes = [1]
    while 2 * sizes[-1] < max_batch_size:
        sizes.append(2 * sizes[-1])
    return tuple(sizes) if max_batch_size <= 1 else (*sizes, max_batch_size)
