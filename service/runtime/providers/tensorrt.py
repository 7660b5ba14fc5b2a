"""TensorRT: engines built for one network on one GPU, kept on disk.

Written from ONNX Runtime's documentation; never run by us. What TensorRT cannot take goes to CUDA, and what CUDA cannot
to the CPU: the placement of the nodes shows it.

ONNX Runtime names a cached engine after the graph's names and not after its weights, so that two versions of one
architecture would share an engine: each bundle, with its options, gets a folder of its own.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from normfold.contract.manifest import MANIFEST_NAME, sha256_of
from normfold.service.runtime.providers.session_request import Wish


def options(wish: Wish) -> dict[str, str]:
    """Return our options; the engine's folder is made if need be.

    Raises:
        OSError: the cache cannot be written.
    """
    # fp16 changes results: whoever wants it asks for it.
    chosen = {"device_id": str(wish.device_id), "trt_fp16_enable": "False"}
    if wish.cache is None:
        return chosen
    engines, timings = engine_folder(wish.cache, wish), wish.cache / "tensorrt" / "timings"
    for folder in (engines, timings):
        folder.mkdir(parents=True, exist_ok=True)
    return {
        **chosen,
        "trt_engine_cache_enable": "True",
        "trt_engine_cache_path": str(engines),
        "trt_timing_cache_enable": "True",
        "trt_timing_cache_path": str(timings),
    }


def engine_folder(cache: Path, wish: Wish) -> Path:
    """Return where the engines of this very network lie: its bytes, the options and ONNX Runtime's version decide."""
    import onnxruntime

    manifest = wish.path.parent / MANIFEST_NAME  # names the sha256 of every file, of weights outside the model too
    facts = [sha256_of(manifest if manifest.exists() else wish.path), onnxruntime.__version__, str(wish.device_id)]
    facts += [f"{name}={value}" for name, value in sorted(wish.options.items())]
    return cache / "tensorrt" / hashlib.sha256("\n".join(facts).encode()).hexdigest()[:32]


def first_sizes(max_batch_size: int) -> tuple[int, ...]:
    """Return the batch sizes to run before any other.

    An engine serves the range of shapes that it has seen, and one outside of it builds it anew, which may take minutes:
    after the smallest and the largest nothing is outside.
    """
    return (1, max_batch_size) if max_batch_size > 1 else (1,)
